"""A list of the images that an earlier look saw, and of no others."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edge_stl.images._identities import Identities, identity
from edge_stl.images._image_list import Found, ImageListBuilder
from edge_stl.images._left_out import Ledger
from edge_stl.images._text import normal


class OnlyThese(ImageListBuilder):
    """Takes an image if it is one of those, unchanged; leaves the others out as ``not_yet``."""

    def __init__(
        self, root: Path, classes: Sequence[str], *, only: Identities, left_out: Ledger
    ) -> None:
        """Start without an image.

        Args:
            root: The folder.
            classes: The plan's.
            only: (N,) sorted: what `identities` gave.
            left_out: Gets the other files.
        """
        super().__init__(root, len(classes))
        self._labels = [normal(name) for name in classes]
        self._only, self._left_out = only, left_out

    def add(self, label: int, file: Found) -> None:
        """Take an image, or leave it out.

        Args:
            label: 0..classes-1.
            file: What the scan saw.
        """
        if contains(self._only, identity(self._labels[label], file)):
            super().add(label, file)
        else:
            self._left_out.note(file.path, "not_yet")


def contains(known: Identities, number: int) -> bool:
    """Return whether a number, 0..2^64 - 1, is in a sorted array."""
    at = int(np.searchsorted(known, np.uint64(number)))
    return at < len(known) and int(known[at]) == number

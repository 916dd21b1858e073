"""What a scan gives: relative paths, labels, and what was left out."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_stl.images._left_out import Ledger, LeftOutFiles
from edge_stl.images._paths import Paths
from edge_stl.images._sorter import Sorter


class Found(NamedTuple):
    """One image file as a scan saw it; compared by its path first, which is the order of a list."""

    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, eq=False)
class ImageList:
    """The images of one folder, in an order that no file system and no locale changes.

    Attributes:
        root: The folder as it was given.
        paths: Relative POSIX paths, sorted by label and then as text; N of them.
        labels: (N,) int64, indices into the plan's classes; read-only.
        left_out: How many files were left out, by reason: a key of `REASONS` or ``no_class``
            (an image beside the class folders).
        digest: sha256 (hex) over path, label, size in bytes and modification time of every
            image, in order. Reading no pixel, it changes when a file does.
        left_out_files: The files that ``left_out`` counts, sorted as text.
    """

    root: Path
    paths: Sequence[str]
    labels: npt.NDArray[np.int64]
    left_out: dict[str, int] = field(default_factory=dict)
    digest: str = ""
    left_out_files: LeftOutFiles = field(default_factory=LeftOutFiles)

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> Path:
        """Give the whole path of one image.

        Args:
            index: 0..N-1.

        Returns:
            ``root`` and the relative path.
        """
        return self.root / self.paths[index]


class ImageListBuilder:
    """Takes images in any order and makes the list of them; holds a million in some megabytes."""

    def __init__(self, root: Path, classes: int) -> None:
        """Start without an image.

        Args:
            root: The folder.
            classes: How many the plan has.
        """
        self._root = root
        self._by_label = [Sorter(3) for _ in range(classes)]

    def add(self, label: int, file: Found) -> None:
        """Take an image.

        Args:
            label: 0..classes-1.
            file: What the scan saw.
        """
        path, size, mtime_ns = file
        self._by_label[label].add(path, str(size), str(mtime_ns))

    def build(self, left_out: Ledger) -> ImageList:
        """Sort, number and digest the images; call it once.

        Args:
            left_out: What was left out.

        Returns:
            The list.
        """
        digest = hashlib.sha256()
        counts = [len(files) for files in self._by_label]

        def sorted_paths() -> Iterator[str]:
            for label, files in enumerate(self._by_label):
                for path, size, mtime_ns in files.drain():
                    # a file name holds no NUL, so no two lists give the same bytes
                    line = f"{path}\0{label} {size} {mtime_ns}\n"
                    digest.update(line.encode("utf-8", "surrogateescape"))
                    yield path

        paths = Paths(sorted_paths())
        labels = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
        labels.setflags(write=False)
        reasons = dict(sorted(left_out.counts.items()))
        return ImageList(self._root, paths, labels, reasons, digest.hexdigest(), left_out.files())

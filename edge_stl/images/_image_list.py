"""What a scan gives: relative paths, labels, and what was left out."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt


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
    """

    root: Path
    paths: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    left_out: dict[str, int] = field(default_factory=dict)
    digest: str = ""

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

    @classmethod
    def of(cls, root: Path, by_label: Iterable[list[Found]], left_out: Counter[str]) -> Self:
        """Sort, number and digest what a scan found.

        Args:
            root: The folder.
            by_label: For every class, in the plan's order, its files in any order. Each list is
                emptied on the way: a million files are held once, not twice.
            left_out: Counts by reason.

        Returns:
            The list.
        """
        digest = hashlib.sha256()
        paths: list[str] = []
        counts: list[int] = []
        for label, files in enumerate(by_label):
            files.sort()
            for path, size, mtime_ns in files:
                # a file name holds no NUL, so no two lists give the same bytes
                digest.update(path.encode("utf-8", "surrogateescape"))
                digest.update(b"\0%d %d %d\n" % (label, size, mtime_ns))
                paths.append(path)
            counts.append(len(files))
            files.clear()
        labels = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
        labels.setflags(write=False)
        reasons = dict(sorted(left_out.items()))
        return cls(root, tuple(paths), labels, reasons, digest.hexdigest())

"""One number per image file, by which two looks at a folder are compared.

A service looks at its folder every minute and has to tell how many images are new. The number is
the first 64 bits of BLAKE2b over path, label, size and modification time: a million files are 8 MB,
and that two of them are taken for one has a chance of 3 in 10^8 (n^2 / 2^65).
"""

import hashlib
import os
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_stl.images._image_list import Found
from edge_stl.images._labels_csv import LABELS_CSV, read_labels
from edge_stl.images._left_out import Ledger
from edge_stl.images._text import normal
from edge_stl.images._walk import found, top_level, walk


Identities = npt.NDArray[np.uint64]

_BYTES = 8
_OFTEN = 1024


def identities(
    folder: str | os.PathLike[str], *, told: Callable[[], object] = lambda: None
) -> Identities:
    """Look at a folder of images as `scan` does, holding 8 bytes per image and no name.

    No image is opened, and no plan is asked: a class folder that no plan knows is looked at too.

    Args:
        folder: a folder of class folders, or with ``labels.csv``.
        told: called now and then, since a million files take a while.

    Returns:
        (N,) uint64, sorted, each once: `identity` of every image.

    Raises:
        DataError: the folder is none, or its ``labels.csv`` is no such table.
        ResourceError: it may not be read.
    """
    root = Path(folder)
    numbers = array("Q")
    for label, file in _files(root):
        numbers.append(identity(label, file))
        if len(numbers) % _OFTEN == 0:
            told()
    return np.unique(np.frombuffer(numbers, np.uint64))


def identity(label: str, file: Found) -> int:
    """Return the number of one image, 0..2^64 - 1; another one once the file has changed.

    Args:
        label: the class's name in Unicode normal form C.
        file: as a scan saw it.
    """
    path = file.path.encode("utf-8", "surrogateescape")
    name = label.encode("utf-8", "surrogateescape")
    # Two numbers, a path that holds no NUL, and the rest: no two images give the same bytes.
    text = b"%d %d\0%b\0%b" % (file.size, file.mtime_ns, path, name)
    return int.from_bytes(hashlib.blake2b(text, digest_size=_BYTES).digest(), "little")


def _files(root: Path) -> Iterator[tuple[str, Found]]:
    folders, files = top_level(root)
    left_out = Ledger()
    if LABELS_CSV in files:
        for _, name, label in read_labels(root):
            file = found(root, name, left_out)
            if file is not None:
                yield label, file
        return
    names = [normal(name) for name in folders]
    for index, file in walk(root, list(zip(folders, range(len(names)), strict=True)), left_out):
        yield names[index], file

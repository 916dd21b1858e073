"""MNIST's IDX files, plain or gzip.

A file is four magic bytes (0, 0, 8 for uint8, number of axes), one big-endian uint32 per axis,
then the values, the last axis fastest: images ``(N, 28, 28)``, labels ``(N,)``.
"""

import gzip
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from benchmarks._readers.sets import ImageSet, Source
from benchmarks._readers.store import ImageWriter
from edge_stl.errors import DataError


_PREFIX = {"train": "train", "test": "t10k"}
_SIDE = 28
_MOST_IMAGES = 60_000  # of the larger published file; what a header claims is held against it
_CHUNK = 1 << 20


def find_idx(place: Path, images: ImageSet) -> Source | None:
    """Recognize MNIST's four IDX files in a folder, also in torchvision's ``MNIST/raw``."""
    for folder in (place, place / "MNIST" / "raw"):
        found = {
            (split, kind): _named(folder, prefix=prefix, kind=kind, axes=axes)
            for split, prefix in _PREFIX.items()
            for kind, axes in (("images", 3), ("labels", 1))
        }
        if any(found.values()):
            return _source(folder, found=found, images=images)
    return None


def _source(folder: Path, *, found: dict[tuple[str, str], Path | None], images: ImageSet) -> Source:
    present = {key: path for key, path in found.items() if path is not None}
    missing = [f"{_PREFIX[split]}-{kind}" for split, kind in found if (split, kind) not in present]
    if missing:
        raise DataError(
            f"{folder}: the IDX files {', '.join(missing)} are missing; expected images and "
            "labels for train and t10k. Get the set again."
        )

    def write(out: Path) -> None:
        writer = ImageWriter(out, classes=images.classes)
        for split in _PREFIX:
            pixels = read_idx(present[split, "images"], axes=3)
            labels = read_idx(present[split, "labels"], axes=1)
            if len(pixels) != len(labels):
                raise DataError(
                    f"{present[split, 'labels']}: {len(labels)} labels for {len(pixels)} images; "
                    "expected one each. Get the set again."
                )
            for image, label in zip(pixels, labels, strict=True):
                if label >= len(images.classes):
                    raise DataError(
                        f"{present[split, 'labels']}: label {label}; expected 0 to 9. "
                        "Get the set again."
                    )
                writer.pixels(image, split=split, name=images.classes[label])

    return Source(form="IDX files", place=folder, files=tuple(present.values()), write=write)


def _named(folder: Path, *, prefix: str, kind: str, axes: int) -> Path | None:
    # the dot is what some unpackers make of the published name
    for dash in "-.":
        for suffix in ("", ".gz"):
            path = folder / f"{prefix}-{kind}{dash}idx{axes}-ubyte{suffix}"
            if path.is_file():
                return path
    return None


def read_idx(path: Path, *, axes: int) -> npt.NDArray[np.uint8]:
    """Read one IDX file of MNIST.

    Args:
        path: the file; gzip is recognized by its first two bytes.
        axes: 3 for images, 1 for labels.

    Returns:
        ``(N, 28, 28)`` uint8 images or ``(N,)`` uint8 labels.

    Raises:
        DataError: the file is not what its header says, or not what MNIST has.
    """
    with path.open("rb") as stream:
        if stream.read(2) != b"\x1f\x8b":
            stream.seek(0)
            return _read(stream, path=path, axes=axes)
        stream.seek(0)
        try:
            with gzip.GzipFile(fileobj=stream) as plain:
                return _read(plain, path=path, axes=axes)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(
                f"{path}: broken gzip data ({error}); expected a whole file. Get it again."
            ) from error


def _read(stream: BinaryIO | gzip.GzipFile, *, path: Path, axes: int) -> npt.NDArray[np.uint8]:
    head = stream.read(4 + 4 * axes)
    magic = bytes((0, 0, 8, axes))
    if head[:4] != magic:
        raise DataError(
            f"{path}: begins with {head[:4].hex() or 'nothing'}; expected the IDX magic "
            f"{magic.hex()}. Get the file again."
        )
    if len(head) < 4 + 4 * axes:
        raise DataError(
            f"{path}: ends in its header after {len(head)} bytes; expected {4 + 4 * axes}. "
            "Get the file again."
        )
    shape: tuple[int, ...] = struct.unpack(f">{axes}I", head[4:])
    sides = (_SIDE,) * (axes - 1)
    if not 1 <= shape[0] <= _MOST_IMAGES or shape[1:] != sides:
        most = (_MOST_IMAGES, *sides)
        raise DataError(
            f"{path}: the header claims shape {shape}; expected at most {most}. Get the file again."
        )
    wanted = int(np.prod(shape))
    values = _read_up_to(stream, size=wanted + 1)
    if len(values) != wanted:
        more = "more" if len(values) > wanted else str(len(values))
        raise DataError(
            f"{path}: {more} bytes after the header; expected {wanted} for shape {shape}. "
            "Get the file again."
        )
    return np.frombuffer(values, np.uint8).reshape(shape)


def _read_up_to(stream: BinaryIO | gzip.GzipFile, *, size: int) -> bytes:
    """Read at most ``size`` bytes, in pieces: memory follows what is there, not what is claimed."""
    pieces = BytesIO()
    while (left := size - pieces.tell()) and (piece := stream.read(min(left, _CHUNK))):
        pieces.write(piece)
    return pieces.getvalue()

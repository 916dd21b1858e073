"""CIFAR-10's binary and Python batches.

Both keep an image as 3072 bytes: 1024 red, 1024 green, 1024 blue, each 32 rows of 32. A record of
a binary batch is one label byte and such an image; a Python batch is a dict with ``data``
``(N, 3072)`` uint8 and ``labels``, a list of N numbers.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks._readers.pickled import PickledArray, read_pickled, text_of
from benchmarks._readers.sets import ImageSet, Source
from benchmarks._readers.store import ImageWriter
from edge_stl.errors import DataError


_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE
_RECORD = 1 + _PIXELS
_MOST_IMAGES = 10_000  # of a published batch
_MOST_META_BYTES = 4096
_CLASSES = 10

_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
_TEST = "test_batch"

_Batch = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]


def find_binary(place: Path, images: ImageSet) -> Source | None:
    """Recognize the binary batches in a folder or its ``cifar-10-batches-bin``."""
    return _find(
        (place, place / "cifar-10-batches-bin"),
        images=images,
        form="binary batches",
        suffix=".bin",
        meta="batches.meta.txt",
        read=read_binary,
    )


def find_python(place: Path, images: ImageSet) -> Source | None:
    """Recognize the Python batches in a folder or its ``cifar-10-batches-py``."""
    return _find(
        (place, place / "cifar-10-batches-py"),
        images=images,
        form="Python batches",
        suffix="",
        meta="batches.meta",
        read=read_python,
    )


def _find(
    folders: tuple[Path, ...],
    *,
    images: ImageSet,
    form: str,
    suffix: str,
    meta: str,
    read: Callable[[Path], _Batch],
) -> Source | None:
    for folder in folders:
        batches = {name: folder / f"{name}{suffix}" for name in (*_TRAIN, _TEST)}
        missing = [path.name for path in batches.values() if not path.is_file()]
        if len(missing) == len(batches):
            continue
        if missing:
            raise DataError(
                f"{folder}: {', '.join(missing)} missing; expected {_TRAIN[0]}{suffix} to "
                f"{_TRAIN[-1]}{suffix} and {_TEST}{suffix}. Get the set again."
            )
        names = folder / meta if (folder / meta).is_file() else None
        return Source(
            form=form,
            place=folder,
            files=(*batches.values(), *([names] if names else [])),
            write=partial(_write, batches=batches, names=names, images=images, read=read),
        )
    return None


def _write(
    out: Path,
    *,
    batches: dict[str, Path],
    names: Path | None,
    images: ImageSet,
    read: Callable[[Path], _Batch],
) -> None:
    if names is not None:
        _check_names(names, images=images)
    writer = ImageWriter(out, classes=images.classes)
    for batch, path in batches.items():
        split = "test" if batch == _TEST else "train"
        pixels, labels = read(path)
        for image, label in zip(pixels, labels, strict=True):
            writer.pixels(image, split=split, name=images.classes[label])


def read_binary(path: Path) -> _Batch:
    """Read one binary batch.

    Args:
        path: the file.

    Returns:
        ``(N, 32, 32, 3)`` uint8 images and ``(N,)`` uint8 labels from 0 to 9.

    Raises:
        DataError: the length is not that of whole records, or a label is not a class.
    """
    size = path.stat().st_size
    if size == 0 or size % _RECORD or size > _MOST_IMAGES * _RECORD:
        raise DataError(
            f"{path}: {size} bytes; expected 1 to {_MOST_IMAGES} records of {_RECORD}. "
            "Get the file again."
        )
    records = np.fromfile(path, np.uint8).reshape(-1, _RECORD)
    return _images(records[:, 1:]), _labels(records[:, 0], path=path)


def read_python(path: Path) -> _Batch:
    """Read one Python batch without unpickling it.

    Args:
        path: the file.

    Returns:
        ``(N, 32, 32, 3)`` uint8 images and ``(N,)`` uint8 labels from 0 to 9.

    Raises:
        DataError: the file is not a batch, or runs more than a batch needs.
    """
    batch = read_pickled(path)
    data, labels = batch.get("data"), batch.get("labels")
    if not isinstance(data, PickledArray) or not isinstance(labels, list):
        raise DataError(
            f"{path}: keys {str(sorted(batch))[:80]}; expected an array 'data' and a list "
            "'labels'. Get the file again."
        )
    if data.shape != (len(labels), _PIXELS) or not 1 <= len(labels) <= _MOST_IMAGES:
        raise DataError(
            f"{path}: data of shape {str(data.shape)[:80]} with {len(labels)} labels; expected "
            f"(N, {_PIXELS}) with N labels, N at most {_MOST_IMAGES}. Get the file again."
        )
    wrong = [label for label in labels if type(label) is not int or not 0 <= label < _CLASSES]
    if wrong:
        raise DataError(
            f"{path}: a label that is no class ({type(wrong[0]).__name__}); expected 0 to 9. "
            "Get the file again."
        )
    rows = np.frombuffer(data.data, np.uint8).reshape(data.shape)
    return _images(rows), np.array(labels, np.uint8)


def _images(rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    # (N, 3072) -> (N, 3, 32, 32) -> (N, 32, 32, 3); Pillow wants the bytes in that order
    planes = rows.reshape(-1, 3, _SIDE, _SIDE)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1))


def _labels(labels: npt.NDArray[np.uint8], *, path: Path) -> npt.NDArray[np.uint8]:
    wrong = labels[labels >= _CLASSES]
    if wrong.size:
        raise DataError(f"{path}: label {wrong[0]}; expected 0 to 9. Get the file again.")
    return labels


def _check_names(path: Path, *, images: ImageSet) -> None:
    """Refuse a batches.meta with other classes: another set would go by this one's name."""
    size = path.stat().st_size
    if size > _MOST_META_BYTES:
        raise DataError(
            f"{path}: {size} bytes; expected at most {_MOST_META_BYTES}. Get the file again."
        )
    if path.suffix == ".txt":
        found = path.read_text(encoding="latin-1").split()
    else:
        names = read_pickled(path).get("label_names")
        found = [
            text_of(name) if isinstance(name, str | bytes) else "?"
            for name in (names if isinstance(names, list) else [])
        ]
    if tuple(found) != images.classes:
        raise DataError(
            f"{path}: classes {str(found)[:120]}; expected {', '.join(images.classes)}. "
            "Get the set again."
        )

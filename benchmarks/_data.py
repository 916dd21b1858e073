"""The image sets of the benchmarks, as ordinary folders, from whatever form a user has.

Looked for, in this order, in the folder named like the set below the data folder and in the data
folder itself: an ImageFolder tree; the files as their owners publish them (tiny-imagenet-200,
IDX files, CIFAR-10 batches); a pack with its ``unpack.py``. Nothing is downloaded.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks._readers.cifar import find_binary, find_python
from benchmarks._readers.folders import find_folders
from benchmarks._readers.idx import find_idx
from benchmarks._readers.packs import find_pack
from benchmarks._readers.sets import SETS, ImageSet, SetName, Source
from benchmarks._readers.store import publish
from benchmarks._readers.tiny_imagenet import find_tiny_imagenet
from edge_stl.errors import DataError, ResourceError


DATA_VARIABLE = "EDGE_STL_DATA"

_Find = Callable[[Path, ImageSet], Source | None]

_FORMS: dict[SetName, tuple[_Find, ...]] = {
    "mnist": (find_folders, find_idx, find_pack),
    "cifar10": (find_folders, find_binary, find_python, find_pack),
    "roadside64": (find_folders, find_tiny_imagenet, find_pack),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Folders:
    """Folders of images, one folder a class.

    Attributes:
        train: holds ``<class>/*`` with the training images.
        test: the same for the test images; nothing may be chosen by looking at them.
        classes: names in label order (the digits 0 to 9; else text order).
        source: what was read, for the report.
    """

    train: Path
    test: Path
    classes: tuple[str, ...]
    source: str


def default_data() -> Path:
    """Return the folder that ``EDGE_STL_DATA`` names, else ``../shared/data`` of the repository."""
    named = os.environ.get(DATA_VARIABLE)
    if named:
        return Path(named)
    return Path(__file__).resolve().parents[2] / "shared" / "data"


def image_folders(name: SetName, data: Path, out: Path) -> Folders:
    """Give the images of a set as ordinary folders.

    An ImageFolder tree is used where it is. Anything else is written once to
    ``out/{train,test}/<class>/NNNNN.<ext>`` (PNG from arrays, else the encoded bytes as they are);
    a later call with the same data finds it there.

    Args:
        name: the set.
        data: the folder with what the user has.
        out: the folder to publish; new, empty, or from an earlier call.

    Returns:
        The two folders, the classes and what was read.

    Raises:
        DataError: the set is not there, is malformed, or ``out`` holds something else.
        ResourceError: a file cannot be read or written.
    """
    images = SETS[name]
    try:
        source = _find(images, data=data)
        publish(source, images=images, out=out)
    except OSError as error:
        raise ResourceError(
            f"{out}: {images.title} cannot be prepared from {data}: {error}. "
            "Check permissions and free disk space."
        ) from error
    root = source.place if source.write is None else out
    return Folders(
        train=root / "train",
        test=root / "test",
        classes=images.classes,
        source=f"{images.title}, {source.form} in {source.place}",
    )


def _find(images: ImageSet, *, data: Path) -> Source:
    for find in _FORMS[images.name]:
        for place in (data / images.name, data):
            source = find(place, images)
            if source is not None:
                return source
    raise DataError(
        f"{data}: no {images.title} found; expected {images.expected}. "
        f"It is published at {images.published}."
    )

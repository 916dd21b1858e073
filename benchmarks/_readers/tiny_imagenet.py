"""The roadside64 subset of the published ``tiny-imagenet-200`` tree.

Ten classes. Test = their validation images plus, of the 500 training images of each class sorted
by file name as text, the last 100; train = the first 400. (The published test images have no
labels.) The JPEG bytes are copied as they are.
"""

from functools import partial
from pathlib import Path

from benchmarks._readers.sets import ROADSIDE_WNIDS, ImageSet, Source
from benchmarks._readers.store import ImageWriter
from edge_stl.errors import DataError


_TRAIN_IMAGES = 500
_KEPT = 400
_MOST_ANNOTATION_BYTES = 1 << 22  # the published file has well under 1 MB
_SUFFIXES = (".jpeg", ".jpg")
_JPEG = b"\xff\xd8\xff"

_Item = tuple[str, str, Path]


def find_tiny_imagenet(place: Path, images: ImageSet) -> Source | None:
    """Recognize the tree in a folder or its ``tiny-imagenet-200``."""
    for folder in (place, place / "tiny-imagenet-200"):
        annotations = folder / "val" / "val_annotations.txt"
        wnids = [folder / "train" / wnid for wnid in ROADSIDE_WNIDS]
        if annotations.is_file() or any(path.is_dir() for path in wnids):
            items = _subset(folder, annotations=annotations)
            return Source(
                form="tiny-imagenet-200 tree",
                place=folder,
                files=(annotations, *(path for *_, path in items)),
                write=partial(_write, items=items, images=images),
            )
    return None


def _write(out: Path, *, items: list[_Item], images: ImageSet) -> None:
    writer = ImageWriter(out, classes=images.classes)
    for split, name, path in items:
        _check_jpeg(path)
        writer.copy(path, split=split, name=name, suffix=".jpg")


def _subset(folder: Path, *, annotations: Path) -> list[_Item]:
    """Return (split, class, file) of every image of the subset, by the rule above."""
    validation = _validation(annotations)
    items: list[_Item] = []
    for wnid, name in ROADSIDE_WNIDS.items():
        training = folder / "train" / wnid / "images"
        paths = sorted(
            (path for path in training.glob("*") if path.suffix.lower() in _SUFFIXES),
            key=lambda path: path.name,
        )
        if len(paths) != _TRAIN_IMAGES:
            raise DataError(
                f"{training}: {len(paths)} JPEG images; expected {_TRAIN_IMAGES}. "
                "Get the set again."
            )
        items += [("train", name, path) for path in paths[:_KEPT]]
        items += [("test", name, path) for path in validation[wnid]]
        items += [("test", name, path) for path in paths[_KEPT:]]
    return items


def _validation(annotations: Path) -> dict[str, list[Path]]:
    """Return the validation images per WordNet id, sorted by file name as text."""
    if not annotations.is_file():
        raise DataError(
            f"{annotations}: missing; expected the list that labels val/images. Get the set again."
        )
    size = annotations.stat().st_size
    if size > _MOST_ANNOTATION_BYTES:
        raise DataError(
            f"{annotations}: {size} bytes; expected at most {_MOST_ANNOTATION_BYTES}. "
            "Get the set again."
        )
    found: dict[str, list[Path]] = {wnid: [] for wnid in ROADSIDE_WNIDS}
    text = annotations.read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(text.splitlines(), start=1):
        # val_0.JPEG <tab> n03444034 <tab> box: x0, y0, x1, y1
        name, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0]
        if wnid not in found:
            if not line.strip() or wnid.startswith("n"):
                continue
            raise DataError(
                f"{annotations}: line {number} is {line[:60]!r}; expected a file name, a tab and "
                "a WordNet id. Get the set again."
            )
        path = annotations.parent / "images" / name
        # a name with a folder in it would read, and copy, a file from anywhere
        if not name.startswith("val_") or set(name) & set("/\\:\0") or not path.is_file():
            raise DataError(
                f"{annotations}: line {number} names {name[:60]!r}; expected an image of "
                "val/images. Get the set again."
            )
        found[wnid].append(path)
    return {wnid: sorted(paths, key=lambda path: path.name) for wnid, paths in found.items()}


def _check_jpeg(path: Path) -> None:
    with path.open("rb") as stream:
        head = stream.read(len(_JPEG))
    if head != _JPEG:
        raise DataError(
            f"{path}: begins with {head.hex() or 'nothing'}; expected a JPEG image ({_JPEG.hex()})."
            " Get the set again."
        )

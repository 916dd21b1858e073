"""ImageFolder trees: ``{train,test}/<class>/*``, used where they are whenever that is possible."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks._readers.sets import SPLITS, ImageSet, Source
from benchmarks._readers.store import ImageWriter


def find_folders(place: Path, images: ImageSet) -> Source | None:
    """Recognize an ImageFolder tree that has all classes of the set in train/ and test/.

    A tree with further folders beside the expected classes is copied without them, because
    whoever reads ``train/`` afterwards would take each of them for a class.
    """
    if not all((place / split / name).is_dir() for split in SPLITS for name in images.classes):
        return None
    form = "ImageFolder tree"
    extra = {
        entry.name
        for split in SPLITS
        for entry in (place / split).iterdir()
        if entry.is_dir() and entry.name not in images.classes
    }
    if not extra and all(
        any(_files(place / split / name)) for split in SPLITS for name in images.classes
    ):
        return Source(form=form, place=place)

    files = [
        (split, name, path)
        for split in SPLITS
        for name in images.classes
        for path in sorted(_files(place / split / name))
    ]

    def write(folder: Path) -> None:
        writer = ImageWriter(folder, classes=images.classes)
        for split, name, path in files:
            writer.copy(path, split=split, name=name, suffix=path.suffix.lower())

    return Source(form=form, place=place, files=tuple(path for *_, path in files), write=write)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))

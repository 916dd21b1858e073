"""Folders of images, published whole or not at all, and used again while their source is the same.

The images are written below a temporary folder beside the target, which is renamed to it when
everything is there. A marker file says from which bytes they were made; nothing is ever deleted
from a folder that this module did not make in the same call.
"""

import hashlib
import json
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks._readers.sets import SPLITS, ImageSet, Source
from edge_stl.errors import DataError


MARKER = ".edge-stl-images.json"
_MOST_MARKER_BYTES = 65_536


class ImageWriter:
    """Numbers the images of each class and writes them as ``<split>/<class>/NNNNN.<ext>``."""

    def __init__(self, folder: Path, *, classes: tuple[str, ...]) -> None:
        self._folder = folder
        self._written: Counter[tuple[str, str]] = Counter()
        for split in SPLITS:
            for name in classes:
                (folder / split / name).mkdir(parents=True)

    def _next(self, *, split: str, name: str, suffix: str) -> Path:
        number = self._written[split, name]
        self._written[split, name] += 1
        return self._folder / split / name / f"{number:05d}{suffix}"

    def pixels(self, pixels: npt.NDArray[np.uint8], *, split: str, name: str) -> None:
        """Write one image as lossless PNG; ``pixels`` is ``(H, W)`` or ``(H, W, 3)`` uint8."""
        Image.fromarray(pixels).save(self._next(split=split, name=name, suffix=".png"))

    def copy(self, path: Path, *, split: str, name: str, suffix: str) -> None:
        """Copy one encoded image byte for byte."""
        shutil.copyfile(path, self._next(split=split, name=name, suffix=suffix))


def publish(source: Source, *, images: ImageSet, out: Path) -> None:
    """Make ``out`` the folder of the images of ``source``, or leave it as it is.

    Args:
        source: what was found on disk; its ``write`` is not None.
        images: the set it holds.
        out: the folder to publish; new, empty, or made by an earlier call from the same bytes.

    Raises:
        DataError: ``out`` holds something else, or the source is malformed.
        OSError: a file cannot be read or written.
    """
    if source.write is None:  # folders that are used where they are
        return
    marker: dict[str, object] = {
        "set": images.name,
        "form": source.form,
        "sha256": _digest(source),
        "classes": list(images.classes),
    }
    if _reusable(out, marker=marker, classes=images.classes):
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        work = Path(scratch) / "images"
        source.write(work)
        marker["images"] = _counted(work, images=images, place=source.place)
        marker["source"] = f"{source.form} in {source.place}"
        (work / MARKER).write_text(json.dumps(marker, indent=1) + "\n", encoding="utf-8")
        try:
            if out.is_dir():
                out.rmdir()  # it is empty; only onto nothing is a rename one step everywhere
            work.rename(out)
        except OSError:
            # another run may have published the same images meanwhile: that is as good
            if not _reusable(out, marker=marker, classes=images.classes):
                raise


def _digest(source: Source) -> str:
    """Return the sha256 over name, length and bytes of every file the source reads."""
    digest = hashlib.sha256()
    for path in source.files:
        with path.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        digest.update(f"{path.relative_to(source.place).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


def _counts(folder: Path, *, classes: tuple[str, ...]) -> dict[str, list[int]]:
    return {
        split: [
            sum(entry.is_file() for entry in (folder / split / name).iterdir())
            if (folder / split / name).is_dir()
            else 0
            for name in classes
        ]
        for split in SPLITS
    }


def _counted(work: Path, *, images: ImageSet, place: Path) -> dict[str, list[int]]:
    """Return the images per split and class, and refuse a class that has none."""
    counts = _counts(work, classes=images.classes)
    empty = [
        f"{split}/{name}"
        for split in SPLITS
        for name, count in zip(images.classes, counts[split], strict=True)
        if count == 0
    ]
    if empty:
        raise DataError(
            f"{place}: no images for {', '.join(empty)}; expected every class of {images.title} "
            "in both splits. Get the set again."
        )
    return counts


def _reusable(out: Path, *, marker: dict[str, object], classes: tuple[str, ...]) -> bool:
    """Return True for the same images, False for a new or empty folder, refuse anything else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    found = _marker(out)
    if found is None:
        raise DataError(
            f"{out}: holds files that this benchmark did not write; expected a new or empty "
            "folder. Name another one."
        )
    different = [
        key for key in ("set", "form", "sha256", "classes") if found.get(key) != marker[key]
    ]
    if different:
        raise DataError(
            f"{out}: holds images of {found.get('source')!s:.200} (other {', '.join(different)}); "
            f"expected {marker['set']} from {marker['form']}. Remove it or name another folder."
        )
    if found.get("images") != _counts(out, classes=classes):
        raise DataError(
            f"{out}: some of the images written there are gone or new ones came; expected "
            f"{found.get('images')} per class. Remove it and run again."
        )
    return True


def _marker(out: Path) -> dict[str, object] | None:
    path = out / MARKER
    if not path.is_file() or path.stat().st_size > _MOST_MARKER_BYTES:
        return None
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None

"""The packs: ``<set>.npz`` beside an ``unpack.py``, which alone knows their format.

This is the one form that runs a program from the data folder, the one its user named with
``--data``; that is why it comes last.
"""

import subprocess
import sys
from pathlib import Path

from benchmarks._readers.sets import ImageSet, Source
from edge_stl.errors import DataError


_SECONDS = 900


def find_pack(place: Path, images: ImageSet) -> Source | None:
    """Recognize a pack with its ``unpack.py``."""
    pack, unpack = place / f"{images.name}.npz", place / "unpack.py"
    if not (pack.is_file() and unpack.is_file()):
        return None

    def write(folder: Path) -> None:
        _run(unpack, name=images.name, folder=folder)
        found = sorted({path.name for path in folder.glob("*/*") if path.is_dir()})
        if found != sorted(images.classes):
            raise DataError(
                f"{pack}: unpacked to classes {str(found)[:120]}; expected "
                f"{', '.join(images.classes)}. Get the pack again."
            )

    return Source(form="pack", place=place, files=(pack, unpack), write=write)


def _run(unpack: Path, *, name: str, folder: Path) -> None:
    folder.mkdir()
    command = [sys.executable, str(unpack.absolute()), name, str(folder.absolute())]
    try:
        done = subprocess.run(  # noqa: S603  (a list without a shell; the folder is the user's)
            command, capture_output=True, check=False, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise DataError(
            f"{unpack}: not done after {_SECONDS} seconds; expected the images of {name}."
        ) from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise DataError(
            f"{unpack}: ended with {done.returncode} on {name}.npz ({lines[-1][:200]}); "
            "expected its images. Get the pack again."
        )

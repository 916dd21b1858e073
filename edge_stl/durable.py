"""The one way in which files that must survive are written."""

import os
from contextlib import suppress
from pathlib import Path

from edge_stl.errors import ResourceError


def write_durably(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write a file so that after a crash there is the old content or the new, never a mixture.

    Written beside its place, flushed to the disk, renamed over the old file, and the folder
    flushed, so that the rename itself survives.

    Args:
        path: where to; its folder exists.
        data: the content.
        mode: permission bits of a new file, before the umask.

    Raises:
        ResourceError: the disk is full, the folder is missing or not writable.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)  # noqa: PTH105  (Path.replace hides that it is the atomic one)
        _sync_folder(path.parent)
    except OSError as error:
        raise ResourceError(
            f"{path}: cannot be written ({error.strerror}); expected a writable folder with "
            f"{len(data)} bytes free. Make the folder, free space or choose another place"
        ) from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def make_folder(folder: Path) -> None:
    """Make an output folder and its parents, unless it is there.

    Raises:
        ResourceError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(
            f"{folder}: cannot be made ({error.strerror}); expected a folder this user may write. "
            "Choose another -o"
        ) from None


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # some file systems cannot flush a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

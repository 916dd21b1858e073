"""A file that is made and never takes the place of another."""

import os
import stat
from contextlib import suppress
from pathlib import Path

from edge_stl.durable._files import _sync_folder, _write_all
from edge_stl.errors import ResourceError, UsageError


_OTHERS = 0o077


def write_new(path: Path, data: bytes, *, mode: int, what: str) -> None:
    """Write a file where there is none, and return once it is on the disk.

    Two programs that do it at the same time never both succeed.

    Args:
        path: where to; its folder exists.
        data: the content.
        mode: permission bits from its first moment on, before the umask.
        what: what it is, for the message: ``a private key``.

    Raises:
        UsageError: something is there.
        ResourceError: the disk does not take it, or not with a mode that keeps others out.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(path, flags, mode)
    except FileExistsError:
        raise UsageError(
            f"{path}: is there already, and {what} is never overwritten; expected a name that is "
            "free. Choose another -o, or move it away"
        ) from None
    except OSError as error:
        raise _unwritable(path, what, error) from None
    try:
        try:
            _need_private(path, descriptor, mode, what)
            _write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        _sync_folder(path.parent)
    except BaseException as error:  # also Ctrl-C: half a key is none
        with suppress(OSError):
            os.unlink(path)  # noqa: PTH108
        if isinstance(error, OSError):
            raise _unwritable(path, what, error) from None
        raise


def _need_private(path: Path, descriptor: int, mode: int, what: str) -> None:
    """Refuse a place where what nobody else may read can be read by everyone: FAT, exFAT."""
    found = stat.S_IMODE(os.fstat(descriptor).st_mode)
    if not mode & _OTHERS and found & _OTHERS:
        raise ResourceError(
            f"{path}: {what} would be readable by others there (mode {found:04o}), for this disk "
            "or stick keeps no permissions; expected a file system that does. Choose another -o"
        )


def _unwritable(path: Path, what: str, error: OSError) -> ResourceError:
    return ResourceError(
        f"{path}: {what} cannot be written there ({error.strerror}); expected a writable folder. "
        "Choose another -o"
    )

"""Files that are there whole or not at all, whenever the power goes.

What a system may do at a power cut (POSIX promises no more): bytes that were not flushed with
fsync are there, torn, zero or missing, and a name that was made, renamed or removed is so only
once its folder was flushed. One thing is assumed, that a rename inside a folder happens whole.
"""

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from edge_stl.errors import ResourceError


_BLOCK = 1 << 20
_PRIVATE = os.O_CLOEXEC | os.O_NOFOLLOW
# What file systems say that cannot flush a folder; a folder that may not be read cannot either.
_NO_FOLDER_SYNC = {
    errno.EACCES, errno.EBADF, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM,
}  # fmt: skip


def write_durably(
    path: Path,
    data: bytes,
    *,
    mode: int = 0o644,
    keep: Path | None = None,
    read_back: bool = True,
) -> None:
    """Write a file so that after a crash there is the old content or the new, never a mixture.

    Written beside its place, flushed to the disk, renamed over the old file, and the folder
    flushed, so that the rename itself survives. After an error the half-written file is removed
    and never tried again: a failed flush may have dropped its bytes and forgotten that it did.

    Before it takes its name it is read again, from the device where the system allows that: sticks
    and cards exist that take every byte and keep few of them. The old file stays until then.

    Args:
        path: where to; its folder exists.
        data: the content.
        mode: permission bits of a new file, before the umask.
        keep: the file that is there now becomes this one.
        read_back: False for what carries a digest of its own and is written again and again.

    Raises:
        ResourceError: the disk is full, fails or gives other bytes back, the folder is missing or
            not writable.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        remove_leftovers(path)
        _write_new(temporary, data, mode)
        if read_back:
            _read_back(temporary, data, path)
        if keep is not None:
            os.replace(path, keep)  # noqa: PTH105  (Path.replace hides that it is the atomic one)
        os.replace(temporary, path)  # noqa: PTH105
        _sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            os.unlink(temporary)  # noqa: PTH108
        raise ResourceError(
            f"{path}: cannot be written ({_reason(error)}); expected a writable folder with "
            f"{len(data)} bytes free. Make the folder, free space or choose another place"
        ) from None
    except BaseException:  # Ctrl-C in the middle, or bytes that are not there
        with suppress(OSError):
            os.unlink(temporary)  # noqa: PTH108
        raise


def write_passing(path: Path, data: bytes) -> None:
    """Write a file that is written again soon, for others to read: whole, but not flushed.

    A reader sees the old content or the new. After a power cut it may be empty or missing, which
    costs nothing; a flush every few seconds would wear out a memory card.

    Args:
        path: where to; its folder exists. Readable by all (0644), whatever the umask.
        data: the content.

    Raises:
        OSError: the disk does not take it, or the folder is missing.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _PRIVATE, 0o644)
        try:
            os.fchmod(descriptor, 0o644)
            _write_all(descriptor, data)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)  # noqa: PTH105
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)  # noqa: PTH108
        raise


def publish(part: Path, path: Path) -> None:
    """Give a file that was written and flushed the name under which it counts.

    Raises:
        OSError: the disk does not take it.
    """
    os.replace(part, path)  # noqa: PTH105
    _sync_folder(path.parent)


def publish_folder(building: Path, folder: Path) -> None:
    """Give a folder of files the name under which it counts, once all of it is on the disk.

    Args:
        building: the folder that was filled, on the same file system.
        folder: its name from now on; nothing is there.

    Raises:
        ResourceError: the disk does not take it.
    """
    os.sync()  # one call for thousands of files; each by itself would take minutes
    try:
        publish(building, folder)
    except OSError as error:
        raise ResourceError(
            f"{folder}: cannot be put in its place ({_reason(error)}); expected a name that is "
            "free in a writable folder. Choose another -o"
        ) from None


def remove(path: Path) -> None:
    """Remove a file, if it is there, so that it does not come back.

    Raises:
        OSError: it cannot be removed.
    """
    with suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108
        _sync_folder(path.parent)


def remove_leftovers(path: Path) -> None:
    """Remove what killed processes left half-written of a file; each may be as large as it.

    Args:
        path: the file, there or not.

    Raises:
        OSError: its folder cannot be listed.
    """
    start, end = f".{path.name}.", ".tmp"
    for name in os.listdir(path.parent):  # noqa: PTH208
        process = name.removeprefix(start).removesuffix(end)
        if name != f"{start}{process}{end}" or not process.isdecimal() or _runs(int(process)):
            continue
        with suppress(OSError):
            os.unlink(path.with_name(name))  # noqa: PTH108


def make_folder(folder: Path, *, mode: int = 0o777, option: str = "-o") -> None:
    """Make an output folder and its parents, unless it is there, so that it stays.

    Args:
        folder: the folder.
        mode: permission bits of the folder where it is new, before the umask.
        option: what a user may change.

    Raises:
        ResourceError: it cannot be made.
    """
    try:
        _make(folder, mode)
    except OSError as error:
        raise ResourceError(
            f"{folder}: cannot be made ({_reason(error)}); expected a folder this user may write. "
            f"Choose another {option}"
        ) from None


def _make(folder: Path, mode: int) -> None:
    try:
        os.mkdir(folder, mode)  # noqa: PTH102
    except FileNotFoundError:
        if folder.parent == folder:
            raise
        _make(folder.parent, 0o777)
        _make(folder, mode)
        return
    except OSError:  # FileExistsError, or a read-only file system that it is in already
        if not folder.is_dir():
            raise
    # Also where it was there: the run that made it may have ended before this.
    _sync_folder(folder.parent)


class PartFile:
    """A file that grows from run to run, and counts only once it is published.

    Args:
        path: the file; what is there and is no regular file is removed first. Mode 0600.
        at: bytes to keep; everything after them is cut off.

    Raises:
        OSError: the disk does not take it.
    """

    def __init__(self, path: Path, *, at: int) -> None:
        if at == 0:
            with suppress(FileNotFoundError):
                os.unlink(path)  # noqa: PTH108  (whatever it is: a link, a pipe)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | _PRIVATE, 0o600)
        try:
            os.ftruncate(self._descriptor, at)
            os.lseek(self._descriptor, at, os.SEEK_SET)
        except OSError:
            self.close()
            raise

    def append(self, data: bytes) -> None:
        """Write at the end.

        Raises:
            OSError: the disk does not take it.
        """
        _write_all(self._descriptor, data)

    def sync(self) -> None:
        """Return once everything written so far is on the disk.

        Raises:
            OSError: the disk does not take it.
        """
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close it."""
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_regular(path: Path) -> int | None:
    """Open a file for reading, without waiting for a pipe and without following a link.

    Returns:
        a descriptor to be closed; None if there is no such regular file that can be read.

    Raises:
        ResourceError: a folder is in its place.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | _PRIVATE)
    except OSError:
        return None
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(kind):
        raise ResourceError(
            f"{path}: is a folder; expected a file that edge-stl wrote, or nothing. Move it away"
        )
    return None


def _write_new(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _PRIVATE, mode)
    try:
        _write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left[:_BLOCK]) :]


def _read_back(temporary: Path, data: bytes, path: Path) -> None:
    if not _holds(temporary, data):
        raise ResourceError(
            f"{path}: did not read back as it was written; expected the same {len(data)} bytes. "
            "The disk, stick or card is failing or smaller than it says: use another"
        )


def _holds(path: Path, data: bytes) -> bool:
    """Say whether a file that was flushed has these bytes, by the device where possible."""
    descriptor = os.open(path, os.O_RDONLY | _PRIVATE)
    try:
        if hasattr(os, "posix_fadvise"):
            # Drops what the page cache holds of it, so that the bytes come from the device.
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        left = memoryview(data)
        while left and (block := os.read(descriptor, min(len(left), _BLOCK))):
            if left[: len(block)] != block:
                return False
            left = left[len(block) :]
        return not left and not os.read(descriptor, 1)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _NO_FOLDER_SYNC:
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it runs, and belongs to somebody else
        return True
    return True


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__

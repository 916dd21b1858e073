"""One writer at a time, where several programs keep one record."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_stl.errors import ResourceError


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold ``<path>.lock`` while a record is read, changed and written; wait for who holds it.

    The lock goes when the process does, however it ends. The file stays: to remove it would let
    two programs each hold a lock of that name.

    Raises:
        ResourceError: the lock file cannot be used.
    """
    lock = path.with_name(f"{path.name}.lock")
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            os.close(descriptor)
            raise
    except OSError as error:
        raise ResourceError(
            f"{lock}: cannot be used ({error.strerror}); expected a file this user may write. "
            "Remove it, or make its folder writable"
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)

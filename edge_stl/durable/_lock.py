"""One program at a time, where several might write the same files.

A lock is a file that is locked (flock(2)), not one that is there: it goes when the process does,
however it ends. The file stays; to remove it would let two programs each hold a lock of that name.
"""

import fcntl
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_stl.errors import ResourceError


_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_POLL = 0.05


def take_lock(
    lock: Path, *, busy: str, instead: str = "make its folder writable", patience: float = 0.0
) -> int:
    """Lock a file, made when missing.

    Args:
        lock: the file; a link is not followed.
        busy: what is wrong where another program holds it, and what to do, as a sentence.
        instead: what else than to remove a file that cannot be used may be done.
        patience: seconds to wait for who holds it; may be infinite.

    Returns:
        a descriptor; whoever closes it gives the lock back.

    Raises:
        ResourceError: another program holds it, or the file cannot be used.
    """
    try:
        descriptor = os.open(lock, _FLAGS, 0o600)
    except OSError as error:
        raise ResourceError(
            f"{lock}: cannot be used ({error.strerror}); expected a file this user may write. "
            f"Remove it, or {instead}"
        ) from None
    until = time.monotonic() + patience
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise ResourceError(busy) from None
                time.sleep(_POLL)
            except OSError as error:
                raise ResourceError(
                    f"{lock}: cannot be locked ({error.strerror}); expected a file system that "
                    f"knows locks. Try another place, or {instead}"
                ) from None
            else:
                return descriptor
    except BaseException:
        os.close(descriptor)
        raise


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold ``<path>.lock`` while a record is read, changed and written; wait for who holds it.

    Raises:
        ResourceError: the lock file cannot be used.
    """
    lock = path.with_name(f"{path.name}.lock")
    descriptor = take_lock(lock, busy="", patience=math.inf)
    try:
        yield
    finally:
        os.close(descriptor)

"""One deployment at a time in a folder of slots."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_stl.errors import ResourceError


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder of slots; the lock goes with the process, however that ends.

    Raises:
        ResourceError: another process holds it, or its lock cannot be made.
    """
    path = folder / "lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ResourceError(
            f"{path}: cannot be used ({error.strerror}); expected a file this user may write. "
            "Remove it, or choose another folder for the slots"
        ) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ResourceError(
                f"{folder}: somebody else deploys here now; expected one at a time. Wait for it"
            ) from None
        yield
    finally:
        os.close(descriptor)

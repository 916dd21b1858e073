"""The files of one image cache: published by rename, resumable, and checked when read.

Two files under the cache folder make a cache, both named by the key::

    images-<key>.u8        the pixels, N * r * r * C bytes, row after row
    images-<key>.json      {"body": {...}, "sha256": of the canonical body}

While it is built they are called ``.u8.part`` and ``.json.part``. The record is published last: a
cache without one does not exist. A record that fails its own digest does not exist either.
"""

import hashlib
import json
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from edge_stl.errors import ResourceError


_PREFIX = "images-"


class CacheFiles:
    """The paths of one cache and how they are read and written."""

    def __init__(self, folder: Path, key: str) -> None:
        """Make the folder (mode 0700) if it is not there.

        Args:
            folder: Where caches live; nothing else should be named ``images-*`` in it.
            key: What makes this cache different from others, as hex digits.

        Raises:
            ResourceError: The folder cannot be made.
        """
        self.folder = folder
        name = _PREFIX + key[:32]
        self.pixels = folder / f"{name}.u8"
        self.record = folder / f"{name}.json"
        self.pixels_part = folder / f"{name}.u8.part"
        self.record_part = folder / f"{name}.json.part"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise ResourceError(
                f"{folder}: cannot be made ({error.strerror}); expected a writable work folder. "
                "Choose another --work."
            ) from error
        with suppress(OSError):  # file systems of USB sticks have no modes
            folder.chmod(0o700)

    def remove_others(self) -> None:
        """Remove the caches and half-built files of other keys: one folder holds one cache."""
        mine = {self.pixels, self.record, self.pixels_part, self.record_part}
        for path in self.folder.glob(_PREFIX + "*"):
            if path not in mine:
                with suppress(OSError):
                    path.unlink()

    def publish(self, body: dict[str, Any]) -> None:
        """Make the finished pixels and their record visible, in this order.

        Args:
            body: The record.
        """
        os.replace(self.pixels_part, self.pixels)  # noqa: PTH105
        write_record(self.record, body)
        with suppress(OSError):
            self.record_part.unlink()


def create(path: Path, *, at: int) -> BinaryIO:
    """Open a file for writing from a position on, mode 0600.

    Args:
        path: The file; what is there and is no regular file is removed first.
        at: Bytes to keep; everything after them is cut off.

    Returns:
        The open file, positioned at its end.
    """
    if not is_regular(path):
        with suppress(FileNotFoundError):
            path.unlink()
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
    file = os.fdopen(os.open(path, flags, 0o600), "r+b")
    file.truncate(at)
    file.seek(at)
    return file


def is_regular(path: Path) -> bool:
    """Say whether a path is a regular file, not a link, a FIFO or nothing.

    Args:
        path: The path.

    Returns:
        True for a regular file.
    """
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def read_record(path: Path) -> dict[str, Any] | None:
    """Read a record that proves itself.

    Args:
        path: The file.

    Returns:
        The body, or None if there is none or a byte of it changed.
    """
    if not is_regular(path):
        return None
    try:
        record = json.loads(path.read_bytes())
        body: dict[str, Any] = record["body"]
        return body if record["sha256"] == _digest(body) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def write_record(path: Path, body: dict[str, Any]) -> None:
    """Write a record by rename, so that a power cut leaves the old one or the new one.

    Args:
        path: The file.
        body: What JSON can hold.
    """
    text = json.dumps({"body": body, "sha256": _digest(body)}, sort_keys=True)
    temporary = path.with_name(path.name + ".tmp")
    with create(temporary, at=0) as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)  # noqa: PTH105
    with suppress(OSError):  # a folder cannot be synced everywhere
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def sha256_of(path: Path) -> str:
    """Digest a file.

    Args:
        path: The file.

    Returns:
        Its sha256 in hex.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()

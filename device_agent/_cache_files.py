"""The files of one image cache: published by rename, resumable, and checked when read.

Three files under the cache folder make a cache, all named by the key::

    images-<key>.u8        the pixels, N * r * r * C bytes, row after row
    images-<key>.rows      the digest of every row, N * 8 bytes
    images-<key>.json      a record of `edge_stl.durable`; its content is JSON

While it is built they are called ``.u8.part``, ``.rows.part`` and ``.json.part``, and
``.sides.part`` is a record of what the headers said. The record is published last: a cache without
one does not exist. A record that fails its own digest does not exist either. The record carries
the SHA-256 of the digests, and the digests prove the pixels: a chain from the one to the other.
"""

import json
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from edge_stl.durable import (
    discard_record,
    make_folder,
    previous_of,
    publish,
    read_record,
    write_record,
)


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
        self.rows = folder / f"{name}.rows"
        self.record = folder / f"{name}.json"
        self.rows_part = folder / f"{name}.rows.part"
        self.pixels_part = folder / f"{name}.u8.part"
        self.record_part = folder / f"{name}.json.part"
        self.sides_part = folder / f"{name}.sides.part"
        make_folder(folder, mode=0o700, option="--work")
        with suppress(OSError):  # file systems of USB sticks have no modes
            folder.chmod(0o700)

    def remove_others(self) -> None:
        """Remove the caches and half-built files of other keys: one folder holds one cache."""
        records = {self.record, self.record_part, self.sides_part}
        data = {self.pixels, self.pixels_part, self.rows, self.rows_part}
        mine = {*data, *records, *map(previous_of, records)}
        for path in self.folder.glob(_PREFIX + "*"):
            if path not in mine:
                with suppress(OSError):
                    path.unlink()

    def read(self, path: Path, *, told: Callable[[str], object]) -> dict[str, Any] | None:
        """Read a record that proves itself, and that it is the one it stands for.

        Args:
            path: One of the three.
            told: Called with a sentence where the newest one is damaged.

        Returns:
            The content, or None if there is none, a byte of it changed or it is another one.
        """
        record = read_record(path)
        if record.note is not None:
            told(record.note)
        if record.body is None:
            return None
        body: dict[str, Any] = json.loads(record.body)  # ours: its digest holds
        if body.get("of") != path.name:
            told(f"{path}: holds another record than its name says; starting anew")
            return None
        return body

    def write(self, path: Path, body: dict[str, Any]) -> None:
        """Write a record.

        Args:
            path: One of the three.
            body: What JSON can hold.
        """
        write_record(path, json.dumps({"of": path.name, **body}, sort_keys=True).encode())

    def publish(self, body: dict[str, Any]) -> None:
        """Make the finished pixels, their digests and the record visible, in this order.

        Args:
            body: The record.
        """
        publish(self.pixels_part, self.pixels)
        publish(self.rows_part, self.rows)
        self.write(self.record, body)
        self.remove_part()

    def withdraw(self) -> None:
        """Take back what was published, so that a build may go on with it or write over it.

        Where a build ended before its record was written, nothing of it is lost; where the record
        or what it promises is damaged, no second copy of the pixels needs room on the disk.

        Raises:
            OSError: The disk does not take it.
            ResourceError: The record cannot be removed.
        """
        discard_record(self.record)
        for path, part in ((self.pixels, self.pixels_part), (self.rows, self.rows_part)):
            if is_regular(path) and not os.path.lexists(part):
                publish(path, part)

    def remove_part(self) -> None:
        """Remove the records of the build, also those of one that ended before it did."""
        discard_record(self.record_part)
        discard_record(self.sides_part)


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

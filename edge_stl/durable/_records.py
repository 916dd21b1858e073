"""Records: files that a later run trusts, with their digest in them and their predecessor kept.

A line of text, and the content as it is::

    edge-stl record sha256 <64 hex digits> bytes <decimal>

The digest is checked before a byte of the content is looked at. Disks lose and flip bytes whatever
a program does; then the generation before is read, ``<name>.previous``.
"""

import hashlib
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edge_stl.durable._files import open_regular, remove, remove_leftovers, write_durably
from edge_stl.errors import ResourceError


_HEADER = "edge-stl record sha256 {} bytes {}\n"
_HEADER_PATTERN = re.compile(rb"edge-stl record sha256 ([0-9a-f]{64}) bytes ([0-9]{1,15})\n")
_LONGEST_HEADER = 128
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Record:
    """What is left of a record.

    Attributes:
        body: the content as it was written, of the newest whole generation; None without one.
        note: a sentence for a person where the newest generation is not what was read.
    """

    body: bytes | None
    note: str | None = None


def previous_of(path: Path) -> Path:
    """Return where the generation before is kept."""
    return path.with_name(f"{path.name}.previous")


def write_record(path: Path, body: bytes, *, mode: int = 0o600) -> None:
    """Write a record and keep the one that is there, if it is whole.

    Once this returns, `read_record` gives this content, also after a power cut. While it runs, it
    gives this content or the last one.

    Args:
        path: where to; its folder exists, and one process writes to it at a time.
        body: the content.
        mode: permission bits of a new file, before the umask.

    Raises:
        ResourceError: the disk is full or fails, the folder is missing or not writable.
    """
    header = _HEADER.format(hashlib.sha256(body).hexdigest(), len(body)).encode()
    # A damaged file must not take the place of a whole one: not even until the next rename.
    keep = previous_of(path) if _proved(path) is not None else None
    write_durably(path, header + body, mode=mode, keep=keep, read_back=False)


def read_record(path: Path) -> Record:
    """Return the newest generation of a record that proves itself.

    Raises:
        ResourceError: a folder is in its place.
    """
    body = _proved(path)
    if body is not None:
        return Record(body)
    previous = previous_of(path)
    earlier = _proved(previous)
    there = os.path.lexists(path)
    if earlier is not None:
        what = "damaged" if there else "missing"
        return Record(earlier, f"{path}: {what}; went back to the one written before it")
    if there or os.path.lexists(previous):
        return Record(
            None,
            f"{path}: damaged or of an earlier version, and no whole one was written before it; "
            "starting anew",
        )
    return Record(None)


def discard_record(path: Path) -> None:
    """Remove a record with the generation before it, and what killed processes half wrote of it.

    Raises:
        ResourceError: they cannot be removed.
    """
    try:
        with suppress(FileNotFoundError):  # not even its folder
            remove_leftovers(path)
        remove(previous_of(path))
        remove(path)
    except OSError as error:
        raise ResourceError(
            f"{path}: cannot be removed ({error.strerror}); expected a file in a writable folder. "
            "Remove it yourself"
        ) from None


def _proved(path: Path) -> bytes | None:
    """Return the content of a file that has the length and the digest its first line says."""
    descriptor = open_regular(path)
    if descriptor is None:
        return None
    try:
        start = os.read(descriptor, _LONGEST_HEADER)
        header = _HEADER_PATTERN.match(start)
        if header is None:
            return None
        length = int(header[2])
        if os.fstat(descriptor).st_size != header.end() + length:
            return None
        blocks = [start[header.end() :]]
        while blocks[-1] or len(blocks) == 1:
            blocks.append(os.read(descriptor, _BLOCK))
    except OSError:  # a disk that does not give the bytes is a damaged file
        return None
    finally:
        os.close(descriptor)
    body = b"".join(blocks)
    return body if hashlib.sha256(body).hexdigest().encode() == header[1] else None

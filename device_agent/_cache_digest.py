"""Digests of a large file, segment by segment.

One digest of a whole file has to be made again from its first byte whenever a build goes on: on a
slow card that eats a power window of a minute before an image is read. With one digest for every
64 MiB, a build that goes on reads back the last, unfinished segment alone; the others are proved
when the finished cache is opened, as all of it is at every start.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO


SEGMENT_BYTES = 64 << 20
_BLOCK = 1 << 20


class SegmentDigests:
    """The sha256 of every segment of what was written so far."""

    def __init__(self, segment_bytes: int) -> None:
        """Start with no byte.

        Args:
            segment_bytes: Bytes of every segment but the last.
        """
        self._segment_bytes = segment_bytes
        self._finished: list[str] = []
        self._last = hashlib.sha256()
        self._bytes_of_last = 0

    def update(self, data: bytes) -> None:
        """Take more bytes.

        Args:
            data: What follows.
        """
        left = memoryview(data)
        while left:
            part = left[: self._segment_bytes - self._bytes_of_last]
            self._last.update(part)
            self._bytes_of_last += len(part)
            left = left[len(part) :]
            if self._bytes_of_last == self._segment_bytes:
                self._finished.append(self._last.hexdigest())
                self._last, self._bytes_of_last = hashlib.sha256(), 0

    def hexdigests(self) -> list[str]:
        """Give the digest of every segment, the unfinished one last."""
        return [*self._finished, *([self._last.hexdigest()] if self._bytes_of_last else [])]

    def take_up(
        self, path: Path, count: int, digests: Sequence[str], ask: Callable[[], object]
    ) -> bool:
        """Go on after the first bytes of a file, reading back the unfinished segment alone.

        Args:
            path: A regular file.
            count: How many bytes of it were written.
            digests: What `hexdigests` gave then.
            ask: Called between blocks; may raise.

        Returns:
            Whether the file has these bytes, as far as they were read.
        """
        whole = count // self._segment_bytes
        self._finished = list(digests[:whole])
        try:
            with path.open("rb") as file:
                file.seek(whole * self._segment_bytes)
                left = count - whole * self._segment_bytes
                fed = _feed(file, left, self.update, ask)
        except OSError:
            return False
        return fed and self.hexdigests() == list(digests)


def proved(
    path: Path, count: int, digests: Sequence[str], segment_bytes: int, ask: Callable[[], object]
) -> bool:
    """Compare a whole file with its digests, in blocks: it is larger than the memory.

    Args:
        path: A regular file.
        count: Its bytes.
        digests: Of its segments.
        segment_bytes: Bytes of every segment but the last.
        ask: Called between blocks; may raise.

    Returns:
        Whether every byte holds.
    """
    found = SegmentDigests(segment_bytes)
    try:
        with path.open("rb") as file:
            return _feed(file, count, found.update, ask) and found.hexdigests() == list(digests)
    except OSError:
        return False


def _feed(
    file: BinaryIO, count: int, take: Callable[[bytes], object], ask: Callable[[], object]
) -> bool:
    while count and (block := file.read(min(count, _BLOCK))):
        take(block)
        count -= len(block)
        if count:
            ask()
    return not count

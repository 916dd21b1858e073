"""Digests of the rows of an image cache: a row is proved when it is read, not before.

A digest of the whole file has to be computed before the first training step of every run. On a
slow card that eats a power window of a minute before an image is trained on: 4 GB at 40 MB/s take
100 seconds. With one digest for every row, opening a cache reads 8 bytes a row, whatever the
images weigh, and no byte of an image is used that was not proved a moment before.

A digest has 64 bits of BLAKE2b (RFC 7693). They are against damage: of 2**64 damaged rows one is
taken for a whole one, and a disk does not choose which. They are not against an attacker: whoever
can write to the work folder can as well put other images into it, and other digests beside them.
The file of digests has a SHA-256 of its own in the record of the cache.
"""

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from device_agent._cache_files import is_regular


DIGEST_BYTES = 8
READ_BACK = 4 << 20
"""Bytes at the end of half a cache that are proved before it is gone on with."""

Digests = npt.NDArray[np.uint64]
"""(N,) one for every row, in the order of the machine's bytes: compared, never counted with."""


def digest_of(row: bytes | memoryview) -> bytes:
    """Give the digest of a row.

    Args:
        row: Its bytes, contiguous.

    Returns:
        8 bytes.
    """
    return hashlib.blake2b(row, digest_size=DIGEST_BYTES).digest()


def digests_of(rows: npt.NDArray[np.uint8]) -> Digests:
    """Give the digests of several rows.

    Args:
        rows: (n, bytes of a row) uint8, each contiguous.

    Returns:
        (n,) uint64.
    """
    return array_of_digests(b"".join([digest_of(row.data) for row in rows]))


def array_of_digests(data: bytes) -> Digests:
    """Give digests that lie one after the other as an array, read-only.

    Args:
        data: 8 bytes a row.

    Returns:
        (N,) uint64.
    """
    return np.frombuffer(data, dtype=np.uint64)


def read_digests(path: Path, count: int, sha256: str, *, more: bool = False) -> bytes | None:
    """Read a file of digests that proves itself.

    Args:
        path: The file.
        count: How many rows it is for.
        sha256: What its record says, as hex digits, of the digests of these rows.
        more: Whether digests may follow, of rows that no record promises.

    Returns:
        ``8 * count`` bytes, or None: not there, no regular file, too short, too long or changed.
    """
    size = count * DIGEST_BYTES
    try:
        if not is_regular(path) or not (path.stat().st_size == size or more):
            return None
        with path.open("rb") as file:
            data = file.read(size)
    except OSError:  # a disk that does not give the bytes is a damaged file
        return None
    return data if len(data) == size and hashlib.sha256(data).hexdigest() == sha256 else None


def end_holds(path: Path, row_bytes: int, digests: bytes) -> bool:
    """Prove the last rows of half a cache: what was written last is what a power cut tears.

    Args:
        path: The pixels; rows that no record promises may follow.
        row_bytes: Bytes of a row.
        digests: 8 bytes for every row that the record promises.

    Returns:
        Whether the rows of the last `READ_BACK` bytes, and one at least, are there and hold.
    """
    known = array_of_digests(digests)
    first = max(0, len(known) - max(1, READ_BACK // row_bytes))
    try:
        if not is_regular(path):
            return False
        with path.open("rb") as file:
            file.seek(first * row_bytes)
            return all(
                digest_of(file.read(row_bytes)) == digest.tobytes() for digest in known[first:]
            )
    except OSError:
        return False

"""Which coefficients a message holds, in few bits: Elias gamma codes of the gaps between them.

A block of k sorted indices is the first of them in 8 bytes, the number of bits in 8 bytes (both
little-endian), and for every gap ``g >= 1`` to the next index ``floor(log2 g)`` zeros and then g
in binary, highest bit first: ``2 floor(log2 g) + 1`` bits (Elias 1975). The last byte is filled
up with zeros. No index is no byte. A uniformly random tenth of the coefficients costs 5.7 bits per
index, where a 32-bit number would cost 32.
"""

import struct

import numpy as np
from numpy.typing import NDArray

from edge_stl.errors import DataError


_HEAD = struct.Struct("<QQ")


def pack_indices(indices: NDArray[np.int64]) -> bytes:
    """Return the block of indices ``(k,)``, which stay as they are.

    Raises:
        ValueError: they do not ascend strictly from 0 or more: gaps of 0 have no code.
    """
    if not len(indices):
        return b""
    gaps = np.diff(indices)
    if indices[0] < 0 or (gaps < 1).any():
        raise ValueError("indices that do not ascend strictly from 0 or more")
    octaves = _octaves(gaps)
    ends = np.cumsum(2 * octaves + 1)
    count = int(ends[-1]) if len(ends) else 0
    bits = np.zeros(count, np.uint8)
    for place in range(int(octaves.max(initial=-1)) + 1):
        long = octaves >= place
        bits[ends[long] - 1 - place] = (gaps[long] >> place) & 1
    return _HEAD.pack(int(indices[0]), count) + np.packbits(bits).tobytes()


def unpack_indices(data: bytes, *, count: int, size: int) -> NDArray[np.int64]:
    """Read a block.

    Nothing is allocated before the length is known to be one that indices below ``size`` can
    have, so that no block costs more than they would.

    Args:
        data: the block.
        count: k, how many indices it must hold.
        size: D, which they are below.

    Returns:
        Indices ``(k,)``, strictly ascending.

    Raises:
        DataError: it is no such block. There is one block for k indices, to the last bit.
    """
    if not count:
        if data:
            raise _bad(f"{len(data)} bytes for no index", "no byte")
        return np.zeros(0, np.int64)
    if count > size:
        raise _bad(f"{count} indices", f"at most {size}")
    # a gap g takes at most 2 g - 1 bits, and all gaps together are below D
    if not _HEAD.size <= len(data) <= _HEAD.size + 2 * size // 8 + 1:
        raise _bad(f"{len(data)} bytes", f"{_HEAD.size} to {_HEAD.size + 2 * size // 8 + 1}")
    first, length = _HEAD.unpack_from(data)
    if len(data) != _HEAD.size + -(-length // 8):
        raise _bad(f"{len(data)} bytes", f"those of the {length} bits that it announces")
    bits = np.unpackbits(np.frombuffer(data, np.uint8, offset=_HEAD.size))
    if bits[length:].any():
        raise _bad("bits after its end", "zeros")
    gaps = _read_gaps(bits[:length], count - 1, size)
    if first + int(gaps.sum()) >= size:
        raise _bad("an index beyond the model", f"indices below {size}")
    return int(first) + np.concatenate([np.zeros(1, np.int64), np.cumsum(gaps)])


def _read_gaps(bits: NDArray[np.uint8], count: int, size: int) -> NDArray[np.int64]:
    """Return the gaps of exactly ``count`` codes that fill the bits."""
    end, starts = len(bits), np.zeros(1, np.int64)
    places = np.arange(end)
    # the first 1 at or after every place; a code that starts there ends as far behind it as it
    # begins before it, and beyond the end where no 1 follows
    ones = np.minimum.accumulate(np.where(bits, places, end)[::-1])[::-1]
    after = np.append(np.minimum(2 * ones - places + 1, end + 1), (end, end + 1))
    # where codes start is a chain through `after`; doubling walks it without a loop over codes
    jump = after
    while len(starts) <= count:
        starts = np.concatenate([starts, jump[starts]])
        jump = jump[jump]
    starts = starts[: count + 1]
    if starts[-1] != end or (count and starts[-2] >= end):
        raise _bad("bits that are not whole codes", f"{count} of them")
    heads = ones[starts[:-1]]
    octaves = heads - starts[:-1]
    if 2 ** int(octaves.max(initial=0)) >= 2 * size:
        raise _bad("an index beyond the model", f"indices below {size}")
    gaps = np.zeros(count, np.int64)
    for place in range(int(octaves.max(initial=-1)) + 1):
        long = octaves >= place
        gaps[long] = 2 * gaps[long] + bits[heads[long] + place]
    return gaps


def _octaves(gaps: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return ``floor(log2 g)`` of gaps from 1 to 2**53, exactly."""
    return np.frexp(gaps.astype(np.float64))[1].astype(np.int64) - 1


def _bad(found: str, wanted: str) -> DataError:
    return DataError(
        f"a block of indices with {found}; expected {wanted}. Check the link, and give every box "
        "the same plan, branch and method"
    )

"""Why images of a list are not in its cache: a byte for each of a million."""

import base64
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_stl.images import REASONS


WORDS = (*REASONS, "too_small")
IN_USE = 0  # the n-th word is said as n + 1


def code_of(reason: str) -> int:
    """Give the number of a reason.

    Args:
        reason: One of `WORDS`.
    """
    return WORDS.index(reason) + 1


TOO_SMALL = code_of("too_small")


def text_of(array: npt.NDArray[Any]) -> str:
    """Write an array of integers into a JSON record.

    Args:
        array: (N,) integers.

    Returns:
        Base64 of its little-endian bytes, compressed: few, as neighbours are alike.
    """
    plain = array.astype(array.dtype.newbyteorder("<")).tobytes()
    return base64.b64encode(zlib.compress(plain, 1)).decode("ascii")


def array_of(text: str, dtype: str) -> npt.NDArray[Any]:
    """Give back what `text_of` wrote.

    Args:
        text: What it gave; ours, as its record proved itself.
        dtype: ``u1`` or ``i4``.

    Returns:
        (N,) integers, writable.
    """
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), f"<{dtype}").astype(dtype)

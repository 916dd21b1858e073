"""The paper's three ways to cut an image into equal parts, for comparison.

A plan uses `polyphase` alone (``stl-dct``, ``stl-dft``); the other two are what Liu, Wang, Yuan and
Han (TNNLS 2024) compare it with. Parts lie along a new axis, the third mode of the tensor products
in `edge_stl.layers`::

    polyphase   b^2 interleaved components; n = b i + j holds x[b y + i, b x + j]
    block       b^2 tiles; n = b i + j holds x[i H/b + y, j W/b + x]
    row         b strips of H/b rows; n holds x[n H/b + y, x]
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray


Segmentation = Literal["polyphase", "block", "row"]


def segment(images: NDArray[np.generic], kind: Segmentation, size: int) -> NDArray[np.generic]:
    """Cut images into parts.

    Args:
        images: ``(..., H, W)``, any dtype.
        kind: ``polyphase``, ``block`` or ``row``.
        size: b.

    Returns:
        ``(..., b^2, H/b, W/b)``, or ``(..., b, H/b, W)`` for ``row``; a copy.

    Raises:
        ValueError: the kind is unknown, or a side is not divisible by b.
    """
    *lead, height, width = images.shape
    b = _checked(kind, size, height, width)
    if kind == "row":
        return images.reshape(*lead, b, height // b, width).copy()
    if kind == "block":
        tiles = images.reshape(*lead, b, height // b, b, width // b).swapaxes(-3, -2)
    else:
        split = images.reshape(*lead, height // b, b, width // b, b)
        tiles = np.moveaxis(split, (-3, -1), (-4, -3))
    return tiles.reshape(*lead, b * b, height // b, width // b).copy()


def assemble(parts: NDArray[np.generic], kind: Segmentation, size: int) -> NDArray[np.generic]:
    """Put images together from their parts; the inverse of `segment`.

    Args:
        parts: ``(..., b^2, h, w)``, or ``(..., b, h, w)`` for ``row``.
        kind: as for `segment`.
        size: b.

    Returns:
        ``(..., b h, b w)``, or ``(..., b h, w)`` for ``row``; a copy.

    Raises:
        ValueError: the kind is unknown, or there are not b^2 (b) parts.
    """
    *lead, count, h, w = parts.shape
    b = _checked(kind, size, 0, 0)
    if count != (b if kind == "row" else b * b):
        raise ValueError(f"{count} parts; {kind} of size {b} has {b if kind == 'row' else b * b}")
    if kind == "row":
        return parts.reshape(*lead, b * h, w).copy()
    grid = parts.reshape(*lead, b, b, h, w)
    if kind == "block":
        return grid.swapaxes(-3, -2).reshape(*lead, b * h, b * w).copy()
    return np.moveaxis(grid, (-4, -3), (-3, -1)).reshape(*lead, b * h, b * w).copy()


def _checked(kind: str, size: int, height: int, width: int) -> int:
    if kind not in ("polyphase", "block", "row"):
        raise ValueError(f"{kind!r} is no segmentation; expected polyphase, block or row")
    if size < 1 or height % size or (kind != "row" and width % size):
        raise ValueError(f"{height} x {width} does not divide into {kind} parts of size {size}")
    return size

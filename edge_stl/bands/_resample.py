"""How a fine image becomes a coarse one: the common resampling kernels as small matrices.

``coarse = M @ fine @ M.T`` with one matrix per kernel and pair of sizes. All but ``nearest`` are
antialiased: the kernel is stretched by the ratio of the sizes, so every fine pixel counts. The
kernels are those of Pillow's ``resize`` (libImaging/Resample.c): at a border the taps outside the
image are left out and the others normalized.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray


Kernel = Literal["area", "lanczos", "bicubic", "bilinear", "nearest"]
KERNELS: tuple[Kernel, ...] = get_args(Kernel)
"""The one every plan assumes comes first."""

_Shape = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@lru_cache(maxsize=256)
def resampling(kernel: Kernel, *, fine: int, coarse: int) -> NDArray[np.float64]:
    """Return the matrix of a kernel along one axis; its rows sum to 1.

    Args:
        kernel: one of `KERNELS`; ``area`` is the mean of the pixels covered.
        fine: pixels before.
        coarse: pixels after; divides ``fine``.

    Returns:
        ``(coarse, fine)`` float64, read-only.

    Raises:
        ValueError: the sizes have no integer ratio, or the kernel is unknown.
    """
    if coarse < 1 or fine % coarse:
        raise ValueError(f"{fine} to {coarse} pixels: is no integer ratio")
    factor = fine // coarse
    if kernel == "nearest":
        matrix: NDArray[np.float64] = np.zeros((coarse, fine))
        matrix[np.arange(coarse), np.arange(coarse) * factor + factor // 2] = 1
    elif kernel == "area":
        matrix = np.kron(np.eye(coarse), np.full((1, factor), 1 / factor))
    elif kernel in _SHAPES:
        centres = (np.arange(coarse)[:, None] + 0.5) * factor
        matrix = _SHAPES[kernel]((np.arange(fine) + 0.5 - centres) / factor)
        matrix /= matrix.sum(axis=1, keepdims=True)
    else:
        raise ValueError(f"kernel {kernel!r} is none of {', '.join(KERNELS)}")
    matrix.setflags(write=False)
    return matrix


def _triangle(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.abs(x) < 1, 1 - np.abs(x), 0)


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Keys' cubic convolution with a = -1/2 (IEEE TASSP 29(6), 1981, equation 15)."""
    x = np.abs(x)
    inner = (1.5 * x - 2.5) * x * x + 1
    outer = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, inner, np.where(x < 2, outer, 0))  # noqa: PLR2004  (its support)


def _lanczos(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sinc under the main lobe of a sinc three times as wide."""
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)  # noqa: PLR2004  (its support)


_SHAPES: dict[str, _Shape] = {"bilinear": _triangle, "bicubic": _cubic, "lanczos": _lanczos}

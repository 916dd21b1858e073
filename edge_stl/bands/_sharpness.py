"""How sharp a box's images are, in a few numbers: what tells the kernel of a camera.

Of grey images (the mean of the channels), three mean squares of unit-DC Haar details: axis
details (``cH`` and ``cV``) of the finest level, diagonal ones (``cD``) of it, and axis details of
the next level. Their ratios do not depend on light or contrast and little on what is in the
pictures, and a resampling kernel moves them by far more: blur lowers the finest level, aliasing
raises it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_stl.bands._resample import KERNELS, Kernel, resampling


FEWEST_IMAGES = 20
"""With fewer the numbers would say something of single images, and little of the camera."""

MOST_IMAGES = 1000
"""More would say nothing new: the mixture of the pictures matters more than their number."""

_MOST_VALUES = 1 << 26  # of all images together: seconds on a small box, also for large images
_AT_ONCE = 1 << 22  # values in memory as float32, 16 MB
_SMALLEST = 4  # pixels of a side: two levels of details
_DIGITS = 5

Energies = tuple[float, float, float]
"""Mean squares of axis details, diagonal details, and axis details one level coarser."""


class Rows(Protocol):
    """Images ``(N, r, r, C)`` uint8 that give rows: an array, or a file that is read by rows."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return ``(N, r, r, C)``."""

    def __getitem__(self, index: NDArray[np.int64], /) -> NDArray[np.uint8]:
        """Return the rows ``(n, r, r, C)`` of a 1-D index."""


@dataclass(frozen=True)
class Sharpness:
    """The numbers of one set of images.

    Attributes:
        images: how many were looked at.
        native: of the images as they are.
        coarser: of the same images made coarser by each kernel: side in pixels, kernel, numbers.
    """

    images: int
    native: Energies
    coarser: dict[int, dict[Kernel, Energies]]


def sharpness(images: Rows, *, coarser: Sequence[int] = ()) -> Sharpness | None:
    """Measure images, at most `MOST_IMAGES` of them, evenly spaced.

    Args:
        images: ``(N, r, r, C)`` uint8.
        coarser: sides below r to which they are resampled by every kernel; each divides r. Sides
            too small for two levels of details are left out.

    Returns:
        the numbers to 5 significant digits; None with fewer than `FEWEST_IMAGES` images or for
        images below 4 pixels, which say nothing.
    """
    total, side = images.shape[0], images.shape[1]
    values = int(np.prod(images.shape[1:]))
    count = min(total, most_images(values))
    if count < FEWEST_IMAGES or side < _SMALLEST:
        return None
    index = np.arange(count) * total // count
    sides = [s for s in coarser if s >= _SMALLEST]
    native = np.zeros(3)
    sums: dict[tuple[int, Kernel], NDArray[np.float64]] = {
        (s, kernel): np.zeros(3) for s in sides for kernel in KERNELS
    }
    step = max(1, _AT_ONCE // values)
    for start in range(0, count, step):
        part = np.asarray(images[index[start : start + step]])
        grey = part.mean(axis=3, dtype=np.float64) / 255
        native += _energies(grey)
        for s, kernel in sums:
            matrix = resampling(kernel, fine=side, coarse=s)
            sums[s, kernel] += _energies(matrix @ grey @ matrix.T)
    return Sharpness(
        images=count,
        native=_rounded(native / count),
        coarser={
            s: {kernel: _rounded(sums[s, kernel] / count) for kernel in KERNELS} for s in sides
        },
    )


def most_images(values: int) -> int:
    """Return how many images of so many values each are looked at: seconds, whatever their size."""
    return min(MOST_IMAGES, max(FEWEST_IMAGES, _MOST_VALUES // max(1, values)))


def _energies(grey: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the three numbers of images ``(n, r, r)``, each summed over the images."""
    low, axis, diagonal = _level(grey)
    return np.array([axis, diagonal, _level(low)[1]])


def _level(grey: NDArray[np.float64]) -> tuple[NDArray[np.float64], float, float]:
    """Return approximation and energies of one level; an odd last row or column is left out."""
    even = grey.shape[1] // 2 * 2
    top, bottom = grey[:, 0:even:2, :even], grey[:, 1:even:2, :even]
    total, change = (top + bottom) / 2, (top - bottom) / 2
    low = (total[..., 0::2] + total[..., 1::2]) / 2
    down = (change[..., 0::2] + change[..., 1::2]) / 2
    across = (total[..., 0::2] - total[..., 1::2]) / 2
    both = (change[..., 0::2] - change[..., 1::2]) / 2
    axis = (down**2 + across**2).mean(axis=(1, 2)).sum()
    return low, float(axis), float((both**2).mean(axis=(1, 2)).sum())


def _rounded(values: NDArray[np.float64]) -> Energies:
    # The last digits would depend on the machine's way of adding.
    first, second, third = (float(f"{v:.{_DIGITS}g}") for v in values)
    return first, second, third

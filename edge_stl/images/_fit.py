"""Images of any size to squares: which square, how it is shrunk, which resolution a box has.

Shrinking is area averaging: every target pixel is the mean of the source pixels it covers. Where
the ratio is an integer this is done in numpy, exactly and rounded half up; Pillow's ``BOX``
averages rows and columns one after the other and rounds in between, so it differs by at most
1/255 there (a test holds it to that). Other ratios use Pillow's ``BOX``.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt

from edge_stl.errors import DataError, UsageError
from edge_stl.images._pillow import pillow_image


Fit = Literal["crop", "pad", "stretch"]
"""How a non-square image becomes square: its centre, black borders, or both axes by themselves."""

# DESIGN: a box works at the largest resolution that this share of its images reaches
_SHARE_PERCENT = 95


def fitted_side(width: int, height: int, fit: Fit) -> int:
    """Give the side of the square that an image becomes without being enlarged.

    Args:
        width: Pixels.
        height: Pixels.
        fit: ``crop``, ``pad`` or ``stretch``.

    Returns:
        The shorter side for ``crop`` and ``stretch``, the longer one for ``pad``.

    Raises:
        UsageError: ``fit`` is none of the three.
    """
    if fit in {"crop", "stretch"}:
        return min(width, height)
    if fit == "pad":
        return max(width, height)
    raise UsageError(f"fit: is '{fit}'; expected crop, pad or stretch. Choose one.")


def fit_square(pixels: npt.NDArray[np.uint8], side: int, fit: Fit) -> npt.NDArray[np.uint8]:
    """Make an image square and shrink it by area averaging; never enlarges.

    Args:
        pixels: (H, W, C) uint8, C is 1 or 3.
        side: The side of the result in pixels, at least 1.
        fit: ``crop`` keeps the centre, ``pad`` adds black borders, ``stretch`` shrinks the axes
            independently. Where the surplus is odd, the extra pixel is at the end.

    Returns:
        (side, side, C) uint8.

    Raises:
        DataError: The fitted side of the image is smaller than ``side``.
        UsageError: ``fit`` is none of the three, or Pillow is needed and not installed.
    """
    height, width, channels = pixels.shape
    square = fitted_side(width, height, fit)
    if square < side:
        raise DataError(
            f"image: is {width}x{height}, smaller than {side}; images are never enlarged. "
            "Use a larger image or a smaller resolution."
        )
    if fit == "crop":
        top, left = (height - square) // 2, (width - square) // 2
        pixels = pixels[top : top + square, left : left + square]
    elif fit == "pad":
        padded = np.zeros((square, square, channels), dtype=np.uint8)
        top, left = (square - height) // 2, (square - width) // 2
        padded[top : top + height, left : left + width] = pixels
        pixels = padded
    height, width, _ = pixels.shape
    if height % side == 0 and width % side == 0:
        return _averaged(pixels, side)
    pillow = pillow_image()
    # Pillow wants (H, W) for grey
    flat = np.ascontiguousarray(pixels[:, :, 0] if channels == 1 else pixels)
    image = pillow.fromarray(flat).resize((side, side), pillow.Resampling.BOX)
    small: npt.NDArray[np.uint8] = np.array(image, dtype=np.uint8)
    return small.reshape(side, side, channels)


def native_resolution(sides: npt.ArrayLike, *, resolution: int, levels: int) -> tuple[int, int]:
    """Choose the resolution at which a box works.

    Args:
        sides: The fitted side of every readable image, (N,) integers, see `fitted_side`.
        resolution: The plan's reference resolution R, divisible by ``2**levels``.
        levels: How often R may be halved.

    Returns:
        (r, left_out): the largest ``R / 2**k``, k = 0..levels, that at least 95 % of the images
        reach, and how many are smaller than that.

    Raises:
        DataError: There is no image, or fewer than 95 % reach even ``R / 2**levels``.
    """
    array = np.asarray(sides, dtype=np.int64).reshape(-1)
    count = array.size
    coarsest = resolution >> levels
    if count == 0:
        raise DataError(
            f"images: none can be read; expected images of at least {coarsest} px. "
            "Check the folder and its image files."
        )
    reach = 0
    for k in range(levels + 1):
        r = resolution >> k
        reach = int(np.count_nonzero(array >= r))
        if 100 * reach >= _SHARE_PERCENT * count:
            return r, count - reach
    raise DataError(
        f"images: only {reach} of {count} reach {coarsest} px on their fitted side, the coarsest "
        f"resolution of the plan; at least {_SHARE_PERCENT} % must. "
        f"Use images of at least {coarsest} px or a plan with a smaller resolution."
    )


def _averaged(pixels: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    """Average blocks of an integer size: (side*ky, side*kx, C) -> (side, side, C)."""
    height, width, channels = pixels.shape
    ky, kx = height // side, width // side
    # rows first, in 32 bits: 255 * ky fits, and the inner loop runs over contiguous memory
    rows = pixels.reshape(side, ky, width * channels).sum(axis=1, dtype=np.uint32)
    sums = rows.reshape(side, side, kx, channels).sum(axis=2, dtype=np.uint64)
    area = kx * ky
    mean: npt.NDArray[np.uint64] = (2 * sums + np.uint64(area)) // np.uint64(2 * area)
    return mean.astype(np.uint8)

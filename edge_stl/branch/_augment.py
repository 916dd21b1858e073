"""Random changes of a batch in the pixel domain, as one pass of index arithmetic.

What happens to an image is a pure function of (seed, epoch, image index), whatever the batch it is
in: a run that is resumed sees the same pictures.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_stl.branch._pixels import Pixels


@dataclass(frozen=True)
class Draws:
    """The random numbers of one epoch, one row per image.

    Attributes:
        rows: shift along axis 0 in pixels, ``(N,)``.
        cols: shift along axis 1 in pixels, ``(N,)``.
        mirror: whether the image is mirrored left-right, ``(N,)`` bool.
    """

    rows: NDArray[np.int64]
    cols: NDArray[np.int64]
    mirror: NDArray[np.bool_]


def draw(rng: np.random.Generator, count: int, *, side: int, shift: float, flip: bool) -> Draws:
    """Draw for ``count`` images of ``side`` pixels.

    Args:
        rng: the epoch's generator.
        count: N, all images of the epoch.
        side: rows and columns of an image.
        shift: largest shift as a share of the side; half a pixel and more counts as one pixel.
        flip: whether half of the images are mirrored.
    """
    reach = round(shift * side)
    return Draws(
        rows=rng.integers(-reach, reach + 1, count),
        cols=rng.integers(-reach, reach + 1, count),
        mirror=rng.random(count) < (0.5 if flip else 0.0),
    )


def apply(images: Pixels, index: NDArray[np.int64], draws: Draws) -> NDArray[np.uint8]:
    """Return the changed images ``(n, r, r, C)`` uint8; what a shift uncovers repeats the edge.

    Args:
        images: all images ``(N, r, r, C)`` uint8; only the rows of the batch are asked for.
        index: which of them, ``(n,)``.
        draws: the epoch's numbers for all N.
    """
    side = images.shape[1]
    places = np.arange(side)
    rows = np.clip(places + draws.rows[index, None], 0, side - 1)
    cols = np.clip(places + draws.cols[index, None], 0, side - 1)
    cols = np.where(draws.mirror[index, None], cols[:, ::-1], cols)
    own = np.arange(len(index))[:, None, None]
    return np.asarray(images[index][own, rows[:, :, None], cols[:, None, :]])

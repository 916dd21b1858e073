"""What a branch asks of the images it is trained on: an array, or something that reads rows."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Pixels(Protocol):
    """All images of a box, ``(N, r, r, C)`` uint8.

    An ``ndarray`` is one. Whatever else is one may keep its images elsewhere: it is asked for the
    rows of one batch at a time.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Return ``(N, r, r, C)``."""

    def __getitem__(self, index: NDArray[np.int64], /) -> NDArray[np.uint8]:
        """Return the images ``(n, r, r, C)`` uint8 of the rows ``(n,)``, in that order."""

"""One-dimensional filters on a circle: the one representation of every transform.

A filter has taps, a stride and an offset. Analysis gathers and synthesis scatters along the
same index, with everything taken modulo the size of the signal (``periodization``)::

    analysis    y[n] = sum_k taps[k] * x[(stride * n + k - offset) mod size]
    synthesis   x[(stride * n + k - offset) mod size] += taps[k] * y[n]

    ... x[-2] x[-1] | x[0] x[1] ... x[size-1] | x[0] x[1] ...      the signal goes on as itself
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Filter:
    """A strided circular correlation.

    Attributes:
        taps: the coefficients, in the order in which they meet the signal.
        stride: samples between two outputs; the signal's size is a multiple of it.
        offset: how many samples before ``stride * n`` the window of output n begins.
    """

    taps: tuple[float, ...]
    stride: int
    offset: int

    def then(self, inner: "Filter") -> "Filter":
        """Return the one filter that equals ``self`` followed by ``inner``.

        Substituting y into ``z[n] = sum_k b[k] y[s2 n + k - o2]`` gives taps ``a * (b upsampled
        by s1)``, stride ``s1 s2`` and offset ``o1 + s1 o2``; on a circle this is exact, so a
        cascade of levels is a single filter.
        """
        upsampled = np.zeros((len(inner.taps) - 1) * self.stride + 1)
        upsampled[:: self.stride] = inner.taps
        taps = np.convolve(np.asarray(self.taps), upsampled)
        return Filter(
            taps=tuple(taps.tolist()),
            stride=self.stride * inner.stride,
            offset=self.offset + self.stride * inner.offset,
        )

    def scaled(self, factor: float) -> "Filter":
        """Return the filter with every tap times ``factor``."""
        return Filter(tuple(t * factor for t in self.taps), self.stride, self.offset)

    def folded(self, size: int) -> "Filter":
        """Return an equal filter for signals of ``size`` samples that wraps at most once.

        A filter longer than the signal meets every sample several times; taps that meet the same
        sample are added, which leaves at most ``size`` of them.

        Raises:
            ValueError: ``size`` is not a multiple of the stride.
        """
        if size % self.stride:
            raise ValueError(f"size {size} is not a multiple of the stride {self.stride}")
        if len(self.taps) <= size:
            return Filter(self.taps, self.stride, self.offset % size)
        # Rotated so that the window begins at sample stride * n: nothing is left to wrap before it.
        taps = np.zeros(size)
        np.add.at(taps, (np.arange(len(self.taps)) - self.offset) % size, self.taps)
        return Filter(tuple(taps.tolist()), self.stride, 0)

    def padding(self, size: int) -> tuple[int, int]:
        """Return how many wrapped samples a folded filter needs before and after the signal.

        The second number is negative where the last samples of the padded signal stay unused.
        """
        after = (size - self.stride) + len(self.taps) - self.offset - size
        return self.offset, after

    def matrix(self, size: int) -> NDArray[np.float64]:
        """Return analysis as ``(size // stride, size)`` float64; synthesis is its transpose."""
        if size % self.stride:
            raise ValueError(f"size {size} is not a multiple of the stride {self.stride}")
        outputs = size // self.stride
        matrix = np.zeros((outputs, size))
        rows = np.arange(outputs)[:, None]
        columns = (self.stride * rows + np.arange(len(self.taps)) - self.offset) % size
        np.add.at(matrix, (np.broadcast_to(rows, columns.shape), columns), self.taps)
        return matrix


IDENTITY = Filter((1.0,), 1, 0)

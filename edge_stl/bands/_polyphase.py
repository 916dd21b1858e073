"""The paper's polyphase transforms: names, filters and scale of ``stl-dct`` and ``stl-dft``.

An image is taken apart into ``b^2`` interleaved components, component ``n = b i + j`` holding the
pixels ``x[b y + i, b x + j]``, and a transform of length ``N = b^2`` runs along the components
(Liu, Wang, Yuan, Han, TNNLS 2024)::

    stl-dct   p_u = s_u / b * sum_n x_n cos(pi (2n + 1) u / 2N)     s_0 = sqrt(1/N), else sqrt(2/N)
    stl-dft   f_k = 1 / b^2 * sum_n x_n exp(-2 pi i k n / N)        real and imaginary part apart

Both have unit DC gain. This is not the block DCT: that one is the *two*-dimensional transform of
the same components. With ``n = b i + j`` every angle is one of the row plus one of the column, so
by the addition theorems each band is a sum of two separable filters.
"""

import math
from collections.abc import Callable

from edge_stl.bands._filter import Filter


Terms = tuple[tuple[Filter, Filter], ...]


def dct_bands(side: int) -> tuple[str, ...]:
    """Return ``p00 p01 ...``: coefficient 0 to ``b^2 - 1``, low to high; b is 9 at most."""
    return tuple(f"p{u:02}" for u in range(side * side))


def dft_bands(side: int) -> tuple[str, ...]:
    """Return ``f00 f01r f01i ...``: ``b^2`` real bands, low to high.

    The coefficients of a real signal come in conjugate pairs, of which the second is dropped;
    frequency 0, and ``b^2 / 2`` where b is even, are real.
    """
    count = side * side
    names = ["f00"]
    for k in range(1, count // 2 + 1):
        names += [f"f{k:02}"] if 2 * k == count else [f"f{k:02}r", f"f{k:02}i"]
    return tuple(names)


def dct_terms(side: int, name: str) -> tuple[Terms, Terms]:
    """Return analysis and synthesis of an ``stl-dct`` band as sums of separable filters."""
    u, count = int(name[1:]), side * side
    rows = [math.pi * u * i / side for i in range(side)]
    cols = [math.pi * u * (2 * j + 1) / (2 * count) for j in range(side)]
    scale = math.sqrt((1.0 if u == 0 else 2.0) / count)
    # An orthogonal transform is undone by its transpose.
    return _cosine(rows, cols, scale / side), _cosine(rows, cols, scale * side)


def dft_terms(side: int, name: str) -> tuple[Terms, Terms]:
    """Return analysis and synthesis of an ``stl-dft`` band as sums of separable filters."""
    k, count = int(name[1:3]), side * side
    rows = [2 * math.pi * ((k * i) % side) / side for i in range(side)]
    cols = [2 * math.pi * k * j / count for j in range(side)]
    # Synthesis meets the dropped conjugate here: a pair counts twice, a real coefficient once.
    times = 1.0 if 2 * k in (0, count) else 2.0
    of = _sine if name.endswith("i") else _cosine
    sign = -1.0 if name.endswith("i") else 1.0
    return of(rows, cols, sign / count), of(rows, cols, sign * times)


def _cosine(rows: list[float], cols: list[float], scale: float) -> Terms:
    """Return ``scale * cos(row + col)``."""
    return (
        (_filter(math.cos, rows, 1.0), _filter(math.cos, cols, scale)),
        (_filter(math.sin, rows, 1.0), _filter(math.sin, cols, -scale)),
    )


def _sine(rows: list[float], cols: list[float], scale: float) -> Terms:
    """Return ``scale * sin(row + col)``."""
    return (
        (_filter(math.sin, rows, 1.0), _filter(math.cos, cols, scale)),
        (_filter(math.cos, rows, 1.0), _filter(math.sin, cols, scale)),
    )


def _filter(function: Callable[[float], float], angles: list[float], scale: float) -> Filter:
    return Filter(tuple(scale * function(a) for a in angles), len(angles), 0)

"""Filter banks: the filters of every band at a native resolution, and the numpy reference.

Unit DC gain: the low-pass has gain 1 and the details the same factor, so a level-k wavelet band
is PyWavelets' divided by ``2^k`` and a block-DCT band is ``scipy.fft.dctn(norm="ortho")``
divided by b; for the polyphase transforms see `_polyphase`. Applied along rows (axis 0) and
columns (axis 1), each axis carries the root of it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edge_stl.bands._filter import IDENTITY, Filter
from edge_stl.bands._polyphase import dct_terms, dft_terms
from edge_stl.bands._transform import Transform


@dataclass(frozen=True)
class Band:
    """One band as a sum of separable filters.

    Attributes:
        name: the band id.
        analysis: pairs (filter along rows, filter along columns) whose outputs are added.
        synthesis: the same for the way back.
    """

    name: str
    analysis: tuple[tuple[Filter, Filter], ...]
    synthesis: tuple[tuple[Filter, Filter], ...]

    @property
    def stride(self) -> int:
        """Return how many pixels one coefficient stands for along an axis."""
        return self.analysis[0][0].stride


@dataclass(frozen=True)
class Bank:
    """The bands of a transform that a box at one native level computes, in a fixed order."""

    transform: Transform
    native_level: int
    bands: tuple[Band, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Return the band ids in order."""
        return tuple(band.name for band in self.bands)

    def analyze(self, image: NDArray[np.floating]) -> dict[str, NDArray[np.floating]]:
        """Split an image into bands: the numpy reference of every other implementation.

        Args:
            image: ``(..., H, W)`` float32 or float64, H and W multiples of the block.

        Returns:
            band id to ``(..., H / stride, W / stride)`` of the same dtype.

        Raises:
            ValueError: a side is not a multiple of what the bands need.
        """
        height, width = image.shape[-2:]
        out: dict[str, NDArray[np.floating]] = {}
        for band in self.bands:
            out[band.name] = sum(
                _matrix(rows, height, image.dtype) @ image @ _matrix(cols, width, image.dtype).T
                for rows, cols in band.analysis
            )
        return out

    def synthesize(self, bands: Mapping[str, NDArray[np.floating]]) -> NDArray[np.floating]:
        """Put an image together from bands; the inverse of `analyze`.

        Args:
            bands: band id to ``(..., h, w)``; the bands of ``transform.bands()`` at this native
                level for perfect reconstruction. Bands left out count as zero; a redundant one
                (``cA1`` beside ``cA2``) would be counted twice and is refused.

        Returns:
            ``(..., H, W)`` of the bands' dtype.

        Raises:
            ValueError: a band is not in this bank, none is given, or one is redundant.
        """
        own = {band.name: band for band in self.bands}
        unknown = sorted(set(bands) - set(own))
        if unknown or not bands:
            raise ValueError(f"bands {unknown} are not in this bank of {list(own)}")
        redundant = sorted(set(bands) - set(self.transform.bands()))
        if redundant and self.native_level < self.transform.levels:
            raise ValueError(f"bands {redundant} are redundant: synthesis would count them twice")
        image: NDArray[np.floating] | None = None
        for name, values in bands.items():
            stride = own[name].stride
            height, width = values.shape[-2] * stride, values.shape[-1] * stride
            for rows, cols in own[name].synthesis:
                part = (
                    _matrix(rows, height, values.dtype).T
                    @ values
                    @ _matrix(cols, width, values.dtype)
                )
                image = part if image is None else image + part
        assert image is not None  # noqa: S101  (a band has at least one term)
        return image


def bank(
    transform: Transform, *, native_level: int = 0, bands: Sequence[str] | None = None
) -> Bank:
    """Return the filters of ``bands`` for a box at ``R / 2^native_level``.

    Args:
        transform: the plan's transform.
        native_level: 0 for images at the plan's resolution, 1 for half of it, and so on.
        bands: band ids in the wanted order; by default all critically sampled bands that exist
            at this native level.

    Raises:
        ValueError: a band does not exist, or not at this native level.
    """
    if not 0 <= native_level <= transform.levels:
        raise ValueError(f"native level {native_level} is not in 0..{transform.levels}")
    if bands is None:
        bands = [name for name in transform.bands() if transform.coarsest(name) >= native_level]
    built = []
    for name in bands:
        if transform.coarsest(name) < native_level:
            raise ValueError(
                f"band {name} does not exist at native level {native_level}; its coarsest is "
                f"{transform.coarsest(name)}"
            )
        built.append(_band(transform, native_level, name))
    return Bank(transform, native_level, tuple(built))


@lru_cache(maxsize=1024)
def _band(transform: Transform, native_level: int, name: str) -> Band:
    if transform.kind == "stl-dct":
        return Band(name, *dct_terms(transform.side, name))
    if transform.kind == "stl-dft":
        return Band(name, *dft_terms(transform.side, name))
    if transform.kind == "dct":
        block = transform.block >> native_level
        rows, cols = _dct_axis(block, int(name[3])), _dct_axis(block, int(name[4]))
    else:
        depth = int(name[2:]) - native_level
        # 'cH' is detail along axis 0 ('da'), 'cV' along axis 1 ('ad'), 'cD' along both.
        detail_rows, detail_cols = name[1] in "HD", name[1] in "VD"
        rows = _wavelet_axis(transform.wavelet, depth, detail=detail_rows)
        cols = _wavelet_axis(transform.wavelet, depth, detail=detail_cols)
    return Band(name, ((rows[0], cols[0]),), ((rows[1], cols[1]),))


def _wavelet_axis(wavelet: str, depth: int, *, detail: bool = False) -> tuple[Filter, Filter]:
    """Return the analysis and synthesis filter of ``depth`` cascaded levels along one axis.

    PyWavelets computes ``y[n] = sum_k dec[k] x[2n + L/2 - k]``; as a correlation that is the
    flipped taps with offset ``L/2 - 1``. Its synthesis scatters ``rec`` with the same offset.
    """
    import pywt  # a room that only predicts never needs it

    if depth == 0:
        return IDENTITY, IDENTITY
    taps = pywt.Wavelet(wavelet)
    offset = taps.dec_len // 2 - 1
    root = math.sqrt(0.5)
    low = Filter(tuple(taps.dec_lo[::-1]), 2, offset).scaled(root)
    high = Filter(tuple(taps.dec_hi[::-1]), 2, offset).scaled(root)
    low_back = Filter(tuple(taps.rec_lo), 2, offset).scaled(1 / root)
    high_back = Filter(tuple(taps.rec_hi), 2, offset).scaled(1 / root)
    analysis = synthesis = IDENTITY
    for _ in range(depth - 1):
        analysis, synthesis = analysis.then(low), synthesis.then(low_back)
    return analysis.then(high if detail else low), synthesis.then(high_back if detail else low_back)


def _dct_axis(block: int, frequency: int) -> tuple[Filter, Filter]:
    """Return row ``frequency`` of the orthonormal DCT-II over sqrt(block), and the way back."""
    scale = math.sqrt((1.0 if frequency == 0 else 2.0) / block)
    taps = tuple(
        scale * math.cos(math.pi * (2 * i + 1) * frequency / (2 * block)) for i in range(block)
    )
    plain = Filter(taps, block, 0)
    return plain.scaled(1 / math.sqrt(block)), plain.scaled(math.sqrt(block))


@lru_cache(maxsize=256)
def _matrix(filter_: Filter, size: int, dtype: np.dtype) -> NDArray[np.floating]:
    matrix = filter_.matrix(size).astype(dtype)
    matrix.flags.writeable = False
    return matrix

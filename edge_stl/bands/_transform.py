"""Which bands a transform has, and which of them exist at which native resolution.

All of this is arithmetic on names: no filter and no pixel is touched. A box works at
``r = R / 2^k``; ``k`` is its *native level*. Level 1 is the finest band level.

* wavelet, ``levels`` L: ``cA_j`` has size ``R / 2^j`` and exists for native levels up to j (at j
  it is the image itself); details of level j have the same size and exist up to ``j - 1``.
* block DCT of size ``b = 2^L``: every band has size ``R / b``; ``(u, v)`` exists while
  ``max(u, v) < b / 2^k``, because a box at native level k takes the DCT of size ``b / 2^k``.
* polyphase (the paper's), size b: ``b^2`` bands of size ``R / b``, all of native level 0 only.
"""

import re
from dataclasses import dataclass
from typing import Literal

from edge_stl.bands import _polyphase


Kind = Literal["wavelet", "dct", "stl-dct", "stl-dft"]

_WAVELET_BAND = re.compile(r"c([AHVD])(0|[1-9][0-9]?)")
_DCT_BAND = re.compile(r"dct([0-9])([0-9])")


@dataclass(frozen=True)
class Transform:
    """A linear transform that splits an image into bands.

    Attributes:
        kind: ``wavelet`` (separable, decimated, periodization), ``dct`` (block DCT-II), or the
            paper's polyphase transforms ``stl-dct`` and ``stl-dft``.
        levels: number of levels L; 0 is the plain image as one band ``cA0``. A polyphase transform
            has none: it exists at the plan's resolution alone.
        wavelet: PyWavelets' name of the wavelet; empty for the others.
        side: b of a polyphase transform, 2 to 9; 0 for the others.
    """

    kind: Kind
    levels: int
    wavelet: str = ""
    side: int = 0

    @property
    def polyphase(self) -> bool:
        """Return whether this is ``stl-dct`` or ``stl-dft``."""
        return self.kind in ("stl-dct", "stl-dft")

    @property
    def block(self) -> int:
        """Return what the resolution must be divisible by: ``2^levels``, or the size b."""
        return self.side if self.polyphase else 1 << self.levels

    def bands(self) -> tuple[str, ...]:
        """Return the critically sampled bands, coarse to fine: enough for synthesis."""
        if self.kind == "stl-dct":
            return _polyphase.dct_bands(self.side)
        if self.kind == "stl-dft":
            return _polyphase.dft_bands(self.side)
        if self.kind == "dct":
            return tuple(
                name for level in range(self.levels, -1, -1) for name in self._shell(level)
            )
        details = (f"c{letter}{j}" for j in range(self.levels, 0, -1) for letter in "HVD")
        return (f"cA{self.levels}", *details)

    def all_bands(self) -> tuple[str, ...]:
        """Return every legal band: `bands` and the redundant approximations of finer levels."""
        if self.kind != "wavelet":
            return self.bands()
        finer = (f"cA{j}" for j in range(self.levels - 1, 0, -1))
        return (*self.bands(), *finer)

    def details(self, level: int) -> tuple[str, ...]:
        """Return the detail bands of ``level`` (1 is the finest); a polyphase has no levels."""
        if self.kind == "dct":
            return self._shell(level - 1)
        return tuple(f"c{letter}{level}" for letter in "HVD")

    def approximation(self, level: int) -> tuple[str, ...]:
        """Return the bands that together hold the image reduced by ``2^level``.

        For a wavelet that is ``cA_level``; for the DCT every band with ``max(u, v) < b / 2^level``.
        """
        if self.kind == "dct":
            side = self.block >> level
            return tuple(f"dct{u}{v}" for u in range(side) for v in range(side))
        return (f"cA{level}",)

    def size(self, band: str, resolution: int) -> int:
        """Return the spatial size of ``band`` for images of ``resolution`` pixels."""
        if self.kind != "wavelet":
            return resolution // self.block
        return resolution >> self._parse(band)[1]

    def coarsest(self, band: str) -> int:
        """Return the largest native level at which ``band`` exists.

        Raises:
            ValueError: ``band`` is not a band of this transform.
        """
        if self.polyphase:
            if not self.is_band(band):
                raise ValueError(f"{band!r} is not a band of {self}")
            return 0
        if self.kind == "dct":
            return self.levels - max(self._indices(band)).bit_length()
        letter, level = self._parse(band)
        return level if letter == "A" else level - 1

    def is_band(self, name: str) -> bool:
        """Return whether ``name`` is a legal band of this transform."""
        return name in self.all_bands()

    def order(self, band: str) -> int:
        """Return the position of ``band``, coarse to fine, for stable listings."""
        return self.all_bands().index(band)

    def _shell(self, level: int) -> tuple[str, ...]:
        """Return the DCT bands that appear when the block grows from ``b/2^(level+1)``."""
        side = self.block >> level
        inner = side >> 1 if level < self.levels else 0
        return tuple(f"dct{u}{v}" for u in range(side) for v in range(side) if max(u, v) >= inner)

    def _parse(self, band: str) -> tuple[str, int]:
        match = _WAVELET_BAND.fullmatch(band)
        if match is None or not self.is_band(band):
            raise ValueError(f"{band!r} is not a band of {self}")
        return match[1], int(match[2])

    def _indices(self, band: str) -> tuple[int, int]:
        match = _DCT_BAND.fullmatch(band)
        if match is None or not self.is_band(band):
            raise ValueError(f"{band!r} is not a band of {self}")
        return int(match[1]), int(match[2])

    def __str__(self) -> str:
        """Return the short form that the command line takes, like ``db2`` or ``dct:4``."""
        if self.kind != "wavelet":
            return f"{self.kind}:{self.block}"
        return (
            f"{self.wavelet}, {self.levels} levels"
            if self.levels != 1
            else f"{self.wavelet}, 1 level"
        )


def wavelet_names() -> tuple[str, ...]:
    """Return PyWavelets' discrete wavelets that are orthogonal or biorthogonal, sorted."""
    import pywt  # only a box and a desk that builds graphs need it

    found = []
    for name in pywt.wavelist(kind="discrete"):
        wavelet = pywt.Wavelet(name)
        if wavelet.orthogonal or wavelet.biorthogonal:
            found.append(name)
    return tuple(sorted(found))

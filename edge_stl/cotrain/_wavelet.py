"""The wavelet transform of a whole model: one long vector, not layer by layer."""

from itertools import pairwise

import numpy as np
import pywt
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge_stl.cotrain._settings import check_ranges


MODES = ("symmetric", "periodization")


class Wavelet:
    """The 1-D multilevel discrete wavelet transform T of vectors ``(P,)``, as ``(D,)``.

    The coefficients lie in PyWavelets' order, coarsest first: ``cA_L, cD_L, ..., cD_1``. With
    ``symmetric`` borders D is a few larger than P (89,834 becomes 89,843 with sym2 and four
    levels): T repeats a little at the borders, and the inverse is one from the left,
    ``T^-1(T(x)) = x``. ``periodization`` pads P with zeros to a multiple of ``2**level``, which
    is D, and is orthonormal for an orthogonal wavelet.

    Args:
        size: P, at least 1.
        name: a discrete wavelet of PyWavelets; default that of the JWINS authors.
        level: how many times the coarse part is split again, at least 0; fewer where P is too
            short for that many.
        mode: what lies beyond the borders, one of `MODES`.

    Attributes:
        size: P.
        length: D.
        level: as used.

    Raises:
        UsageError: there is no such transform.
    """

    def __init__(
        self, size: int, name: str = "sym2", level: int = 4, mode: str = "symmetric"
    ) -> None:
        check_wavelet(name, level, mode)
        self.size, self._mode = size, mode
        self._wavelet = pywt.Wavelet(name)
        self.level = min(level, int(pywt.dwt_max_level(size, self._wavelet.dec_len)))
        block = 2**self.level if mode == "periodization" else 1
        self._padding = -size % block
        parts = self._parts(np.zeros(size, np.float32))
        self._ends = np.cumsum([0, *(len(part) for part in parts)])
        self.length = int(self._ends[-1])

    def forward(self, vector: Tensor) -> Tensor:
        """Return the coefficients ``(D,)`` float32 of a vector ``(P,)`` float32."""
        return torch.from_numpy(np.concatenate(self._parts(vector.numpy())))

    def inverse(self, coefficients: Tensor) -> Tensor:
        """Return the vector ``(P,)`` float32 of coefficients ``(D,)`` float32.

        Coefficients that no vector has are read as the ones that PyWavelets' synthesis makes of
        them; for odd lengths it returns one value more, which is dropped.
        """
        flat = coefficients.numpy()
        parts = [flat[start:end] for start, end in pairwise(self._ends)]
        vector = pywt.waverec(parts, self._wavelet, mode=self._mode)[: self.size]
        return torch.from_numpy(np.ascontiguousarray(vector, np.float32))

    def _parts(self, vector: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        padded = np.pad(vector, (0, self._padding)) if self._padding else vector
        parts: list[NDArray[np.float32]] = pywt.wavedec(
            padded, self._wavelet, mode=self._mode, level=self.level
        )
        return parts


def check_wavelet(name: str, level: int, mode: str) -> None:
    """Check the settings of a `Wavelet`.

    Raises:
        UsageError: there is no such transform.
    """
    known = pywt.wavelist(kind="discrete")
    check_ranges(
        ("wavelet", name, name in known, "a discrete wavelet of PyWavelets like haar or sym2"),
        ("level", level, level >= 0, "a whole number of 0 or more"),
        ("mode", mode, mode in MODES, " or ".join(MODES)),
    )

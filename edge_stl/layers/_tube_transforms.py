"""The transforms of tubes by name: Fourier, cosine, wavelets, none, and any invertible matrix."""

import math

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from edge_stl.layers._tubes import TubeTransform


_LARGEST_CONDITION = 1e6
"""Float32 keeps 7 digits; a condition number of 1e6 leaves one of them."""

_ORTHOGONAL = 1e-8
"""PyWavelets' tabulated taps are orthogonal to 1e-10; dmey's, which are cut off, only to 1e-3."""


def dft(n: int) -> TubeTransform:
    """Return the discrete Fourier transform of a real tube, unnormalized, conjugates dropped.

    ``X[k] = sum_l x[l] exp(-2 pi i k l / n)``. The coordinates are n real numbers: ``X[0]``, then
    real and imaginary part of ``X[1], X[2], …``, then for even n the real ``X[n / 2]``.

    Raises:
        ValueError: ``n`` is not positive.
    """
    _positive("dft", n)
    places = np.arange(n)
    rows: list[NDArray[np.float64]] = [np.ones(n)]
    columns: list[NDArray[np.float64]] = [np.full(n, 1 / n)]
    blocks: list[tuple[int, ...]] = [(0,)]
    for k in range(1, (n + 1) // 2):
        phase = 2 * math.pi * (k * places % n) / n  # reduced first: whole turns cost no digits
        rows += [np.cos(phase), -np.sin(phase)]
        # The dropped conjugate frequency has the same share, hence the 2.
        columns += [2 / n * np.cos(phase), -2 / n * np.sin(phase)]
        blocks.append((2 * k - 1, 2 * k))
    if n % 2 == 0:
        signs = np.where(places % 2, -1.0, 1.0)
        rows.append(signs)
        columns.append(signs / n)
        blocks.append((n - 1,))
    return TubeTransform("dft", _tensor(np.stack(rows)), _tensor(np.stack(columns, 1)), (*blocks,))


def dct(n: int) -> TubeTransform:
    """Return the orthonormal DCT-II (Ahmed, Natarajan & Rao, IEEE Trans. Computers 1974).

    Row k is ``sqrt(2 / n) cos(pi k (2 l + 1) / (2 n))``, row 0 ``sqrt(1 / n)``; as
    ``scipy.fft.dct(norm="ortho")``.

    Raises:
        ValueError: ``n`` is not positive.
    """
    _positive("dct", n)
    k, places = np.arange(n)[:, None], np.arange(n)
    matrix = math.sqrt(2 / n) * np.cos(math.pi * (k * (2 * places + 1) % (4 * n)) / (2 * n))
    matrix[0] = math.sqrt(1 / n)
    return _orthogonal("dct", matrix)


def haar(n: int) -> TubeTransform:
    """Return the orthonormal Haar transform of full depth, coarse to fine.

    ``H_2n = [H_n (x) (1, 1); I_n (x) (1, -1)] / sqrt(2)``; as ``pywt.wavedec(…, "haar")``.

    Raises:
        ValueError: ``n`` is not a power of two.
    """
    if n < 1 or n & (n - 1):
        raise ValueError(f"transform haar: size {n}; expected a power of two")
    matrix = np.ones((1, 1))
    while len(matrix) < n:
        details = np.kron(np.eye(len(matrix)), [1.0, -1.0])
        matrix = np.concatenate([np.kron(matrix, [1.0, 1.0]), details]) / math.sqrt(2)
    return _orthogonal("haar", matrix)


def wavelet(n: int, name: str) -> TubeTransform:
    """Return an orthogonal wavelet transform, periodized, as deep as the size divides by two.

    The coordinates are ``pywt.wavedec(…, mode="periodization")`` end to end, coarse to fine.

    Args:
        n: length of a tube, even.
        name: PyWavelets' name of an orthogonal discrete wavelet, like ``db2``.

    Raises:
        ValueError: ``n`` is odd, or there is no such orthogonal wavelet.
    """
    import pywt  # a desk that has only torch needs no wavelets

    if name not in pywt.wavelist(kind="discrete"):
        raise ValueError(
            f"transform {name}: not a wavelet of PyWavelets; expected one of pywt.wavelist()"
        )
    if n < 2 or n % 2:  # noqa: PLR2004
        raise ValueError(f"transform {name}: size {n}; a wavelet expects an even one")
    coarse, details = np.eye(n), []
    while coarse.shape[1] % 2 == 0:
        coarse, detail = pywt.dwt(coarse, name, mode="periodization", axis=1)
        details.append(detail)
    matrix = np.concatenate([coarse, *details[::-1]], axis=1).T
    if not np.abs(matrix @ matrix.T - np.eye(n)).max() < _ORTHOGONAL:
        raise ValueError(
            f"transform {name}: not an orthogonal wavelet; expected haar, dbN, symN or coifN. "
            "A biorthogonal one can be given to from_matrix"
        )
    # Taps of ten digits are no exact transpose; the inverse is.
    return TubeTransform(name, _tensor(matrix), _tensor(np.linalg.inv(matrix)), _singles(n))


def identity(n: int) -> TubeTransform:
    """Return the transform that leaves tubes as they are: their entries are the blocks.

    Raises:
        ValueError: ``n`` is not positive.
    """
    _positive("identity", n)
    return _orthogonal("identity", np.eye(n))


def from_matrix(
    matrix: ArrayLike | Tensor,
    *,
    name: str = "matrix",
    blocks: tuple[tuple[int, ...], ...] | None = None,
) -> TubeTransform:
    """Return the transform of an invertible real matrix.

    Args:
        matrix: ``(n, n)``; row k gives coordinate k.
        name: what it is called in messages.
        blocks: as `TubeTransform.blocks`; by default every coordinate is a real one.

    Raises:
        TypeError: the matrix is complex.
        ValueError: it is not square, not finite, singular, or so badly conditioned that float32
            has no digit left; or the blocks do not list its rows.
    """
    given = matrix.detach().cpu().numpy() if isinstance(matrix, Tensor) else np.asarray(matrix)
    if np.iscomplexobj(given):
        raise TypeError(
            f"transform {name}: a complex matrix; expected a real one. Give real and imaginary "
            "parts as two rows, and say so in blocks"
        )
    array = given.astype(np.float64)
    if array.ndim != 2 or array.shape[0] != array.shape[1] or not array.size:  # noqa: PLR2004
        raise ValueError(f"transform {name}: shape {array.shape}; expected a square matrix (n, n)")
    if not np.isfinite(array).all():
        raise ValueError(f"transform {name}: has numbers that are not finite; expected finite ones")
    condition = float(np.linalg.cond(array))
    if not condition <= _LARGEST_CONDITION:
        raise ValueError(
            f"transform {name}: condition number {condition:.1e}; expected an invertible matrix "
            f"with at most {_LARGEST_CONDITION:.0e}. Choose rows that are less alike"
        )
    own = _singles(len(array)) if blocks is None else blocks
    return TubeTransform(name, _tensor(array), _tensor(np.linalg.inv(array)), own)


def tube_transform(text: str, n: int) -> TubeTransform:
    """Return the transform that is called ``dft``, ``dct``, ``haar``, ``identity`` or a wavelet.

    Raises:
        ValueError: there is none of this name, or not of this size.
    """
    made = {"dft": dft, "dct": dct, "haar": haar, "identity": identity}.get(text)
    return made(n) if made else wavelet(n, text)


def _orthogonal(name: str, matrix: NDArray[np.float64]) -> TubeTransform:
    return TubeTransform(name, _tensor(matrix), _tensor(matrix.T), _singles(len(matrix)))


def _singles(n: int) -> tuple[tuple[int, ...], ...]:
    return tuple((k,) for k in range(n))


def _tensor(array: ArrayLike) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float64, order="C"))


def _positive(name: str, n: int) -> None:
    if n < 1:
        raise ValueError(f"transform {name}: size {n}; expected 1 or more")

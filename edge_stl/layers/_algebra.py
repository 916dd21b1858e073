"""The algebra of third-order tensors under a transform of their tubes: the product ``*_L``.

Tensors are ``(m, p, n)`` as in the literature: m x p matrices of tubes of length n. For the DFT
the product is the t-product (Kilmer & Martin, Linear Algebra Appl. 435, 2011), for any invertible
L that of Kernfeld, Kilmer & Aeron (Linear Algebra Appl. 485, 2015). All of it is differentiable.
"""

import torch
from torch import Tensor

from edge_stl.layers._tubes import TubeTransform


_ORDER = 3


def tensor_product(a: Tensor, b: Tensor, transform: TubeTransform) -> Tensor:
    """Return ``A *_L B``: slice-wise products in the transform domain, and back.

    Args:
        a: ``(m, p, n)`` float32 or float64.
        b: ``(p, q, n)``, of the same dtype.
        transform: L, of size n.

    Returns:
        ``(m, q, n)``.

    Raises:
        ValueError: shapes or dtypes do not go together.
    """
    _check("tensor_product", a, transform)
    _check("tensor_product", b, transform)
    if a.shape[1] != b.shape[0] or a.dtype != b.dtype:
        raise ValueError(
            f"tensor_product: {_said(a)} times {_said(b)}; expected (m, p, n) times (p, q, n) of "
            "one dtype"
        )
    left, right = transform.to_bands(a, 2), transform.to_bands(b, 2)
    a_single, a_real, a_imaginary = transform.take(left, 2)
    b_single, b_real, b_imaginary = transform.take(right, 2)
    product = transform.put(
        _slices(a_single, b_single),
        _slices(a_real, b_real) - _slices(a_imaginary, b_imaginary),
        _slices(a_real, b_imaginary) + _slices(a_imaginary, b_real),
        2,
    )
    return transform.from_bands(product, 2)


def tensor_transpose(a: Tensor, transform: TubeTransform) -> Tensor:
    """Return ``A^T``: every slice transposed in the transform domain, complex ones conjugated.

    For the DFT that is the t-transpose: slice 0 transposed, the others transposed and in
    reversed order.

    Args:
        a: ``(m, p, n)``.
        transform: L, of size n.

    Returns:
        ``(p, m, n)``.

    Raises:
        ValueError: ``a`` is not such a tensor.
    """
    _check("tensor_transpose", a, transform)
    singles, real, imaginary = transform.take(transform.to_bands(a.transpose(0, 1), 2), 2)
    return transform.from_bands(transform.put(singles, real, -imaginary, 2), 2)


def identity_tensor(
    size: int,
    transform: TubeTransform,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> Tensor:
    """Return the ``(size, size, n)`` tensor I with ``I *_L A = A``: unit slices.

    Raises:
        ValueError: ``size`` is not positive.
    """
    if size < 1:
        raise ValueError(f"identity_tensor: size {size}; expected 1 or more")
    unit = torch.eye(size, dtype=dtype, device=device).unsqueeze(2)
    shape = (size, size, len(transform.singles)), (size, size, len(transform.pairs))
    singles, real = unit.expand(shape[0]), unit.expand(shape[1])
    return transform.from_bands(transform.put(singles, real, torch.zeros_like(real), 2), 2)


def block_matrix(a: Tensor, transform: TubeTransform) -> Tensor:
    """Return ``A *_L`` as an ordinary matrix on tube-major vectors, ``vec[l * p + j]``.

    For the DFT it is block-circulant: block (i, j) is ``A[:, :, (i - j) mod n]``.

    Args:
        a: ``(m, p, n)``.
        transform: L, of size n.

    Returns:
        ``(n * m, n * p)``.

    Raises:
        ValueError: ``a`` is not such a tensor.
    """
    _check("block_matrix", a, transform)
    rows, columns, n = a.shape
    slices = transform.to_bands(a, 2)
    blocks = torch.einsum("abk,ijk->aibj", transform.structure().to(slices), slices)
    return blocks.reshape(n * rows, n * columns)


def _slices(a: Tensor, b: Tensor) -> Tensor:
    return torch.einsum("ijk,jlk->ilk", a, b)


def _check(where: str, a: Tensor, transform: TubeTransform) -> None:
    if a.ndim != _ORDER or a.shape[2] != transform.size or not a.is_floating_point():
        raise ValueError(
            f"{where}: a tensor {_said(a)}; expected real (m, p, {transform.size}) for {transform}"
        )


def _said(a: Tensor) -> str:
    return f"{tuple(a.shape)} {str(a.dtype).removeprefix('torch.')}"

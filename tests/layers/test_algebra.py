"""The tensor product is an algebra for every transform, and the t-product for the DFT."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from edge_stl.layers import (
    TubeTransform,
    block_matrix,
    dct,
    dft,
    from_matrix,
    haar,
    identity,
    identity_tensor,
    tensor_product,
    tensor_transpose,
    wavelet,
)
from edge_stl.testing import assert_parity


few = settings(max_examples=12, deadline=None)


def well_conditioned(n: int) -> TubeTransform:
    """Return an arbitrary transform with a condition number of at most 4."""
    rng = np.random.default_rng(n)
    return from_matrix(np.linalg.qr(rng.standard_normal((n, n)))[0] * rng.uniform(0.5, 2, n))


MADE: dict[str, tuple[Callable[[int], TubeTransform], tuple[int, ...]]] = {
    "dft": (dft, (1, 2, 3, 4, 5, 6, 7)),
    "dct": (dct, (1, 2, 3, 5)),
    "haar": (haar, (1, 2, 4, 8)),
    "db2": (lambda n: wavelet(n, "db2"), (2, 4, 6)),
    "identity": (identity, (1, 3)),
    "matrix": (well_conditioned, (1, 2, 3, 5)),
}
transforms = st.sampled_from([make(n) for make, sizes in MADE.values() for n in sizes])
sides = st.integers(1, 4)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng([seed, *shape]).standard_normal(shape))


def assert_equal(actual: Tensor, expected: Tensor) -> None:
    """Compare relative to the largest value."""
    scale = max(1.0, float(expected.abs().max()))
    assert_parity(actual / scale, expected / scale, kind="float64")


@few
@given(transforms, sides, sides, sides, sides, st.integers(0, 99))
def test_the_product_is_associative(
    transform: TubeTransform, m: int, p: int, q: int, r: int, seed: int
):
    n = transform.size
    a, b, c = draw(seed, m, p, n), draw(seed + 1, p, q, n), draw(seed + 2, q, r, n)

    left = tensor_product(tensor_product(a, b, transform), c, transform)
    right = tensor_product(a, tensor_product(b, c, transform), transform)

    assert_equal(left, right)


@few
@given(transforms, sides, sides, st.integers(0, 99))
def test_the_identity_changes_nothing_from_either_side(
    transform: TubeTransform, m: int, p: int, seed: int
):
    a = draw(seed, m, p, transform.size)

    assert_equal(tensor_product(identity_tensor(m, transform), a, transform), a)
    assert_equal(tensor_product(a, identity_tensor(p, transform), transform), a)


@few
@given(transforms, sides, sides, sides, st.integers(0, 99))
def test_transposing_twice_does_nothing_and_turns_products_around(
    transform: TubeTransform, m: int, p: int, q: int, seed: int
):
    a, b = draw(seed, m, p, transform.size), draw(seed + 1, p, q, transform.size)

    turned = tensor_transpose(tensor_product(a, b, transform), transform)
    factors = [tensor_transpose(x, transform) for x in (b, a)]

    assert_equal(tensor_transpose(tensor_transpose(a, transform), transform), a)
    assert_equal(turned, tensor_product(*factors, transform))


@few
@given(transforms, sides, sides, sides, st.floats(-3, 3), st.integers(0, 99))
def test_the_product_is_bilinear(
    transform: TubeTransform, m: int, p: int, q: int, factor: float, seed: int
):
    n = transform.size
    a, b = draw(seed, m, p, n), draw(seed + 1, m, p, n)
    c, d = draw(seed + 2, p, q, n), draw(seed + 3, p, q, n)

    def times(x: Tensor, y: Tensor) -> Tensor:
        return tensor_product(x, y, transform)

    assert_equal(times(a + factor * b, c), times(a, c) + factor * times(b, c))
    assert_equal(times(a, c + factor * d), times(a, c) + factor * times(a, d))


@few
@given(transforms, sides, sides, sides, st.integers(0, 99))
def test_the_block_matrix_does_what_the_tensor_does_to_tube_major_vectors(
    transform: TubeTransform, m: int, p: int, q: int, seed: int
):
    a, b = draw(seed, m, p, transform.size), draw(seed + 1, p, q, transform.size)

    vectors = b.permute(2, 0, 1).reshape(-1, q)
    expected = tensor_product(a, b, transform).permute(2, 0, 1).reshape(-1, q)

    assert_equal(block_matrix(a, transform) @ vectors, expected)


@few
@given(st.integers(1, 7), sides, sides, sides, st.integers(0, 99))
def test_the_dft_product_is_the_circular_convolution_of_tubes(
    n: int, m: int, p: int, q: int, seed: int
):
    a, b = draw(seed, m, p, n).numpy(), draw(seed + 1, p, q, n).numpy()
    expected = np.zeros((m, q, n))
    for out in range(n):
        for k in range(n):
            expected[:, :, out] += a[:, :, k] @ b[:, :, (out - k) % n]

    actual = tensor_product(torch.from_numpy(a), torch.from_numpy(b), dft(n))

    assert_equal(actual, torch.from_numpy(expected))


@few
@given(st.integers(1, 7), sides, sides, st.integers(0, 99))
def test_the_dft_block_matrix_is_the_block_circulant_one(n: int, m: int, p: int, seed: int):
    a = draw(seed, m, p, n)
    slices = a.numpy()
    circulant = np.block([[slices[:, :, (i - j) % n] for j in range(n)] for i in range(n)])

    assert_equal(block_matrix(a, dft(n)), torch.from_numpy(circulant))


@few
@given(st.integers(1, 7), sides, sides, st.integers(0, 99))
def test_the_dft_transpose_turns_the_slices_but_the_first_around(n: int, m: int, p: int, seed: int):
    a = draw(seed, m, p, n)
    slices = [a[:, :, (-k) % n].T for k in range(n)]

    assert_equal(tensor_transpose(a, dft(n)), torch.stack(slices, 2))


def test_without_a_transform_the_product_is_slice_by_slice():
    a, b = draw(0, 2, 3, 4), draw(1, 3, 2, 4)

    actual = tensor_product(a, b, identity(4))

    assert_equal(actual, torch.stack([a[:, :, k] @ b[:, :, k] for k in range(4)], 2))


@pytest.mark.parametrize("transform", [dft(4), dct(3), haar(2)], ids=str)
def test_the_algebra_has_gradients(transform: TubeTransform):
    a, b = draw(0, 2, 3, transform.size), draw(1, 3, 2, transform.size)

    def all_of_it(x: Tensor, y: Tensor) -> Tensor:
        product = tensor_transpose(tensor_product(x, y, transform), transform)
        return block_matrix(product, transform)

    inputs = (a.requires_grad_(), b.requires_grad_())
    assert torch.autograd.gradcheck(all_of_it, inputs)


def test_single_precision_stays_single():
    a = draw(0, 2, 2, 4).float()

    assert tensor_product(a, a, dft(4)).dtype == torch.float32
    assert tensor_transpose(a, dft(4)).dtype == torch.float32
    assert block_matrix(a, dft(4)).dtype == torch.float32
    assert identity_tensor(2, dft(4), dtype=torch.float32).dtype == torch.float32


@pytest.mark.parametrize(
    ("a", "b", "sentence"),
    [
        (torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), r"expected \(m, p, n\) times \(p, q, n\)"),
        (torch.zeros(2, 3, 4), torch.zeros(3, 2, 4).double(), "of one dtype"),
        (torch.zeros(2, 3, 5), torch.zeros(3, 2, 4), r"\(2, 3, 5\) float32; expected real"),
        (torch.zeros(2, 3, 4), torch.zeros(3, 4), r"\(3, 4\) float32; expected real \(m, p, 4\)"),
        (torch.zeros(2, 3, 4).int(), torch.zeros(3, 2, 4), r"\(2, 3, 4\) int32; expected real"),
    ],
)
def test_tensors_that_do_not_go_together_are_refused(a: Tensor, b: Tensor, sentence: str):
    with pytest.raises(ValueError, match=f"tensor_product: .*{sentence}"):
        tensor_product(a, b, dct(4))


@pytest.mark.parametrize("function", [tensor_transpose, block_matrix])
def test_a_matrix_is_no_tensor(function: Callable[[Tensor, TubeTransform], Tensor]):
    with pytest.raises(ValueError, match=rf"{function.__name__}: a tensor \(2, 2\) float32"):
        function(torch.zeros(2, 2), dct(4))


def test_an_empty_identity_is_refused():
    with pytest.raises(ValueError, match="identity_tensor: size 0; expected 1 or more"):
        identity_tensor(0, dct(4))

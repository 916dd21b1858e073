"""A spectral layer is an ordinary layer with a structured weight: the same outputs, seen whole."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

from edge_stl.layers import (
    SpectralConv2d,
    SpectralLinear,
    TubeTransform,
    block_matrix,
    dct,
    dft,
    from_matrix,
    haar,
    identity,
    tensor_product,
    wavelet,
)
from edge_stl.testing import assert_parity


few = settings(max_examples=12, deadline=None)
ONE_PAIR = from_matrix(np.eye(2), name="one-pair", blocks=((0, 1),))
TRANSFORMS: dict[str, TubeTransform] = {
    "dft4": dft(4),
    "dft5": dft(5),
    "dft2": dft(2),
    "dct3": dct(3),
    "haar4": haar(4),
    "db2": wavelet(4, "db2"),
    "identity": identity(3),
    "matrix": from_matrix([[1.0, 0.5, 0.0], [0.0, 1.0, -0.5], [0.3, 0.0, 2.0]]),
    "one-pair": ONE_PAIR,
}
Each = pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
Bias = pytest.mark.parametrize("bias", [True, False])
Type = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
KINDS = {torch.float32: "branches", torch.float64: "float64"}


def assert_equal(actual: Tensor, expected: Tensor) -> None:
    """Compare relative to the largest value, single precision to 1e-6 and double to 1e-10."""
    assert actual.dtype == expected.dtype
    scale = expected.abs().max()
    assert_parity(
        (actual / scale).detach(), (expected / scale).detach(), kind=KINDS[expected.dtype]
    )


def in_domain(layer: nn.Module, domain: str, make: Callable[[str], nn.Module]) -> nn.Module:
    """Return the same numbers in a layer of another domain."""
    other = make(domain)
    other.load_state_dict(layer.state_dict())
    return other


@Each
@Bias
@Type
def test_a_linear_layer_equals_its_dense_one_in_either_domain(
    transform: TubeTransform, bias: bool, dtype: torch.dtype
):
    torch.manual_seed(0)

    def make(domain: str) -> nn.Module:
        return SpectralLinear(3, 5, transform, bias=bias, domain=domain, dtype=dtype)

    layer = make("original")
    inside = in_domain(layer, "transform", make)
    x = torch.rand(7, transform.size, 3, dtype=dtype)

    for dense in (layer.to_dense(), inside.to_dense()):
        assert_equal(dense(x.flatten(1)), layer(x).flatten(1))
    assert_equal(inside.to_dense(domain="transform")(x.flatten(1)), inside(x).flatten(1))
    through = transform.from_bands(inside(transform.to_bands(x, 1)), 1)
    assert_equal(through, layer(x))


@Each
@Bias
@Type
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(3, 1, 1), (2, 2, 0), ((3, 1), (2, 1), (0, 1))]
)
def test_a_convolution_equals_its_dense_one_in_either_domain(
    transform: TubeTransform,
    bias: bool,
    dtype: torch.dtype,
    kernel: int,
    stride: int,
    padding: int,
):
    torch.manual_seed(0)

    def make(domain: str) -> nn.Module:
        return SpectralConv2d(
            2,
            3,
            kernel,
            transform,
            stride=stride,
            padding=padding,
            bias=bias,
            domain=domain,
            dtype=dtype,
        )

    layer = make("original")
    inside = in_domain(layer, "transform", make)
    x = torch.rand(2, transform.size, 2, 6, 5, dtype=dtype)

    for dense in (layer.to_dense(), inside.to_dense()):
        assert_equal(dense(x.flatten(1, 2)), layer(x).flatten(1, 2))
    dense = inside.to_dense(domain="transform")
    assert_equal(dense(x.flatten(1, 2)), inside(x).flatten(1, 2))
    through = transform.from_bands(inside(transform.to_bands(x, 1)), 1)
    assert_equal(through, layer(x))


@few
@given(st.integers(1, 7), st.integers(1, 3), st.integers(1, 3), st.integers(0, 99))
def test_for_the_dft_the_dense_weights_are_block_circulant(
    n: int, inputs: int, outputs: int, seed: int
):
    torch.manual_seed(seed)
    linear = SpectralLinear(inputs, outputs, dft(n), dtype=torch.float64).to_dense()
    conv = SpectralConv2d(inputs, outputs, 2, dft(n), dtype=torch.float64).to_dense()

    for weight in (linear.weight.detach(), conv.weight.detach()):
        blocks = weight.reshape(n, outputs, n, inputs, -1)
        for i in range(n):
            for j in range(n):
                same = blocks[(i - j) % n, :, 0]
                assert float((blocks[i, :, j] - same).abs().max()) <= 1e-12


@pytest.mark.parametrize("n", [3, 4])
def test_for_the_dct_they_are_not(n: int):
    torch.manual_seed(0)
    blocks = SpectralLinear(2, 2, dct(n)).to_dense().weight.detach().reshape(n, 2, n, 2)

    assert float((blocks[1, :, 1] - blocks[0, :, 0]).abs().max()) > 0.01


@Each
def test_in_the_transform_domain_the_dense_weight_is_exactly_block_diagonal(
    transform: TubeTransform,
):
    torch.manual_seed(0)
    layer = SpectralLinear(2, 3, transform)
    n = transform.size
    blocks = layer.to_dense(domain="transform").weight.detach().reshape(n, 3, n, 2)
    expected = torch.zeros(n, 3, n, 2)
    weight = layer.weight.detach()
    for k in transform.singles:
        expected[k, :, k] = weight[k]
    for r in transform.pairs:
        expected[r, :, r] = expected[r + 1, :, r + 1] = weight[r]
        expected[r, :, r + 1], expected[r + 1, :, r] = -weight[r + 1], weight[r + 1]

    assert torch.equal(blocks, expected)


@Each
def test_a_linear_layer_is_the_tensor_product_with_its_weight(transform: TubeTransform):
    torch.manual_seed(0)
    layer = SpectralLinear(3, 2, transform, bias=False, dtype=torch.float64)
    a = transform.from_bands(layer.weight.detach(), 0).permute(1, 2, 0)  # (out, in, n)
    x = torch.rand(5, transform.size, 3, dtype=torch.float64)

    product = tensor_product(a, x.permute(2, 0, 1), transform)  # (out, batch, n)

    assert_equal(layer(x), product.permute(1, 2, 0))
    assert_equal(layer.to_dense().weight, block_matrix(a, transform))


def test_a_complex_pair_multiplies_as_complex_numbers():
    layer = SpectralLinear(3, 2, ONE_PAIR, domain="transform", dtype=torch.float64)
    weight, bias = (p.detach().numpy() for p in (layer.weight, layer.bias))
    x = np.random.default_rng(0).standard_normal((5, 2, 3))

    y = layer(torch.from_numpy(x)).detach().numpy()

    expected = (x[:, 0] + 1j * x[:, 1]) @ (weight[0] + 1j * weight[1]).T + bias[0] + 1j * bias[1]
    assert_parity(y[:, 0], expected.real, kind="float64")
    assert_parity(y[:, 1], expected.imag, kind="float64")


def test_more_dimensions_before_the_tubes_are_a_batch():
    layer = SpectralLinear(3, 2, dft(4))
    x = torch.rand(2, 5, 4, 3)

    assert torch.equal(layer(x)[1], layer(x[1]))
    assert layer(x[0, 0]).shape == (4, 2)


@pytest.mark.parametrize(
    "make",
    [lambda t: SpectralLinear(32, 40, t), lambda t: SpectralConv2d(8, 40, (2, 4), t)],
    ids=["linear", "conv"],
)
def test_numbers_are_drawn_as_for_one_ordinary_layer_per_block(
    make: Callable[[TubeTransform], nn.Module],
):
    torch.manual_seed(0)
    layer = make(dft(4))
    fan = layer.weight[0, 0].numel()

    for k, inputs in ((0, fan), (1, 2 * fan), (2, 2 * fan), (3, fan)):
        bound = inputs**-0.5
        assert 0.95 * bound < float(layer.weight[k].detach().abs().max()) <= bound
        assert 0.7 * bound < float(layer.bias[k].detach().abs().max()) <= bound
        spread = float(layer.weight[k].detach().std())
        assert spread == pytest.approx(bound / 3**0.5, rel=0.05)


def test_a_dense_layer_is_a_copy_that_draws_no_numbers():
    layer = SpectralLinear(2, 2, identity(2))
    before = torch.random.get_rng_state()

    dense = layer.to_dense()
    dense.weight.data.zero_()

    assert layer.weight.detach().abs().min() > 0
    assert torch.equal(torch.random.get_rng_state(), before)
    assert dense.weight.requires_grad


def test_layers_say_what_they_are():
    assert repr(SpectralLinear(2, 3, dct(4))) == (
        "SpectralLinear(in_features=2, out_features=3, transform=dct(4), bias=True, "
        "domain='original')"
    )
    assert repr(SpectralConv2d(2, 3, 5, dft(2), bias=False, domain="transform")) == (
        "SpectralConv2d(2, 3, kernel_size=(5, 5), stride=(1, 1), padding=(0, 0), "
        "transform=dft(2), bias=False, domain='transform')"
    )


@pytest.mark.parametrize("shape", [(4, 3), (5, 2, 2), (3,), (7, 3, 4)])
def test_an_input_that_does_not_fit_a_linear_layer_is_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"SpectralLinear: input .*; expected \(\.\.\., 3, 2\)"):
        SpectralLinear(2, 2, dct(3))(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(3, 2, 5, 5), (1, 2, 3, 5, 5), (1, 3, 3, 5, 5)])
def test_an_input_that_does_not_fit_a_convolution_is_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"SpectralConv2d: input .*; expected \(N, 3, 2, H, W\)"):
        SpectralConv2d(2, 2, 3, dct(3))(torch.zeros(shape))


def test_an_unknown_domain_is_refused():
    with pytest.raises(ValueError, match="SpectralLinear: domain 'other'; expected one of orig"):
        SpectralLinear(2, 2, dct(3), domain="other")
    with pytest.raises(ValueError, match="to_dense: domain 'other'; expected one of original, "):
        SpectralConv2d(2, 2, 3, dct(3)).to_dense(domain="other")


def test_a_layer_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"SpectralLinear: weight of shape \(3, 0\); expected 1"):
        SpectralLinear(0, 3, dct(3))

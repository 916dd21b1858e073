"""Batch norm and ordinary modules between spectral layers see one tube coordinate at a time."""

import pytest
import torch
from torch import nn

from edge_stl.layers import Bandwise, SpectralBatchNorm1d, SpectralBatchNorm2d, dct
from edge_stl.testing import assert_parity


def test_batch_norm_is_torchs_for_every_coordinate():
    torch.manual_seed(0)
    norm = SpectralBatchNorm2d(3, dct(2), eps=0.01, momentum=0.3)
    plain = [nn.BatchNorm2d(3, eps=0.01, momentum=0.3) for _ in range(2)]
    for training in (True, True, False):
        norm.train(training)
        x = torch.rand(4, 2, 3, 5, 5)
        expected = torch.stack([n.train(training)(x[:, k]) for k, n in enumerate(plain)], 1)
        assert_parity(norm(x).detach(), expected.detach(), kind="float32")
    assert norm.num_batches_tracked.tolist() == [2, 2]


@pytest.mark.parametrize(
    ("norm", "shape", "sentence"),
    [
        (SpectralBatchNorm1d, (4, 2, 3, 5, 5), r"\(N, 2, 3\)"),
        (SpectralBatchNorm1d, (4, 3, 3), r"\(N, 2, 3\)"),
        (SpectralBatchNorm2d, (4, 2, 3), r"\(N, 2, 3, H, W\)"),
        (SpectralBatchNorm2d, (4, 2, 4, 5, 5), r"\(N, 2, 3, H, W\)"),
    ],
)
def test_an_input_that_does_not_fit_a_batch_norm_is_refused(
    norm: type[nn.Module], shape: tuple[int, ...], sentence: str
):
    with pytest.raises(ValueError, match=rf"{norm.__name__}: input .*; expected {sentence}"):
        norm(3, dct(2))(torch.zeros(shape))


def test_a_module_with_numbers_is_not_for_all_coordinates():
    with pytest.raises(ValueError, match="Bandwise: Linear has weight, bias; expected a module"):
        Bandwise(nn.Linear(2, 2))


@pytest.mark.parametrize(
    "module", [nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.AdaptiveAvgPool2d(1)], ids=str
)
def test_an_ordinary_module_does_to_every_coordinate_what_it_does_to_one(module: nn.Module):
    torch.manual_seed(0)
    x = torch.randn(2, 5, 3, 4, 4)

    expected = torch.stack([module(x[:, k]) for k in range(5)], 1)

    assert torch.equal(Bandwise(module)(x), expected)

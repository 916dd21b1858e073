"""Whole and apart are the same numbers: round trips keep every bit."""

import pytest
import torch
from torch import nn

from edge_stl.layers import (
    Bandwise,
    SpectralBatchNorm1d,
    SpectralBatchNorm2d,
    SpectralConv2d,
    SpectralLinear,
    TubeTransform,
    dct,
    dft,
    haar,
    identity,
    join,
    split,
)


TRANSFORMS = {"dft4": dft(4), "dft3": dft(3), "dct3": dct(3), "haar2": haar(2)}
Each = pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
Mode = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


def network(transform: TubeTransform, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    inside = {"domain": "transform", "dtype": dtype}
    module = nn.Sequential()
    module.add_module("norm", SpectralBatchNorm2d(2, transform, affine=False, dtype=dtype))
    module.add_module("conv", SpectralConv2d(2, 3, (3, 1), transform, stride=(1, 2), **inside))
    module.add_module(
        "norm2", SpectralBatchNorm2d(3, transform, momentum=0.3, eps=0.1, dtype=dtype)
    )
    module.add_module("relu", Bandwise(nn.LeakyReLU(0.2)))
    module.add_module("flat", Bandwise(nn.Flatten()))
    module.add_module("dense", SpectralLinear(18, 4, transform, bias=False, **inside))
    module.add_module("norm3", SpectralBatchNorm1d(4, transform, dtype=dtype))
    module.add_module("out", SpectralLinear(4, 3, transform, **inside))
    for _ in range(2):
        module(torch.rand(5, transform.size, 2, 4, 5, dtype=dtype))
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.rand_like(parameter)
    return module


def assert_same(actual: nn.Sequential, expected: nn.Sequential) -> None:
    assert repr(actual) == repr(expected)
    one, other = actual.state_dict(), expected.state_dict()
    assert list(one) == list(other)
    for name, tensor in other.items():
        assert one[name].dtype == tensor.dtype, name
        assert torch.equal(one[name], tensor), name
    assert [m.training for m in actual.modules()] == [m.training for m in expected.modules()]
    frozen = [[p.requires_grad for p in m.parameters()] for m in (actual, expected)]
    assert frozen[0] == frozen[1]


@Each
@Mode
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_split_and_join_keep_every_number_and_mode(
    transform: TubeTransform, training: bool, dtype: torch.dtype
):
    whole = network(transform, dtype).train(training)
    whole.out.bias.requires_grad_(False)
    whole.norm.eval()

    branches = split(whole)
    again = join(branches, transform)

    assert len(branches) == len(transform.blocks)
    assert_same(again, whole)
    for one, other in zip(split(again), branches, strict=True):
        assert_same(one, other)


@Mode
def test_ordinary_branches_come_back_from_a_join_as_they_were(training: bool):
    branches = []
    for seed in range(3):
        torch.manual_seed(seed)
        branch = nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten()
        )
        branch.add_module("dense", nn.Linear(48, 5))
        for _ in range(seed + 1):  # trained apart, for different numbers of steps
            branch(torch.rand(4, 2, 4, 4))
        branches.append(branch.train(training))

    whole = join(branches, identity(3))

    assert whole[1].num_batches_tracked.tolist() == [1, 2, 3]
    for one, other in zip(split(whole), branches, strict=True):
        assert_same(one, other)
    x = torch.rand(6, 3, 2, 4, 4)
    apart = torch.stack([branch(x[:, k]) for k, branch in enumerate(branches)], 1)
    assert float((whole(x) - apart).detach().abs().max()) < 1e-5


def test_nothing_is_shared_between_the_whole_and_its_parts():
    transform = dft(4)
    whole = network(transform)
    branches = split(whole)
    again = join(branches, transform)
    modules = (whole, *branches, again)
    pointers = [t.untyped_storage().data_ptr() for m in modules for t in m.state_dict().values()]

    assert len(set(pointers)) == len(pointers)
    assert branches[0].relu is not whole.relu.module
    assert branches[0].relu is not branches[1].relu


def test_neither_way_draws_numbers():
    whole = network(dft(4))
    before = torch.random.get_rng_state()

    join(split(whole), dft(4))

    assert torch.equal(torch.random.get_rng_state(), before)


def test_one_activation_used_twice_is_used_twice_in_every_branch():
    relu = Bandwise(nn.ReLU())
    whole = nn.Sequential(relu, SpectralLinear(2, 2, dct(2), domain="transform"), relu)

    assert [len(branch) for branch in split(whole)] == [3, 3]


def test_features_that_stay_in_one_coordinate_may_be_compared_there():
    whole = nn.Sequential(
        SpectralLinear(2, 2, dct(2), domain="transform"), Bandwise(nn.Softmax(dim=1))
    )

    assert len(split(whole)) == 2

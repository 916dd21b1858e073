"""What mixes the blocks does not split, and what differs does not join."""

from collections.abc import Callable

import numpy as np
import pytest
from torch import nn

from edge_stl.layers import (
    Bandwise,
    FromBands,
    SpectralConv2d,
    SpectralLinear,
    StableTensorBlock,
    ToBands,
    dct,
    dft,
    from_matrix,
    haar,
    join,
    split,
)


ONE_PAIR = from_matrix(np.eye(2), name="one-pair", blocks=((0, 1),))
REAL = dct(2)
FIRST = SpectralLinear(2, 2, REAL, domain="transform")


@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        ([SpectralLinear(2, 2, REAL)], "layer '1' is a SpectralLinear of domain 'original'"),
        ([SpectralConv2d(2, 2, 1, REAL)], "layer '1' is a SpectralConv2d of domain 'original'"),
        ([FromBands(REAL), ToBands(REAL)], "layer '1' is a FromBands in the middle, which mixes"),
        ([ToBands(REAL)], "layer '1' is a ToBands in the middle, which mixes"),
        ([StableTensorBlock(2, REAL)], "layer '1' is a StableTensorBlock, which may mix"),
        ([nn.Linear(2, 2)], "layer '1' is a Linear, which may mix the blocks; expected Spectral"),
        ([nn.ReLU()], "layer '1' is a ReLU, which may mix .* Wrap a module without param"),
        (
            [SpectralLinear(2, 2, haar(2), domain="transform")],
            r"layer '1' has transform haar\(2\); expected dct\(2\) as in layer '0'",
        ),
        (
            [SpectralLinear(2, 2, dct(3), domain="transform")],
            r"layer '1' has transform dct\(3\); expected dct\(2\) as in layer '0'",
        ),
        ([FIRST], "layer '1' is used twice and has parameters; expected layers of their own"),
    ],
    ids=str,
)
def test_a_network_that_does_not_split_is_refused(layers: list[nn.Module], sentence: str):
    with pytest.raises(ValueError, match=f"split: {sentence}"):
        split(nn.Sequential(FIRST, *layers))


def test_a_module_that_compares_features_is_refused_where_a_pair_has_both_as_features():
    whole = nn.Sequential(
        SpectralLinear(2, 2, dft(3), domain="transform"), Bandwise(nn.Softmax(dim=1))
    )

    with pytest.raises(ValueError, match="split: layer '1': Softmax looks from one feature to"):
        split(whole)
    branches = [nn.Sequential(nn.GLU()), nn.Sequential(nn.GLU())]
    with pytest.raises(ValueError, match="join: layer '0' of branch 1: GLU looks from one"):
        join(branches, dft(3))


def test_a_network_without_a_transform_is_refused():
    with pytest.raises(ValueError, match="split: no layer of the network has a transform"):
        split(nn.Sequential(Bandwise(nn.ReLU())))


@pytest.mark.parametrize("where", ["split", "join"])
def test_what_is_no_list_of_layers_is_refused(where: str):
    with pytest.raises(TypeError, match=f"{where}: a ReLU; expected an nn.Sequential of layers"):
        split(nn.ReLU()) if where == "split" else join([nn.ReLU(), nn.ReLU()], dct(2))


def linear(*, bias: bool = True, width: int = 2) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, width, bias=bias))


def frozen() -> nn.Sequential:
    branch = linear()
    branch[0].weight.requires_grad_(False)
    return branch


def named() -> nn.Sequential:
    branch = nn.Sequential()
    branch.add_module("other", nn.Linear(2, 2))
    return branch


@pytest.mark.parametrize(
    ("one", "other", "sentence"),
    [
        (linear, named, "branch 1 has layers other in training mode; expected 0 in training"),
        (linear, lambda: linear().eval(), "branch 1 has layers 0 in evaluation mode; expected 0"),
        (linear, lambda: nn.Sequential(nn.ReLU()), "layer '0' of branch 1 has type ReLU; expected"),
        (linear, lambda: linear(width=3), r"layer '0' of branch 1 has a weight of \(\(3, 2\)"),
        (linear, lambda: linear(bias=False), "branch 1 has tensors weight; expected weight, bias"),
        (linear, lambda: linear().double(), r"has a weight of .*float64.*; expected .*float32"),
        (linear, frozen, "has trained tensors bias; expected weight, bias as in branch 0"),
        (
            lambda: nn.Sequential(nn.LeakyReLU(0.1)),
            lambda: nn.Sequential(nn.LeakyReLU(0.2)),
            r"has form LeakyReLU\(negative_slope=0.2\); expected",
        ),
        (
            lambda: nn.Sequential(nn.Conv2d(2, 2, 3)),
            lambda: nn.Sequential(nn.Conv2d(2, 2, 3, stride=2)),
            r"has stride \(2, 2\); expected \(1, 1\) as in branch 0",
        ),
        (
            lambda: nn.Sequential(nn.Conv2d(2, 2, 3)),
            lambda: nn.Sequential(nn.Conv2d(2, 2, 3, padding="same")),
            "of branch 1: Conv2d.*; expected no dilation, no groups, and zero padding in pixels",
        ),
        (
            lambda: nn.Sequential(nn.Conv2d(2, 2, 3, groups=2)),
            linear,
            "of branch 0: Conv2d.*; expected no dilation, no groups",
        ),
        (
            lambda: nn.Sequential(nn.BatchNorm1d(2)),
            lambda: nn.Sequential(nn.BatchNorm1d(2, eps=0.1)),
            "has eps 0.1; expected 1e-05",
        ),
        (
            lambda: nn.Sequential(nn.BatchNorm1d(2, momentum=None)),
            linear,
            "of branch 0: a batch norm without momentum or running statistics; expected both",
        ),
        (
            lambda: nn.Sequential(nn.BatchNorm1d(2)),
            lambda: nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False)),
            "of branch 1: a batch norm without momentum or running statistics; expected both",
        ),
        (
            lambda: nn.Sequential(nn.PReLU()),
            linear,
            "of branch 0: a PReLU; expected nn.Linear, nn.Conv2d, nn.BatchNorm1d",
        ),
    ],
    ids=range(15),
)
def test_branches_that_do_not_go_together_are_refused(
    one: Callable[[], nn.Sequential], other: Callable[[], nn.Sequential], sentence: str
):
    with pytest.raises(ValueError, match=f"join: .*{sentence}"):
        join([one(), other()], dct(2))


def test_a_wrong_number_of_branches_is_refused():
    with pytest.raises(
        ValueError, match=r"join: 2 branches; expected 3, one per block of dft\(4\)"
    ):
        join([linear(), linear()], dft(4))


@pytest.mark.parametrize(
    ("layer", "sentence"),
    [
        (nn.Linear(4, 3), r"weight \(3, 4\); expected even numbers of inputs and outputs"),
        (nn.Linear(3, 4), r"weight \(4, 3\); expected even numbers of inputs and outputs"),
        (nn.BatchNorm1d(3), "3 features; expected an even number"),
        (nn.Linear(4, 4), r"the weight is not \[\[R, -I\], \[I, R\]\]; expected that of a compl"),
    ],
    ids=str,
)
def test_a_branch_that_is_no_complex_one_is_refused(layer: nn.Module, sentence: str):
    with pytest.raises(ValueError, match=f"join: layer '0' of branch 0: {sentence}"):
        join([nn.Sequential(layer)], ONE_PAIR)


@pytest.mark.parametrize("place", [(0, 0), (0, 5), (5, 0), (5, 5)])
def test_one_number_off_in_any_quarter_is_no_complex_branch(place: tuple[int, int]):
    transform = dft(3)
    branches = split(nn.Sequential(SpectralLinear(3, 3, transform, domain="transform")))
    join(branches, transform)
    branches[1][0].weight.data[place] += 1e-6

    with pytest.raises(ValueError, match=r"layer '0' of branch 1: the weight is not \[\[R, -I\]"):
        join(branches, transform)

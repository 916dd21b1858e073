"""The counter-example: with the activation between the transforms nothing splits."""

import pytest
import torch
from torch import nn

from edge_stl.layers import (
    SpectralLinear,
    StableTensorBlock,
    TubeTransform,
    dct,
    dft,
    haar,
    identity,
    split,
    stable_tensor_network,
)
from edge_stl.testing import assert_parity


TRANSFORMS = {"dft4": dft(4), "dct3": dct(3), "haar4": haar(4)}
Each = pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)


def in_bands(block: nn.Module, x: torch.Tensor, transform: TubeTransform) -> torch.Tensor:
    """Return what a block does, seen from the transform domain."""
    return transform.to_bands(block(transform.from_bands(x, 1)), 1)


@Each
@pytest.mark.parametrize("activation", [nn.Tanh(), nn.ReLU(), nn.Identity()], ids=str)
def test_a_change_in_one_block_reaches_the_others_unless_there_is_no_activation(
    transform: TubeTransform, activation: nn.Module
):
    torch.manual_seed(0)
    block = StableTensorBlock(3, transform, step=0.5, activation=activation, dtype=torch.float64)
    x = torch.randn(5, transform.size, 3, dtype=torch.float64)
    changed = x.clone()
    changed[:, 0] += 1.0

    other = slice(1, None)
    before = in_bands(block, x, transform)[:, other].detach()
    after = in_bands(block, changed, transform)[:, other].detach()

    if isinstance(activation, nn.Identity):
        assert_parity(after, before, kind="float64")
    else:
        with pytest.raises(AssertionError, match="differ by"):
            assert_parity(after, before, kind="float32")
        assert float((after - before).abs().max()) > 0.01


@Each
def test_it_is_not_what_the_branches_would_do_apart(transform: TubeTransform):
    """The parity that holds for spectral networks fails, by far more than any rounding."""
    torch.manual_seed(0)
    block = StableTensorBlock(3, transform, step=0.5, dtype=torch.float64)
    x = torch.randn(5, transform.size, 3, dtype=torch.float64)
    inside = SpectralLinear(3, 3, transform, domain="transform", dtype=torch.float64)
    inside.load_state_dict(block.linear.state_dict())

    apart = x + 0.5 * torch.tanh(inside(x))

    with pytest.raises(AssertionError, match="differ by"):
        assert_parity(in_bands(block, x, transform).detach(), apart.detach(), kind="float32")


def test_without_a_transform_it_does_split():
    torch.manual_seed(0)
    block = StableTensorBlock(3, identity(2))
    x = torch.randn(5, 2, 3)

    expected = x + 0.1 * torch.tanh(block.linear(x))

    assert_parity(block(x).detach(), expected.detach(), kind="float32")


def test_a_network_of_such_blocks_is_refused_by_split():
    network = stable_tensor_network(3, 2, 2, dct(3))

    with pytest.raises(ValueError, match="split: layer 'block0' is a StableTensorBlock, which may"):
        split(network)


@Each
def test_a_network_of_such_blocks_learns_with_every_block_of_its_readout(
    transform: TubeTransform,
):
    torch.manual_seed(0)
    network = stable_tensor_network(4, 3, 2, transform, step=0.2)
    x, targets = torch.randn(24, transform.size, 4), torch.arange(24) % 3
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)

    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        logits = network(x)
        loss = nn.functional.cross_entropy(logits, targets)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))

    assert logits.shape == (24, 3)
    assert losses[-1] < 0.5 * losses[0]
    gradient = network.readout.weight.grad.abs().amax(dim=(1, 2))
    real = [block[0] for block in transform.blocks]
    assert float(gradient[real].min()) > 0
    assert [name for name, _ in network.named_children()][:3] == ["block0", "block1", "to_bands"]


def test_a_block_says_its_step():
    assert repr(StableTensorBlock(2, dct(2), step=0.25)).startswith(
        "StableTensorBlock(\n  step=0.25\n"
    )

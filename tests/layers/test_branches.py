"""The theorem: a spectral network run whole is its branches run apart, numbers and gradients.

Errors are relative in the Euclidean norm, ``|a - b| / |b|``, over all outputs, over the gradients
of all inputs, and over those of all parameters. Float32 is held to 1e-6, float64 to 1e-10.
"""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edge_stl.layers import (
    Bandwise,
    FromBands,
    SpectralBatchNorm1d,
    SpectralBatchNorm2d,
    SpectralConv2d,
    SpectralLinear,
    ToBands,
    TubeTransform,
    dct,
    dft,
    from_matrix,
    haar,
    identity,
    join,
    split,
    wavelet,
)
from edge_stl.testing import assert_parity


TRANSFORMS: dict[str, TubeTransform] = {
    "dft4": dft(4),
    "dft5": dft(5),
    "dct3": dct(3),
    "haar4": haar(4),
    "db2": wavelet(4, "db2"),
    "identity": identity(2),
    "matrix": from_matrix([[1.0, 0.5], [-0.5, 1.5]]),
}
Each = pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
Type = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
Mode = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
KINDS = {torch.float32: "branches", torch.float64: "float64"}
ONE_PAIR = from_matrix(np.eye(2), name="one-pair", blocks=((0, 1),))
CHANNELS, SIDE, IMAGES, CLASSES = 2, 8, 16, 3


def network(
    transform: TubeTransform, dtype: torch.dtype, *, seed: int = 0, dead: bool = True
) -> nn.Sequential:
    """Return every kind of layer, with batch norms that do something.

    A bias right before a batch norm is dead in training: its gradient is zero but for rounding.
    """
    torch.manual_seed(seed)
    inside = {"domain": "transform", "dtype": dtype}
    module = nn.Sequential(
        SpectralBatchNorm2d(CHANNELS, transform, affine=False, dtype=dtype),
        SpectralConv2d(CHANNELS, 4, 3, transform, padding=1, bias=dead, **inside),
        SpectralBatchNorm2d(4, transform, dtype=dtype),
        Bandwise(nn.ReLU()),
        Bandwise(nn.MaxPool2d(2)),
        SpectralConv2d(4, 3, 3, transform, stride=(2, 1), padding=(1, 0), bias=False, **inside),
        SpectralBatchNorm2d(3, transform, dtype=dtype),
        Bandwise(nn.ReLU()),
        Bandwise(nn.Flatten()),
        SpectralLinear(12, 6, transform, bias=dead, **inside),
        SpectralBatchNorm1d(6, transform, dtype=dtype),
        Bandwise(nn.ReLU()),
        SpectralLinear(6, CLASSES, transform, **inside),
    )
    for layer in module:
        if isinstance(layer, SpectralBatchNorm1d | SpectralBatchNorm2d):
            layer.running_mean.normal_(std=0.2)
            layer.running_var.uniform_(0.5, 2.0)
            for parameter in layer.parameters():
                parameter.data.uniform_(0.5, 2.0)
    return module


def images(transform: TubeTransform, dtype: torch.dtype, *, seed: int = 0) -> Tensor:
    """Return what the network takes: transform coordinates, ``(N, n, C, H, W)``."""
    rng = np.random.default_rng(seed)
    tubes = rng.standard_normal((IMAGES, transform.size, CHANNELS, SIDE, SIDE))
    return transform.to_bands(torch.from_numpy(tubes), 1).to(dtype)


def loss(logits: Tensor) -> Tensor:
    """Return the loss of one branch, of its ``(N, K)`` or ``(N, 2 K)`` logits."""
    targets = torch.arange(len(logits)) % logits.shape[1]
    return nn.functional.cross_entropy(logits, targets)


def of_block(x: Tensor, block: tuple[int, ...]) -> Tensor:
    """Return what the branch of a block reads or writes: the pair's parts one after the other."""
    return x[:, list(block)].flatten(1, 2)


def adamw(module: nn.Module) -> torch.optim.Optimizer:
    """Return AdamW that does not blow rounding noise up.

    Its first steps divide a gradient by its own size; one that is zero but for rounding would
    make steps of full size, with a dead bias or with torch's eps of 1e-8.
    """
    return torch.optim.AdamW(module.parameters(), lr=0.01, weight_decay=0.1, eps=1e-6)


def total(outputs: Tensor, transform: TubeTransform) -> Tensor:
    return torch.stack([loss(of_block(outputs, block)) for block in transform.blocks]).sum()


def gradients_of_block(branch: nn.Sequential, block: tuple[int, ...]) -> list[Tensor]:
    """Return the gradients that the whole network's block has, by the chain rule.

    Each number of a pair's weight is in two places of ``[[R, -I], [I, R]]``: their gradients add.
    """
    out = []
    for parameter in branch.parameters():
        gradient = parameter.grad
        if len(block) == 2 and gradient.ndim > 1:
            upper, lower = gradient.chunk(2, 0)
            (rr, ri), (ir, ii) = upper.chunk(2, 1), lower.chunk(2, 1)
            gradient = torch.stack([rr + ii, ir - ri])
        out.append(gradient.reshape(len(block), -1))
    return out


def assert_all_equal(actual: list[Tensor], expected: list[Tensor]) -> None:
    """Compare all numbers of one kind by their relative error in the Euclidean norm."""
    assert [a.shape for a in actual] == [e.shape for e in expected]
    assert [a.dtype for a in actual] == [e.dtype for e in expected]
    a, b = (torch.cat([t.detach().double().flatten() for t in x]) for x in (actual, expected))
    assert_parity((a - b).norm() / b.norm(), 0.0, kind=KINDS[expected[0].dtype])


@Each
@Type
@Mode
def test_a_network_run_whole_equals_its_branches_run_apart(
    transform: TubeTransform, dtype: torch.dtype, training: bool
):
    whole = network(transform, dtype).train(training)
    branches = split(whole)
    x = images(transform, dtype).requires_grad_()
    outputs = whole(x)
    total(outputs, transform).backward()

    inputs, answers, gradients = [], [], []
    for branch, block in zip(branches, transform.blocks, strict=True):
        inputs.append(of_block(x.detach(), block).requires_grad_())
        answers.append(branch(inputs[-1]))
        loss(answers[-1]).backward()
        gradients.append(gradients_of_block(branch, block))

    blocks = transform.blocks
    assert float(outputs.detach().std()) > 0.05
    assert_all_equal(answers, [of_block(outputs, block) for block in blocks])
    assert_all_equal([i.grad for i in inputs], [of_block(x.grad, block) for block in blocks])
    rows = [torch.cat(parts) for parts in zip(*gradients, strict=True)]
    assert_all_equal(rows, [p.grad.flatten(1) for p in whole.parameters()])
    statistics = [torch.cat(s) for s in zip(*map(running, branches), strict=True)]
    assert_all_equal(statistics, [s.flatten() for s in running(whole)])


def running(module: nn.Sequential) -> list[Tensor]:
    return [buffer for name, buffer in module.named_buffers() if "running" in name]


@Each
def test_training_the_whole_on_the_sum_of_losses_is_training_its_branches(
    transform: TubeTransform,
):
    """A pair's branch keeps its form as a spectral network of one block, whatever the matrix."""
    whole = network(transform, torch.float64, dead=False)
    one_block = {1: identity(1), 2: ONE_PAIR}
    branches = [
        join([branch], one_block[len(block)])
        for branch, block in zip(split(whole), transform.blocks, strict=True)
    ]

    of_whole, of_branches = adamw(whole), [adamw(branch) for branch in branches]
    for step in range(5):
        x = images(transform, torch.float64, seed=step)
        of_whole.zero_grad()
        total(whole(x), transform).backward()
        of_whole.step()
        for branch, block, own in zip(branches, transform.blocks, of_branches, strict=True):
            own.zero_grad()
            loss(branch(x[:, list(block)]).flatten(1)).backward()
            own.step()

    start = network(transform, torch.float64, dead=False)
    moved = [p - q for p, q in zip(whole.parameters(), start.parameters(), strict=True)]
    assert min(float(m.detach().abs().max()) for m in moved) > 0.01
    for name, tensor in whole.state_dict().items():
        apart = torch.cat([branch.state_dict()[name] for branch in branches])
        assert_parity(apart, tensor, kind="float64")


def test_a_real_branch_is_trained_as_the_ordinary_network_it_is():
    transform = dct(3)
    whole = network(transform, torch.float64, dead=False)
    branches = split(whole)
    optimizers = [adamw(module) for module in (whole, *branches)]
    for step in range(5):
        x = images(transform, torch.float64, seed=step)
        for optimizer in optimizers:
            optimizer.zero_grad()
        total(whole(x), transform).backward()
        for k, branch in enumerate(branches):
            loss(branch(x[:, k])).backward()
        for optimizer in optimizers:
            optimizer.step()

    for one, other in zip(split(whole), branches, strict=True):
        for name, tensor in other.state_dict().items():
            assert_parity(one.state_dict()[name], tensor, kind="float64")


def test_a_complex_branch_trained_as_an_ordinary_network_loses_its_form():
    transform = dft(3)
    branches = split(network(transform, torch.float64))
    optimizer = adamw(branches[1])
    loss(branches[1](of_block(images(transform, torch.float64), (1, 2)))).backward()
    optimizer.step()

    with pytest.raises(ValueError, match=r"layer '1' of branch 1: the weight is not \[\[R, -I\]"):
        join(branches, transform)


def test_the_transform_at_both_ends_is_no_part_of_the_branches():
    transform = dft(4)
    inner = network(transform, torch.float64).eval()
    whole = nn.Sequential(ToBands(transform), *inner, FromBands(transform)).eval()
    tubes = transform.from_bands(images(transform, torch.float64), 1)

    branches = split(whole)

    assert list(branches[0].state_dict())[-1] == "13.bias"  # names are kept
    assert [len(branch) for branch in branches] == [13] * 3
    bands = transform.to_bands(whole(tubes), 1)
    for branch, block in zip(branches, transform.blocks, strict=True):
        answer = branch(of_block(transform.to_bands(tubes, 1), block))
        assert_all_equal([answer], [of_block(bands, block)])


def test_a_changed_branch_is_noticed():
    transform = dft(4)
    whole = network(transform, torch.float64).eval()
    branches = split(whole)
    x = images(transform, torch.float64)
    branches[1][12].weight.data[0, 0] += 1e-6

    with pytest.raises(AssertionError, match="differ by"):
        assert_all_equal([branches[1](of_block(x, (1, 2)))], [of_block(whole(x), (1, 2))])


@Each
def test_a_block_of_the_input_reaches_its_own_block_of_the_output_only(transform: TubeTransform):
    whole = network(transform, torch.float64)
    x = images(transform, torch.float64).requires_grad_()

    for block in transform.blocks:
        (gradient,) = torch.autograd.grad(whole(x)[:, list(block)].sum(), x)
        others = [k for k in range(transform.size) if k not in block]
        assert gradient[:, list(block)].abs().max() > 1e-12
        assert not gradient[:, others].any()

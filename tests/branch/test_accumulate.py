"""A step taken a few images at a time is the step on the whole batch, up to the order of sums."""

import copy
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

from edge_stl.branch import Settings, Trainer, build_module
from edge_stl.branch._accumulate import accumulated_logits
from edge_stl.plan import networks, new_plan
from edge_stl.testing import assert_parity


BATCH, CHANNELS, CLASSES = 7, 4, 5
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def network(name: str, *, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    size = side(name)
    layers = networks.preset(name, channels=CHANNELS, size=size, classes=CLASSES)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return build_module(layers, channels=CHANNELS, size=size).to(dtype).train()


def side(name: str) -> int:
    return 4 if name == "fc-8l" else 8


def batch(name: str, *, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    shape = (BATCH, CHANNELS, side(name), side(name))
    inputs = torch.rand(shape, generator=generator, dtype=dtype)
    return inputs, torch.randint(0, CLASSES, (BATCH,), generator=generator)


def step(module: nn.Sequential, optimizer: Any, logits: Tensor, targets: Tensor) -> None:
    optimizer.zero_grad()
    nn.functional.cross_entropy(logits, targets).backward()
    _without_what_is_nothing_but_rounding(module)
    optimizer.step()


def _without_what_is_nothing_but_rounding(module: nn.Sequential) -> None:
    """A bias right before a norm layer has gradient 0, and AdamW divides its rounding by itself."""
    layers = [m for m in module.modules() if not isinstance(m, nn.Sequential)]
    for layer, after in itertools.pairwise(layers):
        if isinstance(after, NORMS) and isinstance(layer, nn.Conv2d | nn.Linear):
            assert layer.bias is not None
            assert layer.bias.grad is not None
            assert float(layer.bias.grad.abs().max()) < 1e-6
            layer.bias.grad.zero_()


def both(
    name: str, *, micro: int, steps: int, dtype: torch.dtype = torch.float64
) -> tuple[Any, Any]:
    """Return a module trained with plain steps and its twin trained micro-batch by micro-batch."""
    plain = network(name, dtype=dtype)
    twin = copy.deepcopy(plain)
    inputs, targets = batch(name, dtype=dtype)
    for module in (plain, twin):
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2, fused=True)
        for _ in range(steps):
            logits = (
                module(inputs)
                if module is plain
                else accumulated_logits(module, inputs, micro=micro)
            )
            step(module, optimizer, logits, targets)
    return plain, twin


@pytest.mark.parametrize("micro", [1, 3])
@pytest.mark.parametrize("name", networks.preset_names())
def test_several_steps_of_every_network_are_those_on_the_whole_batch(name: str, micro: int):
    plain, twin = both(name, micro=micro, steps=2)

    assert list(plain.state_dict()) == list(twin.state_dict())
    for key, expected in plain.state_dict().items():
        largest = max(1.0, float(expected.double().abs().max()))
        assert_parity(twin.state_dict()[key] / largest, expected / largest, kind="float64")
    for one, other in zip(plain.parameters(), twin.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        largest = max(1.0, float(one.grad.abs().max()))
        assert_parity(other.grad / largest, one.grad / largest, kind="float64")


@given(micro=st.integers(1, 40), count=st.integers(2, 20))
@settings(max_examples=12, deadline=None)
def test_any_micro_batch_of_any_batch_gives_the_same_gradients(micro: int, count: int):
    plain = network("res-s")
    twin = copy.deepcopy(plain)
    generator = torch.Generator().manual_seed(count)
    inputs = torch.rand((count, CHANNELS, 8, 8), generator=generator, dtype=torch.float64)
    inputs.requires_grad_()
    other = inputs.detach().clone().requires_grad_()
    weights = torch.rand((count, CLASSES), generator=generator, dtype=torch.float64)

    (plain(inputs) * weights).sum().backward()
    (accumulated_logits(twin, other, micro=micro) * weights).sum().backward()

    assert inputs.grad is not None
    assert other.grad is not None
    assert float(inputs.grad.abs().max()) > 1e-3
    pairs = [(inputs.grad, other.grad)]
    pairs += [(a.grad, b.grad) for a, b in zip(plain.parameters(), twin.parameters(), strict=True)]
    for a, b in pairs:
        largest = max(1.0, float(a.abs().max()))
        assert_parity(b / largest, a / largest, kind="float64")


@pytest.mark.parametrize("name", ["cnn-s", "res-s", "mobile-s", "mlp-s"])
def test_running_statistics_move_once_a_step_as_torch_moves_them(name: str):
    plain, twin = both(name, micro=2, steps=1)
    norms = [m for m in plain.modules() if isinstance(m, NORMS)]
    twins = [m for m in twin.modules() if isinstance(m, NORMS)]

    assert len(norms) > 2
    for one, other in zip(norms, twins, strict=True):
        assert int(other.num_batches_tracked) == int(one.num_batches_tracked) == 1
        assert one.running_mean is not None
        assert other.running_mean is not None
        assert one.running_var is not None
        assert other.running_var is not None
        assert_parity(other.running_mean, one.running_mean, kind="float64")
        assert_parity(other.running_var, one.running_var, kind="float64")
        assert float((one.running_var - 1).abs().max()) > 1e-4


def test_in_single_precision_the_first_step_is_close():
    plain, twin = both("cnn-s", micro=3, steps=1, dtype=torch.float32)
    for one, other in zip(plain.parameters(), twin.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        largest = max(1.0, float(one.grad.abs().max()))
        assert_parity(other.grad / largest, one.grad / largest, kind="float32")


def test_statistics_of_every_micro_batch_for_itself_would_be_another_method():
    """What plain gradient accumulation does differs a thousand times more than rounding."""
    module = network("cnn-xs")
    inputs, _ = batch("cnn-xs")
    whole = copy.deepcopy(module)(inputs)
    apart = torch.cat([copy.deepcopy(module)(part) for part in inputs.split(3)])

    assert float((whole - apart).detach().abs().max()) > 1e-4


def test_one_value_per_channel_has_no_variance_and_is_refused_as_by_torch():
    module = nn.Sequential(nn.BatchNorm1d(3))
    with pytest.raises(
        ValueError, match="batch norm over 1 value per channel; expected at least 2"
    ):
        accumulated_logits(module, torch.rand(1, 3), micro=1)


def kept(work: Any) -> int:
    """Return the bytes that autograd keeps from a forward pass, storage by storage."""
    held: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = work()
    assert logits.requires_grad
    return sum(held.values())


@pytest.mark.parametrize(("name", "share"), [("cnn-xs", 0.7), ("mobile-s", 0.7), ("res-s", 0.95)])
def test_less_is_kept_for_the_backward_pass(name: str, share: float):
    module, inputs = network(name), batch(name)[0]
    plain = kept(lambda: copy.deepcopy(module)(inputs))
    few = kept(lambda: accumulated_logits(copy.deepcopy(module), inputs, micro=1))

    assert few < share * plain


# -- in a trainer -------------------------------------------------------------------------------


def trainer(**changes: Any) -> Trainer:
    plan = new_plan(
        classes=["a", "b"], resolution=8, levels=1, branches="all", network="cnn-xs", epochs=2
    )
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    labels = (np.arange(40) % 2).astype(np.int64)
    chosen = Settings.from_plan(plan, batch_size=9, **changes)
    return Trainer(pixels, labels, plan=plan, branch_name="all", settings=chosen)


def trained(job: Trainer) -> list[float]:
    losses = []
    while not job.finished:
        losses.append(job.step())
    return losses


def test_a_micro_batch_as_large_as_the_batch_changes_no_bit():
    whole, same = trainer(), trainer()
    same.micro_batch = same.largest_batch

    assert trained(same) == trained(whole)
    for key, tensor in whole.state().items():
        assert torch.equal(same.state()[key], tensor), key


def test_a_trainer_learns_the_same_a_few_images_at_a_time():
    whole, few = trainer(), trainer()
    few.micro_batch = 2
    whole_losses, few_losses = trained(whole), trained(few)

    assert few_losses != whole_losses  # it did go another way
    assert np.abs(np.array(few_losses) - whole_losses).max() < 1e-2
    assert abs(few.finish().log_loss - whole.finish().log_loss) < 2e-2


def test_a_rehearsal_counts_as_no_step_and_draws_nothing():
    rehearsed, fresh = trainer(), trainer()
    throwaway = trainer()
    before = torch.random.get_rng_state()
    throwaway.rehearse(3)
    throwaway.rehearse_answers()

    assert torch.equal(torch.random.get_rng_state(), before)
    assert throwaway.steps_done == 0
    assert (throwaway.largest_batch, throwaway.largest_evaluation) == (9, 4)
    assert trained(rehearsed) == trained(fresh)

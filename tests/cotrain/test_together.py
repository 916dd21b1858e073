"""Full sharing in one process: what every other method is measured against."""

from typing import Any

import pytest
import torch

from edge_stl.cotrain import (
    FRAME_BYTES,
    HEADER_BYTES,
    FullSharing,
    Graph,
    Ledger,
    LocalSettings,
    LocalSGD,
    ModuleProblem,
    Node,
    run_together,
)
from edge_stl.errors import CheckError, UsageError
from edge_stl.testing import assert_parity
from tests.cotrain.toy import toy_accuracy, toy_nodes, toy_points, toy_problem


RING = Graph.make("ring", 5).neighbours


def _run(rounds: int = 3, *, rate: float = 0.2, **changes: Any) -> tuple[list[Node], Ledger]:
    local = LocalSettings(rate=rate, rounds=rounds, steps=2)
    nodes, ledger = toy_nodes(FullSharing, RING, local), Ledger()
    run_together(nodes, rounds=rounds, ledger=ledger, **changes)
    return nodes, ledger


def test_nodes_that_share_everything_learn_and_come_close_to_each_other():
    nodes, _ = _run(60)

    assert min(toy_accuracy(node.vector) for node in nodes) > 0.9
    spread = torch.stack([node.vector for node in nodes]).std(dim=0).max()
    assert spread < 0.2


def test_mixing_keeps_the_mean_of_the_models():
    local = LocalSettings(rate=0.2, rounds=1)
    nodes = toy_nodes(FullSharing, RING, local)
    trained = torch.stack([node.local.run(node.vector, 0)[0] for node in nodes]).mean(0)

    run_together(nodes, rounds=1, ledger=Ledger())

    assert_parity(torch.stack([n.vector for n in nodes]).mean(0), trained, kind="float32")


def test_the_same_run_gives_the_same_bits():
    first, _ = _run()
    second, _ = _run()

    assert all(torch.equal(a.vector, b.vector) for a, b in zip(first, second, strict=True))


def test_every_neighbour_is_billed_for_every_message():
    nodes, ledger = _run(3)
    message = 4 * len(nodes[0].vector)

    assert ledger.node(2).values == 3 * 2 * message
    assert ledger.total.values == 5 * 3 * 2 * message
    assert ledger.total.headers == 5 * 3 * 2 * (HEADER_BYTES + FRAME_BYTES)
    assert ledger.total.indices == 0
    assert ledger.up_to(1) == ledger.total.total / 3
    assert ledger.to_json()["total"]["bytes"] == ledger.total.total


def test_a_node_that_is_lost_leaves_its_weight_to_the_others():
    nodes, ledger = _run(6, gone=lambda number: (4,) if number >= 2 else ())
    before, _ = _run(2)

    assert torch.equal(nodes[4].vector, before[4].vector)
    assert len(ledger.sent[4]) == 2
    assert all(torch.isfinite(node.vector).all() for node in nodes)


def test_a_restored_node_goes_on_with_the_same_bits():
    local = LocalSettings(rate=0.2, rounds=4, momentum=0.9)
    whole, cut = (toy_nodes(FullSharing, RING, local) for _ in range(2))
    run_together(whole, rounds=4, ledger=Ledger())
    run_together(cut, rounds=2, ledger=Ledger())
    new = toy_nodes(FullSharing, RING, local)
    for node, old in zip(new, cut, strict=True):
        node.restore(old.state())

    run_together(new, rounds=4, start=2, ledger=Ledger())

    assert all(torch.equal(a.vector, b.vector) for a, b in zip(new, whole, strict=True))


def test_training_that_diverges_says_so():
    local = LocalSGD(toy_problem(), LocalSettings(rate=0.1, rounds=1))
    vector = local.problem.start()

    with pytest.raises(CheckError, match="not finite; training diverged"):
        local.apply(vector, torch.full_like(vector, torch.nan), 0)


def test_a_step_that_leaves_the_numbers_says_so_before_anybody_hears_of_it():
    local = LocalSGD(toy_problem(), LocalSettings(rate=1e30, rounds=1))
    vector = local.problem.start()

    with pytest.raises(CheckError, match="round 3: the model is not finite after a step"):
        local.apply(vector, torch.full_like(vector, 1e30), 3)


def test_a_network_with_running_statistics_is_refused():
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))

    with pytest.raises(UsageError, match="running_mean: running statistics"):
        ModuleProblem(module, lambda step: toy_points(4, seed=step))


def test_a_gradient_is_the_one_that_torch_computes():
    problem = toy_problem()
    vector, (inputs, targets) = problem.start(), problem.batch(0)
    gradient, _ = problem.gradient(vector, (inputs, targets))
    step = 1e-3

    for place in (0, 11, len(vector) - 1):
        change = torch.zeros_like(vector)
        change[place] = step
        _, above = problem.gradient(vector + change, (inputs, targets))
        _, below = problem.gradient(vector - change, (inputs, targets))
        assert (above - below) / (2 * step) == pytest.approx(float(gradient[place]), abs=1e-3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rate": 0.0}, "rate = 0.0: out of range"),
        ({"steps": 0}, "steps = 0"),
        ({"momentum": 1.0}, "momentum = 1.0"),
        ({"schedule": "linear"}, "expected constant or cosine or step"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, object], said: str):
    with pytest.raises(UsageError, match=said):
        LocalSettings(**{"rate": 0.1, "rounds": 1} | changes)

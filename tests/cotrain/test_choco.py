"""CHOCO-SGD: estimates that sender and receivers keep alike."""

from typing import Any

import pytest
import torch

from edge_stl.cotrain import (
    Choco,
    ChocoSettings,
    FullSharing,
    Graph,
    Ledger,
    LocalSettings,
    Message,
    Node,
    run_together,
)
from edge_stl.cotrain._choco import difference, follow
from edge_stl.errors import UsageError
from edge_stl.testing import assert_parity
from tests.cotrain.toy import finish, toy_accuracy, toy_nodes


RING = Graph.make("ring", 5).neighbours


def _models(nodes: list[Node]) -> torch.Tensor:
    return torch.stack([node.vector for node in nodes])


def _run(
    settings: ChocoSettings, *, rounds: int = 3, rate: float = 0.2, **changes: Any
) -> tuple[list[Node], Ledger]:
    local = LocalSettings(rate=rate, rounds=rounds, steps=2)
    nodes, ledger = toy_nodes(Choco, RING, local, settings=settings), Ledger()
    run_together(nodes, rounds=rounds, ledger=ledger, **changes)
    return nodes, ledger


@pytest.mark.parametrize("start", ["model", "zero"])
def test_everything_sent_and_a_full_step_is_full_sharing(start: str):
    nodes, ledger = _run(ChocoSettings(1.0, 1.0, start))
    full = toy_nodes(FullSharing, RING, LocalSettings(rate=0.2, rounds=3, steps=2))
    run_together(full, rounds=3, ledger=Ledger())

    assert_parity(_models(nodes), _models(full), kind="same_input")
    assert ledger.total.indices == 0


@pytest.mark.parametrize("share", [0.05, 0.3, 1.0])
def test_the_mean_model_is_kept_whatever_is_sent(share: float):
    local = LocalSettings(rate=0.2, rounds=1)
    settings = ChocoSettings(share, 0.4, start="zero")
    nodes = toy_nodes(Choco, RING, local, settings=settings)
    for k, node in enumerate(nodes):
        node.vector = torch.randn(len(node.vector), generator=torch.Generator().manual_seed(k))
    trained = torch.stack([n.local.run(n.vector, 0)[0] for n in nodes])

    run_together(nodes, rounds=1, ledger=Ledger())

    assert float((_models(nodes) - trained).abs().max()) > 1e-3
    assert float((_models(nodes).mean(0) - trained.mean(0)).abs().max()) < 1e-6


def test_sender_and_receivers_keep_the_same_estimate_to_the_last_bit():
    nodes, _ = _run(ChocoSettings(0.2), rounds=8)

    for node in nodes:
        for j in node.seat.neighbours:
            assert torch.equal(node.estimates[j], nodes[j].estimate)


def test_the_formulas_are_those_of_the_weighted_sum():
    nodes, _ = _run(ChocoSettings(0.2, start="zero"), rounds=6)
    node = nodes[2]
    weights = dict.fromkeys(node.seat.neighbours, 1 / 3)
    s = node.estimate / 3 + sum(node.estimates[j] / 3 for j in node.seat.neighbours)

    moved = follow(node.vector, node.estimate, node.estimates, weights, 0.4)

    assert_parity(moved, node.vector + 0.4 * (s - node.estimate), kind="same_input")


def test_a_message_holds_the_largest_differences():
    model, estimate = torch.tensor([1.0, 5.0, -3.0, 2.0]), torch.tensor([1.0, 4.0, 3.0, 0.0])
    news = difference(model, estimate, 0.5)
    news.add_to(estimate)

    assert news.indices is not None
    assert news.indices.tolist() == [2, 3]
    assert estimate.tolist() == [1.0, 4.0, -3.0, 2.0]


def test_nodes_learn_and_come_close_to_each_other():
    nodes, ledger = _run(ChocoSettings(0.2, 0.4), rounds=40)

    assert min(toy_accuracy(node.vector) for node in nodes) > 0.9
    assert _models(nodes).std(dim=0).max() < 0.4
    assert ledger.total.values == 40 * 10 * 4 * round(0.2 * len(nodes[0].vector))


def test_a_restored_node_goes_on_with_the_same_bits():
    local = LocalSettings(rate=0.2, rounds=6, momentum=0.9)
    whole, cut, new = (toy_nodes(Choco, RING, local) for _ in range(3))
    run_together(whole, rounds=6, ledger=Ledger())
    run_together(cut, rounds=3, ledger=Ledger())
    saved = [node.state() for node in cut]
    run_together(cut, rounds=4, start=3, ledger=Ledger())  # what was saved is a copy
    for node, state in zip(new, saved, strict=True):
        node.restore(state)
    run_together(new, rounds=6, start=3, ledger=Ledger())

    assert torch.equal(_models(new), _models(whole))


def test_a_neighbour_that_is_gone_pulls_no_more():
    settings = ChocoSettings(1.0, 1.0)
    nodes, _ = _run(settings, rounds=20, gone=lambda number: (4,) if number >= 1 else ())
    nodes[4].vector.fill_(1e6)
    alone, _ = _run(settings, rounds=1)

    assert all(torch.isfinite(node.vector).all() for node in nodes)
    distance = (nodes[0].vector - nodes[3].vector).norm()
    assert distance < (nodes[0].vector - alone[4].vector).norm() / 2


def test_a_neighbour_that_missed_a_round_is_left_out_from_then_on():
    def models(absent: range) -> torch.Tensor:
        nodes, _ = _run(
            ChocoSettings(), rounds=4, gone=lambda number: (4,) if number in absent else ()
        )
        new = toy_nodes(Choco, RING, LocalSettings(rate=0.2, rounds=8, steps=2))
        for node, old in zip(new, nodes, strict=True):
            node.restore(old.state())
        run_together(
            new, rounds=8, start=4, ledger=Ledger(), gone=lambda n: (4,) if n in absent else ()
        )
        return _models(new)[:4]

    # its estimates missed a difference: it must not matter whether it comes back
    assert torch.equal(models(range(2, 4)), models(range(2, 99)))


def test_who_sent_a_forged_message_is_left_out_for_good():
    def models(forged: range) -> torch.Tensor:
        nodes = toy_nodes(Choco, RING, LocalSettings(rate=0.2, rounds=6))
        for number in range(6):
            running = [node.round(number) for node in nodes]
            sent = [next(each) for each in running]
            for k, each in enumerate(running):
                inbox = {j: sent[j][k] for j in RING[k]}
                if k == 0 and number in forged:
                    inbox[1] = Message(number, degree=2, flag=9)
                finish(each, inbox)
        assert list(nodes[0].refused) == [1]
        assert "expected 0 or 1" in nodes[0].refused[1]
        assert list(nodes[0].estimates) == [4]
        return _models(nodes)

    # an honest message of it that comes later does not bring it back
    assert torch.equal(models(range(2, 4)), models(range(2, 6)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"share": 0.0}, "share = 0.0: out of range"),
        ({"gamma": 0.0}, "gamma = 0.0"),
        ({"gamma": 1.01}, "gamma = 1.01"),
        ({"start": "one"}, "expected model or zero"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], said: str):
    with pytest.raises(UsageError, match=said):
        ChocoSettings(**changes)

"""JWINS: the invariants of the method, and the mistakes of its first code."""

import random  # noqa: TID251  (to show that nothing depends on it)
import re
from typing import Any

import numpy as np
import pytest
import torch

from edge_stl.cotrain import (
    HEADER_BYTES,
    FullSharing,
    Graph,
    Jwins,
    JwinsSettings,
    Ledger,
    LocalSettings,
    Message,
    Node,
    Seat,
    Sparse,
    run_together,
)
from edge_stl.cotrain._jwins import cut_off, draw_share
from edge_stl.errors import UsageError
from edge_stl.testing import assert_parity
from tests.cotrain.toy import finish, toy_accuracy, toy_nodes, toy_problem


RING = Graph.make("ring", 5).neighbours
STAR = ((1, 2, 3), (0,), (0,), (0,))
GOLDEN = (
    "45534331"
    "00"
    "01"
    "0200"
    "07000000"  # magic, kind, flag, degree, round
    "1200000000000000"
    "1000000000000000"  # bytes of indices and of values
    "0100000000000000"
    "0b00000000000000"
    "4880"  # 1, 3, 5, 9: 010 010 00100
    "000080c0"
    "00004040"
    "00000040"
    "00000041"  # -4, 3, 2, 8
)
TENTH = JwinsSettings(shares=(0.1,))


def _models(nodes: list[Node]) -> torch.Tensor:
    return torch.stack([node.vector for node in nodes])


def _run(
    settings: JwinsSettings,
    *,
    rounds: int = 3,
    graph: tuple[tuple[int, ...], ...] = RING,
    rate: float = 0.2,
    **changes: Any,
) -> tuple[list[Node], Ledger]:
    local = LocalSettings(rate=rate, rounds=rounds, steps=2)
    nodes, ledger = toy_nodes(Jwins, graph, local, settings=settings), Ledger()
    run_together(nodes, rounds=rounds, ledger=ledger, **changes)
    return nodes, ledger


def _step(node: Node, number: int, inbox: dict[int, Message] | None = None) -> Message:
    """Run one round of one node by hand and return what it sent."""
    running = node.round(number)
    outbox = next(running)
    with pytest.raises(StopIteration, match=r"\d"):
        running.send(inbox or {})
    return next(iter(outbox.values()))


@pytest.mark.parametrize("graph", [RING, STAR])
@pytest.mark.parametrize("mode", ["symmetric", "periodization"])
def test_a_cut_off_of_one_is_full_sharing(graph: tuple[tuple[int, ...], ...], mode: str):
    nodes, ledger = _run(JwinsSettings(shares=(1.0,), mode=mode), graph=graph, rounds=5)
    full = toy_nodes(FullSharing, graph, LocalSettings(rate=0.2, rounds=5, steps=2))
    run_together(full, rounds=5, ledger=Ledger())

    assert_parity(_models(nodes), _models(full), kind="same_input")
    assert ledger.total.indices == 0


def test_the_mean_model_is_kept_by_whole_messages_and_moved_by_partial_ones():
    drift = {}
    for share in (1.0, 0.1):
        local = LocalSettings(rate=0.2, rounds=1)
        settings = JwinsSettings(shares=(share,))
        nodes = toy_nodes(Jwins, RING, local, settings=settings)
        for k, node in enumerate(nodes):
            node.vector = torch.randn(len(node.vector), generator=torch.Generator().manual_seed(k))
        trained = torch.stack([n.local.run(n.vector, 0)[0] for n in nodes]).mean(0)
        run_together(nodes, rounds=1, ledger=Ledger())
        drift[share] = float((_models(nodes).mean(0) - trained).abs().max())

    assert drift[1.0] < 1e-6
    assert drift[0.1] > 1e-2


def test_equal_models_stay_what_they_are_to_the_last_bit():
    local = LocalSettings(rate=1e-30, rounds=4)  # nobody learns
    nodes = toy_nodes(Jwins, RING, local)
    start = nodes[0].vector.clone()

    run_together(nodes, rounds=4, ledger=Ledger())

    assert all(torch.equal(node.vector, start) for node in nodes)


def test_a_message_holds_models_and_not_differences_where_the_score_is_largest():
    node = Jwins(Seat(0, (1,)), toy_problem(), LocalSettings(rate=0.2, rounds=9), TENTH)
    node.accumulated = torch.linspace(0, 9, node.wavelet.length)
    before, scores = node.vector, node.accumulated.clone()
    trained = node.local.run(before, 4)[0]
    message = _step(node, 4)
    heard = Sparse.read(message, node.wavelet.length)

    scores += node.wavelet.forward(trained - before)
    count = round(0.1 * node.wavelet.length)
    assert heard.indices is not None
    assert set(heard.indices.tolist()) == set(torch.topk(scores.abs(), count).indices.tolist())
    assert torch.equal(heard.values, node.wavelet.forward(trained)[heard.indices])
    assert (message.round, message.degree) == (4, 1)


@pytest.mark.parametrize("share", [0.1, 0.49, 0.5, 1.0])
def test_the_accumulator_holds_the_whole_round_of_what_was_not_just_sent(share: float):
    local = LocalSettings(rate=0.2, rounds=3)
    nodes = toy_nodes(Jwins, RING, local, settings=JwinsSettings(shares=(share,)))
    for number in range(3):
        old = [(n.vector.clone(), n.accumulated.clone()) for n in nodes]
        sent: dict[int, torch.Tensor | None] = {}
        for k, node in enumerate(nodes):
            trained = node.local.run(node.vector, number)[0]
            scores = node.accumulated + node.wavelet.forward(trained - node.vector)
            sent[k] = cut_off(share, scores, cap=0.5)
        run_together(nodes, rounds=number + 1, start=number, ledger=Ledger())
        for k, node in enumerate(nodes):
            vector, expected = old[k]
            chosen = sent[k]
            expected[slice(None) if chosen is None else chosen] = 0
            assert (chosen is None) == (share >= 0.5)
            expected += node.wavelet.forward(node.vector - vector)
            assert torch.equal(node.accumulated, expected)


def test_accumulation_of_training_alone_leaves_out_what_mixing_changed():
    node = Jwins(
        Seat(0, (1,)),
        toy_problem(),
        LocalSettings(rate=0.2, rounds=1),
        JwinsSettings(shares=(0.1,), accumulation="local"),
    )
    expected = node.wavelet.forward(node.local.run(node.vector, 0)[0] - node.vector)
    other = Sparse.of(torch.ones(node.wavelet.length), None).message(0, degree=1)
    heard = Sparse.read(_step(node, 0, {1: other}), node.wavelet.length)
    expected[heard.indices] = 0

    assert torch.equal(node.accumulated, expected)


def test_without_accumulation_nothing_is_kept():
    nodes, _ = _run(JwinsSettings(shares=(0.1,), accumulation="none"))

    assert all(not node.accumulated.any() for node in nodes)


def test_no_coefficient_starves():
    size, share = 1000, 0.1
    scores, seen = torch.zeros(size), torch.zeros(size, dtype=torch.int64)
    for number in range(1, 40):
        scores += 1
        chosen = cut_off(share, scores, cap=0.5)
        assert chosen is not None
        assert len(chosen) == round(share * size)
        scores[chosen], seen[chosen] = 0, number
        if number > 11:
            assert number - int(seen.min()) <= 11


def test_every_coefficient_of_a_real_run_is_sent_in_time_when_all_change_alike():
    settings = JwinsSettings(shares=(0.1,), wavelet="haar", level=2, mode="periodization")
    node = Jwins(Seat(0, (1,)), toy_problem(), LocalSettings(rate=0.2, rounds=99), settings)
    node.vector.zero_()  # a sum of sixteenths, without rounding
    ramp = node.wavelet.inverse(torch.ones(node.wavelet.length))
    node.local.run = lambda vector, _number: (vector + ramp, 0.0)  # type: ignore[method-assign]
    sent = [Sparse.read(_step(node, n), node.wavelet.length).indices for n in range(11)]

    assert set(torch.cat(sent).tolist()) == set(range(node.wavelet.length))


@pytest.mark.parametrize("share", [0.1, 0.15, 0.2, 0.25, 0.3, 0.4])
def test_a_partial_message_is_smaller_than_the_model(share: float):
    node = Jwins(
        Seat(0, (1,)),
        toy_problem(),
        LocalSettings(rate=0.2, rounds=1),
        JwinsSettings(shares=(share,)),
    )

    assert len(_step(node, 0)) <= 4 * len(node.vector) + HEADER_BYTES


def test_the_published_cut_offs_send_a_third_of_a_model_by_the_wire():
    size, nodes, rounds = 20_000, 16, 120
    model = torch.randn(size, generator=torch.Generator().manual_seed(0))
    whole = len(Sparse.of(model, None).message(0, degree=1))
    spent = 0
    lengths: dict[float, int] = {}
    for k in range(nodes):
        for number in range(rounds):
            share = draw_share(JwinsSettings(), Seat(k, ()), number)
            if share not in lengths:
                message = Sparse.of(model, cut_off(share, model, cap=0.5)).message(0, degree=1)
                lengths[share] = len(message.to_bytes())
            spent += lengths[share]

    assert set(lengths) == set(JwinsSettings().shares)
    assert spent / (nodes * rounds * whole) == pytest.approx(0.3655, abs=0.015)
    assert sum(lengths.values()) / 7 / whole == pytest.approx(0.3655, abs=0.001)


@pytest.mark.parametrize(("low", "expected"), [(0.1, 0.206), (0.05, 0.109)])
def test_two_point_lists_draw_as_often_as_they_say(low: float, expected: float):
    settings = JwinsSettings(shares=(low, 1.0), probabilities=(1 - low, low))
    drawn = [draw_share(settings, Seat(k, (), 5), r) for k in range(20) for r in range(300)]
    model = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    part = len(Sparse.of(model, cut_off(low, model, cap=0.5)).message(0, degree=1)) / 80_000

    assert np.mean(np.array(drawn) == 1.0) == pytest.approx(low, abs=0.015)
    assert low + (1 - low) * part == pytest.approx(expected, abs=0.002)


def test_what_a_node_draws_depends_on_seed_number_and_round_alone():
    shares = [draw_share(JwinsSettings(), Seat(2, (1, 3), 7), number) for number in range(30)]
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002, TID251
    torch.manual_seed(3)
    again = [draw_share(JwinsSettings(), Seat(2, (9,), 7), n) for n in reversed(range(30))]
    others = [
        [draw_share(JwinsSettings(), seat, number) for number in range(30)]
        for seat in (Seat(1, (), 7), Seat(2, (), 8))
    ]

    assert shares == again[::-1]
    assert shares not in others
    assert others[0] != others[1]


def test_the_cap_sends_everything_and_the_indices_of_nothing():
    scores = torch.arange(10.0)

    assert cut_off(0.5, scores, cap=0.5) is None
    assert cut_off(0.4, scores, cap=0.5).tolist() == [6, 7, 8, 9]  # type: ignore[union-attr]
    assert len(cut_off(0.25, scores, cap=0.5)) == round(2.5) == 2  # type: ignore[arg-type]
    assert len(cut_off(0.01, scores, cap=0.5)) == 0  # type: ignore[arg-type]


def test_a_share_that_rounds_to_nothing_is_a_message_all_the_same():
    nodes, ledger = _run(JwinsSettings(shares=(0.001,)))

    assert ledger.total.values == ledger.total.indices == 0
    assert ledger.total.messages == 30
    assert all(torch.isfinite(node.vector).all() for node in nodes)


def test_weights_follow_the_degree_in_the_message():
    node = Jwins(
        Seat(0, (1,)),
        toy_problem(),
        LocalSettings(rate=0.2, rounds=1),
        JwinsSettings(shares=(1.0,)),
    )
    trained = node.local.run(node.vector, 0)[0]
    other = Sparse.of(torch.zeros(node.wavelet.length), None).message(0, degree=9)
    _step(node, 0, {1: other})

    assert_parity(node.vector, 0.9 * trained, kind="same_input")


def test_nodes_learn_with_a_third_of_the_bytes():
    nodes, ledger = _run(JwinsSettings(), rounds=40)

    assert min(toy_accuracy(node.vector) for node in nodes) > 0.9
    spread = _models(nodes).std(dim=0).max()
    assert spread < 0.3
    assert ledger.total.values < 0.4 * 40 * 10 * 4 * nodes[0].wavelet.length


def test_the_same_run_gives_the_same_bits_and_bytes():
    (one, first), (two, second) = _run(JwinsSettings()), _run(JwinsSettings())

    assert torch.equal(_models(one), _models(two))
    assert first == second


@pytest.mark.parametrize("accumulation", ["round", "local", "none"])
def test_a_restored_node_goes_on_with_the_same_bits(accumulation: str):
    settings = JwinsSettings(accumulation=accumulation)
    local = LocalSettings(rate=0.2, rounds=6, momentum=0.9)
    whole, cut, new = (toy_nodes(Jwins, RING, local, settings=settings) for _ in range(3))
    run_together(whole, rounds=6, ledger=Ledger())
    run_together(cut, rounds=3, ledger=Ledger())
    saved = [node.state() for node in cut]
    run_together(cut, rounds=4, start=3, ledger=Ledger())  # what was saved is a copy
    for node, state in zip(new, saved, strict=True):
        node.restore(state)
    run_together(new, rounds=6, start=3, ledger=Ledger())

    assert torch.equal(_models(new), _models(whole))


def test_a_node_whose_neighbour_is_gone_goes_on():
    nodes, _ = _run(JwinsSettings(), rounds=6, gone=lambda number: (4,) if number >= 2 else ())
    before, _ = _run(JwinsSettings(), rounds=2)

    assert torch.equal(nodes[4].vector, before[4].vector)
    assert all(torch.isfinite(node.vector).all() for node in nodes)


def test_a_message_keeps_its_bytes():
    coefficients = torch.tensor([0.5, -4.0, 0.25, 3.0, -0.125, 2.0, 0.0, -1.0, 0.0, 8.0])
    sent = cut_off(0.4, coefficients, cap=0.5)
    data = Sparse.of(coefficients, sent).message(7, degree=2).to_bytes()

    assert data.hex() == GOLDEN
    heard = Sparse.read(Message.from_bytes(bytes.fromhex(GOLDEN)), 10)
    assert heard.indices is not None
    assert heard.indices.tolist() == [1, 3, 5, 9]
    assert heard.values.tolist() == [-4.0, 3.0, 2.0, 8.0]


def test_a_forged_message_is_refused_in_one_sentence():
    node = Jwins(Seat(0, (1,)), toy_problem(), LocalSettings(rate=0.2, rounds=1))
    running = node.round(0)
    next(running)

    finish(running, {1: Message(0, degree=1, flag=1, indices=bytes(16), values=bytes(8))})
    assert re.match(r"\A[^\n]+not whole codes[^\n]+\Z", node.refused[1])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"shares": ()}, r"shares = \(\): out of range"),
        ({"shares": (0.0, 1.0)}, "expected above 0 to 1"),
        ({"shares": (1.1,)}, "expected above 0 to 1"),
        ({"shares": (float("nan"),)}, "expected above 0 to 1"),
        ({"probabilities": (1.0,)}, "expected 7 of them that sum to 1"),
        ({"shares": (0.1, 1.0), "probabilities": (0.9, 0.2)}, "expected 2 of them"),
        ({"shares": (0.1, 1.0), "probabilities": (1.1, -0.1)}, "expected 2 of them"),
        ({"metadata_cap": 0.0}, "metadata_cap = 0.0"),
        ({"accumulation": "all"}, "expected round or local or none"),
        ({"wavelet": "sym0"}, "wavelet = 'sym0'"),
        ({"level": -1}, "level = -1"),
        ({"mode": "zero"}, "mode = 'zero'"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], said: str):
    with pytest.raises(UsageError, match=said):
        JwinsSettings(**changes)

"""NGC and CompNGC: what a step is, on any graph, whoever is there."""

import dataclasses
import re
import weakref
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from edge_stl.cotrain import (
    FRAME_BYTES,
    HEADER_BYTES,
    NGC,
    Batch,
    CompNGC,
    Flat,
    FullSharing,
    Graph,
    Ledger,
    LocalSettings,
    LocalSGD,
    Message,
    ModuleProblem,
    NGCSettings,
    Node,
    Round,
    Seat,
    gradient_weights,
    metropolis,
    pack_floats,
    pack_signs,
    run_together,
    unpack_floats,
)
from edge_stl.errors import CheckError, UsageError
from edge_stl.testing import assert_parity
from tests.cotrain.test_sign import CNN5
from tests.cotrain.toy import toy_module, toy_nodes, toy_points, toy_problem


RING = Graph.make("ring", 5).neighbours
STAR = ((1, 2, 3), (0, 2), (0, 1), (0,))
"""No regular graph: degrees 3, 2, 2, 1."""
LOCAL = LocalSettings(rate=0.1, rounds=4, steps=2, momentum=0.9, nesterov=True, weight_decay=1e-3)


class Noise:
    """A problem whose gradients are random numbers, or zeros; it depends on no network."""

    def __init__(self, node: int, *, flat: Flat = CNN5, size: float = 1.0) -> None:
        self.shapes, self._size, self._node = flat.shapes, size, node
        self.flat = flat

    def start(self) -> Tensor:
        return torch.randn(self.flat.size, generator=torch.Generator().manual_seed(self._node))

    def batch(self, step: int) -> Batch:
        return torch.tensor([1000.0 * self._node + step]), torch.zeros(1, dtype=torch.int64)

    def gradient(self, vector: Tensor, batch: Batch) -> tuple[Tensor, float]:
        generator = torch.Generator().manual_seed(int(batch[0]))
        return torch.randn(len(vector), generator=generator) * self._size, 0.0


def _run(
    make: type[Node],
    graph: tuple[tuple[int, ...], ...],
    settings: NGCSettings | None,
    *,
    local: LocalSettings = LOCAL,
    **changes: Any,
) -> tuple[list[Node], Ledger]:
    extra = {} if settings is None else {"settings": settings}
    nodes, ledger = toy_nodes(make, graph, local, **extra), Ledger()
    run_together(nodes, rounds=local.rounds, ledger=ledger, **changes)
    return nodes, ledger


def _oracle(
    graph: tuple[tuple[int, ...], ...],
    settings: NGCSettings,
    local: LocalSettings,
    *,
    compressed: bool,
) -> list[Tensor]:
    """Return the models after all rounds by the formulas, with every gradient held at once."""
    n, beta, rate = len(graph), local.momentum, local.rate
    w = torch.zeros(n, n)
    for i, row in enumerate(graph):
        for j in row:
            w[i, j] = 1 / (max(len(row), len(graph[j])) + 1)
        w[i, i] = 1 - w[i].sum()
    problems = [toy_problem(k) for k in range(n)]
    flat = Flat(problems[0].shapes)
    x = [p.start() for p in problems]
    m = [torch.zeros_like(v) for v in x]
    error: dict[tuple[int, int], Tensor] = {}
    last: list[Tensor | None] = [None] * n
    for step in range(local.rounds * local.steps):
        batches = [p.batch(step) for p in problems]
        y = [
            x[i] + settings.gamma * sum(w[i, j] * (x[j] - x[i]) for j in graph[i]) for i in range(n)
        ]
        h = {}
        for i in range(n):  # h[i, j]: model j on the images of i
            for j in (i, *graph[i]):
                at = y[i] if i == j and settings.gradient_at == "reference" else x[j]
                h[i, j] = problems[i].gradient(at, batches[i])[0]
                if compressed:
                    c = error.get((i, j), 0) + h[i, j]
                    h[i, j] = torch.cat(
                        [(v.abs().mean() * v.sign()).reshape(-1) for v in flat.views(c)]
                    )
                    error[i, j] = c - h[i, j]
        for i in range(n):
            here = sum(w[i, j] * h[i, j] for j in (i, *graph[i]))
            there = sum(w[i, j] * h[j, i] for j in (i, *graph[i]))
            g = (1 - settings.alpha) * here + settings.alpha * there
            g = g + local.weight_decay * y[i]
            if settings.quasi_global:
                before = last[i]
                if before is not None:
                    m[i] = beta * m[i] + (1 - beta) / rate * (before - y[i])
                buffer, last[i] = beta * m[i] + g, y[i]
            else:
                buffer = m[i] = beta * m[i] + g
            x[i] = y[i] - rate * (g + beta * buffer if local.nesterov else buffer)
    return x


@pytest.mark.parametrize("graph", [RING, STAR, Graph.make("full", 4).neighbours])
@pytest.mark.parametrize(
    "settings",
    [
        NGCSettings(),
        NGCSettings(alpha=0.25, gamma=0.5),
        NGCSettings(alpha=0.25, gamma=1.0, gradient_at="reference"),
        NGCSettings(alpha=0.0, gamma=1.0),
        NGCSettings(alpha=0.5, gamma=0.5, quasi_global=True),
    ],
)
def test_a_run_is_what_the_formulas_say(graph: tuple[tuple[int, ...], ...], settings: NGCSettings):
    nodes, _ = _run(NGC, graph, settings)
    wanted = _oracle(graph, settings, LOCAL, compressed=False)

    assert_parity(torch.stack([n.vector for n in nodes]), torch.stack(wanted), kind="float32")
    assert float((wanted[0] - toy_problem().start()).abs().max()) > 0.1


@pytest.mark.parametrize("graph", [RING, STAR])
@pytest.mark.parametrize("alpha", [0.25, 1.0])
def test_a_compressed_run_is_what_the_formulas_say(
    graph: tuple[tuple[int, ...], ...], alpha: float
):
    settings = NGCSettings(alpha=alpha, gamma=0.5)
    local = dataclasses.replace(LOCAL, rounds=2, nesterov=False)
    nodes, _ = _run(CompNGC, graph, settings, local=local)
    wanted = _oracle(graph, settings, local, compressed=True)

    assert_parity(torch.stack([n.vector for n in nodes]), torch.stack(wanted), kind="float32")


def test_compression_without_a_second_exchange_is_none():
    plain, _ = _run(NGC, RING, NGCSettings(alpha=0.0))
    packed, _ = _run(CompNGC, RING, NGCSettings(alpha=0.0))

    assert all(torch.equal(a.vector, b.vector) for a, b in zip(plain, packed, strict=True))


@given(st.integers(0, 6), st.data())
def test_the_weights_of_the_gradients_make_a_mean_whoever_answers(degree: int, data: Any):
    there = data.draw(st.integers(0, degree))
    own, weights = gradient_weights(degree, {j: data.draw(st.integers(1, 9)) for j in range(there)})

    assert own > 0
    assert own + sum(weights.values()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("answered", [0, 1, 2, 3])
def test_among_equals_everybody_who_answers_weighs_the_same(answered: int):
    own, weights = gradient_weights(3, dict.fromkeys(range(answered), 3))

    assert [own, *weights.values()] == pytest.approx([1 / (answered + 1)] * (answered + 1))


def test_on_an_irregular_graph_the_gradients_weigh_what_the_models_do():
    for row in STAR:
        degrees = {j: len(STAR[j]) for j in row}
        _, weights = gradient_weights(len(row), degrees)

        assert weights == pytest.approx(metropolis(len(row), degrees))


@pytest.mark.parametrize("gamma", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("graph", [RING, STAR])
def test_gossip_alone_keeps_the_mean_of_the_models(
    graph: tuple[tuple[int, ...], ...], gamma: float
):
    flat = Flat((torch.Size((7, 3)),))
    local = LocalSettings(rate=0.1, rounds=3)
    nodes = [
        NGC(Seat(k, row), Noise(k, flat=flat, size=0.0), local, NGCSettings(gamma=gamma))
        for k, row in enumerate(graph)
    ]
    before = torch.stack([node.vector for node in nodes])
    run_together(nodes, rounds=3, ledger=Ledger())
    after = torch.stack([node.vector for node in nodes])

    assert_parity(after.mean(0), before.mean(0), kind="same_input")
    assert after.var(0).sum() < before.var(0).sum()


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("point", ["exchanged", "reference"])
def test_boxes_that_see_the_same_images_train_like_one(alpha: float, point: str):
    settings = NGCSettings(alpha=alpha, gamma=0.5, gradient_at=point)
    nodes: list[Node] = [
        NGC(Seat(k, row), toy_problem(0), LOCAL, settings) for k, row in enumerate(RING)
    ]
    run_together(nodes, rounds=LOCAL.rounds, ledger=Ledger())
    alone = LocalSGD(toy_problem(0), LOCAL)
    vector = alone.problem.start()
    for number in range(LOCAL.rounds):
        vector, _ = alone.run(vector, number)

    for node in nodes:
        assert_parity(node.vector, vector, kind="float32")


def test_boxes_that_all_know_each_other_train_on_the_union_of_their_images():
    full = Graph.make("full", 4).neighbours
    nodes, _ = _run(NGC, full, NGCSettings(alpha=1.0, gamma=1.0))

    def union(step: int) -> Batch:
        parts = [toy_problem(k).batch(step) for k in range(4)]
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])

    central = LocalSGD(ModuleProblem(toy_module(), union), LOCAL)
    vector = central.problem.start()
    for number in range(LOCAL.rounds):
        vector, _ = central.run(vector, number)

    for node in nodes:
        assert_parity(node.vector, vector, kind="float32")


def test_a_box_without_neighbours_does_plain_sgd_with_the_same_bits():
    node = NGC(Seat(0, ()), toy_problem(), LOCAL, NGCSettings(alpha=0.0, gamma=0.0))
    run_together([node], rounds=LOCAL.rounds, ledger=Ledger())
    alone = LocalSGD(toy_problem(), LOCAL)
    vector = alone.problem.start()
    for number in range(LOCAL.rounds):
        vector, _ = alone.run(vector, number)

    assert torch.equal(node.vector, vector)


def _models(vectors: Mapping[int, Tensor]) -> dict[int, Message]:
    return {j: Message(0, 0, 2, values=pack_floats(v)) for j, v in vectors.items()}


def _end(running: Round, inbox: Mapping[int, Message]) -> float:
    """Give a round its last messages and return its loss."""
    try:
        running.send(inbox)
    except StopIteration as end:
        return float(end.value)
    raise AssertionError("another exchange")


def test_what_a_box_sends_is_the_gradient_of_the_receivers_model_before_gossip_on_its_images():
    node = NGC(Seat(1, (0, 2)), toy_problem(1), LOCAL, NGCSettings(gamma=1.0))
    models = {j: node.vector + j - 1.5 for j in (0, 2)}
    running = node.round(0)
    first = next(running)
    second = running.send(_models(models))

    assert {m.values for m in first.values()} == {pack_floats(node.vector)}
    for j, model in models.items():
        wanted, _ = toy_problem(1).gradient(model, toy_problem(1).batch(0))
        assert torch.equal(unpack_floats(second[j].values, len(model)), wanted)


def test_what_a_box_sends_compressed_is_the_signs_of_that_gradient():
    node = CompNGC(Seat(1, (0, 2)), toy_problem(1), LOCAL, NGCSettings())
    model = node.vector * 1.5
    running = node.round(0)
    next(running)
    second = running.send(_models({0: model, 2: node.vector}))
    gradient, _ = toy_problem(1).gradient(model, toy_problem(1).batch(0))

    assert second[0].values == pack_signs(gradient, Flat(node.problem.shapes))


def test_the_result_is_that_of_the_gradients_that_came_with_alpha_1():
    local = LocalSettings(rate=0.5, rounds=1)
    node = NGC(Seat(1, (0, 2)), toy_problem(1), local, NGCSettings(gamma=0.0))
    start, own = node.vector, toy_problem(1).gradient(node.vector, toy_problem(1).batch(0))[0]
    came = {0: torch.ones_like(start), 2: torch.full_like(start, -3.0)}
    running = node.round(0)
    next(running)
    running.send(_models({j: start + j for j in (0, 2)}))
    _end(running, {j: Message(0, 1, 2, values=pack_floats(g)) for j, g in came.items()})

    assert_parity(node.vector, start - 0.5 * (own + came[0] + came[2]) / 3, kind="float32")


@pytest.mark.parametrize("make", [NGC, CompNGC])
def test_alpha_0_sends_not_a_byte_more_than_full_sharing(make: type[Node]):
    local = dataclasses.replace(LOCAL, steps=1)
    _, ledger = _run(make, RING, NGCSettings(alpha=0.0), local=local)
    _, full = _run(FullSharing, RING, None, local=local)

    assert ledger.to_json() == full.to_json()


@pytest.mark.parametrize("make", [NGC, CompNGC])
def test_alpha_0_has_no_second_exchange(make: type[Node]):
    local = LocalSettings(rate=0.5, rounds=1)
    (node,) = toy_nodes(make, ((0,),), local, settings=NGCSettings(alpha=0.0))
    running = node.round(0)
    first = next(running)

    assert _end(running, first) > 0


def test_every_step_of_a_round_has_its_two_exchanges():
    nodes, ledger = _run(NGC, RING, NGCSettings())

    assert ledger.node(3).messages == LOCAL.rounds * LOCAL.steps * 2 * 2
    assert ledger.node(3).values == ledger.node(3).messages * 4 * len(nodes[0].vector)


def test_the_second_exchange_of_the_five_layer_cnn_is_31_times_smaller_on_the_wire():
    local = LocalSettings(rate=0.1, rounds=1)
    bills = {}
    for name, make, alpha in (("models", NGC, 0.0), ("ngc", NGC, 1.0), ("comp", CompNGC, 1.0)):
        ledger = Ledger()
        nodes = [
            make(Seat(k, row), Noise(k), local, NGCSettings(alpha=alpha))
            for k, row in enumerate(RING)
        ]
        run_together(nodes, rounds=1, ledger=ledger)
        bills[name] = ledger.total

    full = bills["ngc"].values - bills["models"].values
    packed = bills["comp"].values - bills["models"].values
    headers = bills["comp"].headers - bills["models"].headers
    assert full == bills["models"].values == 5 * 2 * 4 * 76_010
    assert packed == 5 * 2 * 9_558
    assert headers == 5 * 2 * (HEADER_BYTES + FRAME_BYTES)
    assert full / packed == pytest.approx(31.81, abs=0.005)
    assert (full + headers) / (packed + headers) > 31


def test_nodes_of_two_classes_each_learn_what_their_neighbours_see():
    pairs = ((0, 1), (1, 2), (2, 3), (3, 0))
    graph = Graph.make("full", 4).neighbours
    local = LocalSettings(rate=0.3, rounds=40)
    inputs, targets = toy_points(400, seed=12_345)

    def accuracy(make: type[Node], **settings: Any) -> float:
        nodes = [
            make(Seat(k, row), toy_problem(k, classes=pairs[k]), local, **settings)
            for k, row in enumerate(graph)
        ]
        run_together(nodes, rounds=40, ledger=Ledger())
        module, total = toy_module(), 0.0
        for node in nodes:
            problem = ModuleProblem(module, lambda step: toy_points(1, seed=step))
            problem.load(node.vector)
            total += float((module(inputs).argmax(1) == targets).float().mean())
        return total / 4

    assert accuracy(NGC, settings=NGCSettings(gamma=1.0)) > 0.9
    assert accuracy(CompNGC, settings=NGCSettings(gamma=1.0)) > 0.9


@pytest.mark.parametrize("make", [NGC, CompNGC])
def test_a_node_that_is_lost_leaves_a_mean_of_those_that_answer(make: type[Node]):
    settings = NGCSettings(alpha=0.5, gamma=0.5)
    nodes, ledger = _run(make, RING, settings, gone=lambda number: (4,) if number >= 2 else ())
    before, _ = _run(make, RING, settings, local=dataclasses.replace(LOCAL, rounds=2))

    assert torch.equal(nodes[4].vector, before[4].vector)
    assert len(ledger.sent[4]) == 2
    assert all(torch.isfinite(node.vector).all() for node in nodes)


def test_a_neighbour_lost_between_the_exchanges_is_left_out_of_the_second_mean():
    local = LocalSettings(rate=0.5, rounds=1)
    node = NGC(Seat(1, (0, 2)), toy_problem(1), local, NGCSettings(gamma=0.0))
    start, own = node.vector, toy_problem(1).gradient(node.vector, toy_problem(1).batch(0))[0]
    came = torch.full_like(start, -3.0)
    running = node.round(0)
    next(running)
    running.send(_models({0: start, 2: start}))
    _end(running, {2: Message(0, 1, 2, values=pack_floats(came))})

    assert_parity(node.vector, start - 0.5 * (own + came) / 2, kind="float32")


def test_a_neighbour_lost_before_the_exchanges_is_left_out_of_both_means():
    local = LocalSettings(rate=0.5, rounds=1)
    settings = NGCSettings(alpha=0.0, gamma=0.0)
    node = NGC(Seat(1, (0, 2)), toy_problem(1), local, settings)
    start, batch = node.vector, toy_problem(1).batch(0)
    own, _ = toy_problem(1).gradient(start, batch)
    cross, _ = toy_problem(1).gradient(start + 1, batch)
    running = node.round(0)
    next(running)
    _end(running, _models({2: start + 1}))

    assert_parity(node.vector, start - 0.5 * (own + cross) / 2, kind="float32")


def test_who_sent_no_model_is_sent_no_gradient_and_a_box_left_alone_goes_on():
    node = CompNGC(Seat(1, (0, 2)), toy_problem(1), LOCAL, NGCSettings(alpha=0.5))
    start = node.vector
    running = node.round(0)
    next(running)

    assert set(running.send(_models({2: start}))) == {2}
    assert set(running.send({})) == {0, 2}
    assert running.send({}) == {}
    _end(running, {})
    assert not torch.equal(node.vector, start)
    assert torch.isfinite(node.vector).all()


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (NGC, NGCSettings()),
        (NGC, NGCSettings(alpha=0.5, quasi_global=True)),
        (CompNGC, NGCSettings(gamma=0.5, quasi_global=True)),
        (CompNGC, NGCSettings(gradient_at="reference")),
    ],
)
def test_a_restored_node_goes_on_with_the_same_bits(make: type[Node], settings: NGCSettings):
    local = dataclasses.replace(LOCAL, schedule="cosine")
    whole, cut = (toy_nodes(make, STAR, local, settings=settings) for _ in range(2))
    run_together(whole, rounds=4, ledger=Ledger())
    run_together(cut, rounds=2, ledger=Ledger())
    states = [node.state() for node in cut]
    new = toy_nodes(make, STAR, local, settings=settings)
    for node, state in zip(new, states, strict=True):
        node.restore(state)
    run_together(cut, rounds=4, start=2, ledger=Ledger())
    run_together(new, rounds=4, start=2, ledger=Ledger())

    assert all(torch.equal(a.vector, b.vector) for a, b in zip(new, whole, strict=True))
    assert all(torch.equal(a.vector, b.vector) for a, b in zip(cut, whole, strict=True))
    errors = len([name for name in states[0] if name.startswith("error.")])
    assert errors == (1 + 3 if make is CompNGC else 0)


def test_quasi_global_momentum_goes_by_the_rate_of_the_step_before():
    local = LocalSettings(rate=1.0, rounds=2, momentum=0.5, schedule="step")
    node = NGC(Seat(0, ()), toy_problem(), local, NGCSettings(quasi_global=True))
    start = node.vector
    first, _ = node.problem.gradient(start, node.problem.batch(0))
    run_together([node], rounds=1, ledger=Ledger())
    after = node.vector
    second, _ = node.problem.gradient(after, node.problem.batch(1))
    run_together([node], rounds=2, start=1, ledger=Ledger())

    assert_parity(after, start - first, kind="float32")
    slow = 0.5 * (start - after) / 1.0
    assert_parity(node.vector, after - 0.1 * (0.5 * slow + second), kind="float32")


class _Watched:
    """A problem that counts how many of the gradients it gave are still held."""

    def __init__(self, problem: ModuleProblem) -> None:
        self._problem, self._given = problem, list[weakref.ref[Tensor]]()
        self.shapes, self.start = problem.shapes, problem.start
        self.batches, self.most = 0, 0

    def batch(self, step: int) -> Batch:
        self.batches += 1
        return self._problem.batch(step)

    def gradient(self, vector: Tensor, batch: Batch) -> tuple[Tensor, float]:
        gradient, loss = self._problem.gradient(vector, batch)
        self.most = max(self.most, sum(ref() is not None for ref in self._given))
        self._given.append(weakref.ref(gradient))
        return gradient, loss


@pytest.mark.parametrize("make", [NGC, CompNGC])
def test_cross_gradients_are_dropped_as_they_come_and_the_minibatch_is_drawn_once(
    make: type[Node],
):
    graph = Graph.make("full", 6).neighbours
    watched = [_Watched(toy_problem(k)) for k in range(6)]
    nodes = [
        make(Seat(k, row), watched[k], LOCAL, settings=NGCSettings(alpha=0.5))
        for k, row in enumerate(graph)
    ]
    run_together(nodes, rounds=2, ledger=Ledger())

    assert max(w.most for w in watched) <= 2  # of five neighbours
    assert {w.batches for w in watched} == {2 * LOCAL.steps}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"round": 3}, r"of round, step, kind \(3, 0, 0\); expected \(0, 0, 0\)"),
        ({"kind": 1}, r"\(0, 0, 1\)"),
        ({"flag": 1}, r"\(0, 1, 0\)"),
        ({"values": b"1234"}, "values of 4 bytes"),
    ],
)
def test_a_message_of_another_exchange_is_refused(changes: dict[str, Any], said: str):
    node = NGC(Seat(1, (0,)), toy_problem(1), LOCAL, NGCSettings())
    running = node.round(0)
    (message,) = next(running).values()

    assert running.send({0: dataclasses.replace(message, **changes)}) == {}
    assert re.search(said, node.refused[0])


def test_plain_gradients_are_refused_where_packed_ones_are_expected():
    node = CompNGC(Seat(1, (0,)), toy_problem(1), LOCAL, NGCSettings())
    running = node.round(0)
    running.send({0: next(running)[0]})

    running.send({0: Message(0, 1, 1, values=pack_floats(node.vector))})
    assert "(0, 0, 1); expected (0, 0, 2)" in node.refused[0]


@pytest.mark.parametrize("make", [NGC, CompNGC])
def test_a_gradient_that_is_not_finite_never_leaves_its_box(make: type[Node]):
    node = make(Seat(1, (0,)), toy_problem(1), LOCAL, settings=NGCSettings())
    running = node.round(5)
    next(running)
    huge = torch.full_like(node.vector, 3e38)

    assert running.send({0: Message(5, 0, 1, values=pack_floats(huge))}) == {}
    assert "a model whose gradient on the images here is not finite" in node.refused[0]


@pytest.mark.parametrize("make", [NGC, CompNGC])
def test_an_own_gradient_that_is_not_finite_is_in_no_error_memory(make: type[Node]):
    node = make(Seat(1, (0,)), toy_problem(1), LOCAL, settings=NGCSettings())
    theirs = Message(5, 0, 1, values=pack_floats(node.vector))
    node.vector = torch.full_like(node.vector, 3e38)
    running = node.round(5)
    next(running)

    with pytest.raises(CheckError, match="round 5: the gradient of its own model"):
        running.send({0: theirs})
    assert all(torch.isfinite(tensor).all() for tensor in node.state().values())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"alpha": 1.5}, "alpha = 1.5: out of range; expected 0 to 1"),
        ({"alpha": float("nan")}, "alpha = nan"),
        ({"gamma": -0.1}, "gamma = -0.1"),
        ({"gradient_at": "there"}, "expected exchanged or reference"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], said: str):
    with pytest.raises(UsageError, match=said):
        NGCSettings(**changes)


def test_quasi_global_momentum_without_momentum_is_refused():
    local = LocalSettings(rate=0.1, rounds=1)

    with pytest.raises(UsageError, match="quasi_global with momentum = 0"):
        NGC(Seat(0, ()), toy_problem(), local, NGCSettings(quasi_global=True))

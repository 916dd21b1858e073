"""A message that cannot be used costs its sender, whatever the method."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from edge_stl.cotrain import (
    NGC,
    Choco,
    CompNGC,
    FullSharing,
    Graph,
    Jwins,
    Ledger,
    LocalSettings,
    Message,
    NGCSettings,
    Node,
    RandomSampling,
    run_together,
)
from edge_stl.testing import assert_parity
from tests.cotrain.toy import finish, not_finite, spoil, toy_nodes


RING = Graph.make("ring", 5).neighbours
ROUNDS = 5
METHODS: dict[str, tuple[type[Node], dict[str, Any]]] = {
    "full": (FullSharing, {}),
    "random": (RandomSampling, {}),
    "choco": (Choco, {}),
    "jwins": (Jwins, {}),
    "ngc": (NGC, {"settings": NGCSettings(alpha=0.5, gamma=0.5)}),
    "compngc": (CompNGC, {"settings": NGCSettings(alpha=0.5, gamma=0.5)}),
}


def _short(message: Message) -> Message:
    return dataclasses.replace(message, values=message.values[:-1])


def _indices(message: Message) -> Message:
    return dataclasses.replace(message, indices=b"\xff" * 16)


CHANGES: dict[str, tuple[Callable[[Message], Message], str]] = {
    "NaN": (not_finite, "not finite"),
    "cut": (_short, "values of .* bytes|block of indices"),
    "indices": (_indices, "block of indices|with 16 bytes of indices|a share of nan"),
}
CASES = [(m, c) for m in METHODS for c in CHANGES if c != "indices"]
CASES += [(m, "indices") for m in ("random", "choco", "jwins")]


def _nodes(method: str) -> list[Node]:
    make, settings = METHODS[method]
    local = LocalSettings(rate=0.2, rounds=ROUNDS, steps=2, momentum=0.5)
    return toy_nodes(make, RING, local, **settings)


@pytest.mark.parametrize(("method", "change"), CASES)
def test_a_run_goes_on_as_if_the_sender_had_gone(method: str, change: str):
    spoiled, said = CHANGES[change]
    nodes, without = _nodes(method), _nodes(method)
    spoil(nodes[2], spoiled, since=2)
    run_together(nodes, rounds=ROUNDS, ledger=Ledger())
    run_together(
        without, rounds=ROUNDS, ledger=Ledger(), gone=lambda number: (2,) if number >= 2 else ()
    )

    assert [sorted(node.refused) for node in nodes] == [[], [2], [], [2], []]
    assert re.search(said, nodes[1].refused[2])
    for k in (0, 1, 3, 4):
        assert torch.equal(nodes[k].vector, without[k].vector)


def test_nothing_goes_between_who_sent_it_and_who_refused_it():
    nodes, ledger = _nodes("full"), Ledger()
    spoil(nodes[2], not_finite, since=2)
    run_together(nodes, rounds=ROUNDS, ledger=ledger)

    assert [sent.values for sent in ledger.sent[2]] == [2 * 4 * len(nodes[2].vector)] * 3
    assert torch.isfinite(nodes[2].vector).all()


@pytest.mark.parametrize("method", ["ngc", "compngc"])
def test_a_gradient_that_cannot_be_used_leaves_its_sender_out_of_the_second_mean(method: str):
    def ended(first: bool) -> tuple[Node, bool]:
        node, left, right = (_nodes(method)[k] for k in (1, 0, 2))
        running, ours, theirs = node.round(0), left.round(0), right.round(0)
        model = next(running)
        inbox = {0: next(ours)[1], 2: next(theirs)[1]}
        running.send(inbox)
        answers = {0: ours.send({1: model[0]})[1], 2: theirs.send({1: model[2]})[1]}
        answers[2] = not_finite(answers[2])
        finish(running, answers if first else {0: answers[0]})
        return node, 2 in node.refused

    (refusing, refused), (missing, _) = ended(first=True), ended(first=False)

    assert refused
    assert torch.equal(refusing.vector, missing.vector)


@pytest.mark.parametrize("method", ["ngc", "compngc"])
@pytest.mark.parametrize("alone", [False, True])
def test_a_model_whose_gradient_is_not_finite_costs_its_sender(method: str, alone: bool):
    def ended(huge: bool) -> tuple[Node, set[int]]:
        node, honest = _nodes(method)[1], _nodes(method)[0]
        honest.vector = honest.vector + 0.5  # else the own gradient and its own are one
        running = node.round(0)
        own = next(running)[0]
        inbox = {} if alone else {0: next(honest.round(0))[1]}
        wild = torch.full_like(node.vector, 3e38).numpy().tobytes()
        outbox = running.send(inbox | ({2: dataclasses.replace(own, values=wild)} if huge else {}))
        finish(running, {})
        return node, set(outbox)

    (refusing, asked), (missing, _) = ended(huge=True), ended(huge=False)

    assert refusing.refused[2].startswith("a model whose gradient on the images here is not finite")
    assert asked == (set() if alone else {0})
    assert_parity(refusing.vector, missing.vector, kind="float32")

"""A small problem that every method can be tried on: softmax regression on points of a plane."""

import dataclasses
from collections.abc import Callable
from contextlib import suppress

import torch
from hypothesis import HealthCheck, settings
from torch import Tensor, nn

from edge_stl.cotrain import (
    Batch,
    LocalSettings,
    Message,
    Messages,
    ModuleProblem,
    Node,
    Round,
    Seat,
    pack_floats,
)


CLASSES = 4
patient = settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)  # a property holds on a busy machine too


def toy_module(*, hidden: int = 8, seed: int = 0) -> nn.Sequential:
    """Return a network of a few dozen numbers, from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(2, hidden), nn.Tanh(), nn.Linear(hidden, CLASSES))


def toy_points(count: int, *, seed: int, classes: tuple[int, ...] = tuple(range(CLASSES))) -> Batch:
    """Return points around the corners of a square, and which corner."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor(classes)[torch.randint(len(classes), (count,), generator=generator)]
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    return corners[labels] + 0.4 * torch.randn(count, 2, generator=generator), labels


def toy_problem(
    node: int = 0, *, batch: int = 8, classes: tuple[int, ...] = tuple(range(CLASSES))
) -> ModuleProblem:
    """Return the problem of one node; every node starts from the same numbers."""

    def batches(step: int) -> Batch:
        return toy_points(batch, seed=1000 * node + step, classes=classes)

    return ModuleProblem(toy_module(), batches)


def toy_nodes(
    make: type[Node],
    neighbours: tuple[tuple[int, ...], ...],
    local: LocalSettings,
    **settings: object,
) -> list[Node]:
    """Return a node for every row of a graph, each with its own points."""
    return [
        make(Seat(k, row), toy_problem(k), local, **settings) for k, row in enumerate(neighbours)
    ]


def not_finite(message: Message) -> Message:
    """Return a message of the same form and size, all of whose numbers are NaN."""
    count = len(message.values) // 4
    values = pack_floats(torch.full((count,), torch.nan)) + message.values[4 * count :]
    return dataclasses.replace(message, values=values)


def spoil(node: Node, change: Callable[[Message], Message], *, since: int) -> None:
    """Let a node train as before, and send changed messages from a round on."""
    honest = node.round

    def dishonest(number: int) -> Round:
        running = honest(number)
        outbox = next(running)
        while True:
            late = number >= since
            inbox = yield {j: change(m) if late else m for j, m in outbox.items()}
            try:
                outbox = running.send(inbox)
            except StopIteration as end:
                return float(end.value)

    node.round = dishonest  # type: ignore[method-assign]


def finish(running: Round, inbox: Messages) -> None:
    """Let a node hear this as the last exchange of its round, or nothing in those that follow."""
    with suppress(StopIteration):
        running.send(inbox)
        while True:
            running.send({})


def toy_accuracy(vector: Tensor) -> float:
    """Return the share of fresh points that a model answers rightly."""
    problem, module = toy_problem(), toy_module()
    inputs, targets = toy_points(500, seed=99_999)
    start = 0
    for parameter, shape in zip(module.parameters(), problem.shapes, strict=True):
        parameter.data.copy_(vector[start : start + shape.numel()].view(shape))
        start += shape.numel()
    return float((module(inputs).argmax(1) == targets).float().mean())

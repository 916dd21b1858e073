"""A small problem that every method can be tried on: softmax regression on points of a plane."""

import torch
from hypothesis import HealthCheck, settings
from torch import Tensor, nn

from edge_stl.cotrain import Batch, LocalSettings, ModuleProblem, Node, Seat


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


def toy_accuracy(vector: Tensor) -> float:
    """Return the share of fresh points that a model answers rightly."""
    problem, module = toy_problem(), toy_module()
    inputs, targets = toy_points(500, seed=99_999)
    start = 0
    for parameter, shape in zip(module.parameters(), problem.shapes, strict=True):
        parameter.data.copy_(vector[start : start + shape.numel()].view(shape))
        start += shape.numel()
    return float((module(inputs).argmax(1) == targets).float().mean())

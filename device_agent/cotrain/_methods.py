"""The methods by name: what runs them at a box, and which settings they take."""

from typing import TYPE_CHECKING, Any

from device_agent.cotrain._exchange import GlooExchange
from device_agent.cotrain._rounds import Engine, Gossip
from device_agent.cotrain._star import FedAvgSettings, Federated, PCAWorker
from edge_stl.cotrain import (
    NGC,
    Choco,
    ChocoSettings,
    CompNGC,
    FedDIPSettings,
    FullSharing,
    Jwins,
    JwinsSettings,
    LocalSettings,
    NGCSettings,
    Node,
    PCASettings,
    Problem,
    RandomSampling,
    RandomSettings,
    Seat,
)


if TYPE_CHECKING:
    from device_agent.cotrain._group import Run

NODES: dict[str, tuple[Any, Any]] = {
    "full": (FullSharing, None),
    "random": (RandomSampling, RandomSettings),
    "choco": (Choco, ChocoSettings),
    "jwins": (Jwins, JwinsSettings),
    "ngc": (NGC, NGCSettings),
    "compngc": (CompNGC, NGCSettings),
}
"""Gossip methods: node, and settings where it has some."""

STARS: dict[str, Any] = {"pca": PCASettings, "fedavg": FedAvgSettings, "feddip": FedDIPSettings}
"""Methods with a middle: settings."""

METHODS = (*NODES, *STARS)


def settings_class(method: str) -> Any:
    """Return the dataclass of a method's settings, or None where it has none."""
    return NODES[method][1] if method in NODES else STARS[method]


def make_node(
    method: str, seat: Seat, problem: Problem, local: LocalSettings, settings: object
) -> Node:
    """Return the node of a gossip method."""
    kind = NODES[method][0]
    own = () if settings is None else (settings,)
    made: Node = kind(seat, problem, local, *own)
    return made


def make_engine(
    run: "Run", seat: Seat, problem: Problem, exchange: GlooExchange, *, images: int
) -> Engine:
    """Return what runs a method at one box.

    Args:
        run: method, settings, group.
        seat: of the box in the graph.
        problem: what it learns from.
        exchange: to all boxes.
        images: that it trains on, as published.
    """
    settings, boxes = run.settings, run.group.boxes
    if isinstance(settings, PCASettings):
        return PCAWorker(problem, run.local, settings, exchange, boxes[0])
    if isinstance(settings, FedAvgSettings):
        settings = settings.full()
    if isinstance(settings, FedDIPSettings):
        return Federated(
            problem, run.local, settings, exchange, names=boxes, images=images, seed=seat.seed
        )
    return Gossip(make_node(run.method, seat, problem, run.local, settings), exchange)

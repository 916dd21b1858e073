"""The methods by name: what runs them at a box, and which settings they take."""

from typing import TYPE_CHECKING, Any

from device_agent.cotrain._exchange import GlooExchange
from device_agent.cotrain._rounds import Engine, Gossip
from edge_stl import cotrain
from edge_stl.cotrain import LocalSettings, Node, Problem, Seat


if TYPE_CHECKING:
    from device_agent.cotrain._group import Run

NODES: dict[str, tuple[str, str | None]] = {
    "full": ("FullSharing", None),
}
"""Method -> its node, and its settings where it has some; both by name in `edge_stl.cotrain`."""

METHODS = tuple(NODES)


def settings_class(method: str) -> Any:
    """Return the dataclass of a method's settings, or None where it has none."""
    name = NODES[method][1]
    return None if name is None else getattr(cotrain, name)


def make_node(
    method: str, seat: Seat, problem: Problem, local: LocalSettings, settings: object
) -> Node:
    """Return the node of a gossip method."""
    kind = getattr(cotrain, NODES[method][0])
    own = () if settings is None else (settings,)
    made: Node = kind(seat, problem, local, *own)
    return made


def make_engine(run: "Run", seat: Seat, problem: Problem, exchange: GlooExchange) -> Engine:
    """Return what runs a method at one box."""
    node = make_node(run.method, seat, problem, run.local, run.settings)
    return Gossip(node, exchange)

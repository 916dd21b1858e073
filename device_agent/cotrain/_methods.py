"""The methods by name: which node runs them, and which settings they take."""

from typing import Any

from edge_stl import cotrain
from edge_stl.cotrain import LocalSettings, Node, Problem, Seat


_NODES: dict[str, tuple[str, str | None]] = {
    "full": ("FullSharing", None),
}
"""Method -> class of its node, and of its settings where it has some; names in `edge_stl.cotrain`."""

METHODS = tuple(_NODES)


def settings_class(method: str) -> Any:
    """Return the dataclass of a method's settings, or None where it has none."""
    name = _NODES[method][1]
    return None if name is None else getattr(cotrain, name)


def make_node(
    method: str, seat: Seat, problem: Problem, local: LocalSettings, settings: object
) -> Node:
    """Return the node of a method."""
    kind = getattr(cotrain, _NODES[method][0])
    made: Node = kind(seat, problem, local) if settings is None else kind(
        seat, problem, local, settings
    )
    return made

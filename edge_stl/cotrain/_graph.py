"""Who is whose neighbour, and the mixing weights that follow."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from torch import Tensor

from edge_stl.errors import UsageError


if TYPE_CHECKING:
    import networkx as nx

KINDS = ("ring", "torus", "full", "regular:K", "FILE")
_TRIES = 100


@dataclass(frozen=True)
class Graph:
    """An undirected connected graph of nodes 0..n-1.

    Attributes:
        neighbours: of each node, ascending, without itself.
    """

    neighbours: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        """Return how many nodes there are."""
        return len(self.neighbours)

    @property
    def edges(self) -> int:
        """Return how many undirected edges there are."""
        return sum(len(row) for row in self.neighbours) // 2

    @classmethod
    def make(cls, kind: str, nodes: int, *, seed: int = 0) -> Self:
        """Return a graph.

        Args:
            kind: ``ring``; ``torus`` (the most square grid that wraps around); ``full``;
                ``regular:K``, a random connected graph where everybody has K neighbours; or the
                path of a file with one edge per line, two node numbers from 0.
            nodes: how many, at least 2.
            seed: of a random graph.

        Raises:
            UsageError: there is no such graph.
        """
        import networkx as nx  # comes with torch

        if nodes < 2:  # noqa: PLR2004  (one node has nobody to talk to)
            raise UsageError(f"--graph {kind}: {nodes} nodes; at least 2 are needed. Add boxes")
        if kind == "ring":
            made = nx.cycle_graph(nodes)
        elif kind == "full":
            made = nx.complete_graph(nodes)
        elif kind == "torus":
            rows = max(r for r in range(1, int(nodes**0.5) + 1) if nodes % r == 0)
            grid = nx.grid_2d_graph(rows, nodes // rows, periodic=True)
            made = nx.convert_node_labels_to_integers(grid, ordering="sorted")
        elif kind.startswith("regular:"):
            made = _regular(kind, nodes, seed)
        else:
            made = _from_file(kind, nodes)
        made.remove_edges_from(list(nx.selfloop_edges(made)))
        if not nx.is_connected(made):
            raise UsageError(
                f"--graph {kind}: not connected; what one part learns would never reach the "
                "other. Add an edge between them"
            )
        return cls(tuple(tuple(sorted(made.neighbors(node))) for node in range(nodes)))


def _regular(kind: str, nodes: int, seed: int) -> "nx.Graph[int]":
    import networkx as nx  # comes with torch

    degree = kind.removeprefix("regular:")
    if not degree.isdecimal() or not 1 <= int(degree) < nodes or int(degree) * nodes % 2:
        raise UsageError(
            f"--graph {kind}: no graph of {nodes} nodes has it; expected regular:K with K from 1 "
            f"to {nodes - 1} and K x {nodes} even. Choose another K"
        )
    for attempt in range(_TRIES):
        made = nx.random_regular_graph(int(degree), nodes, seed=seed * _TRIES + attempt)
        if nx.is_connected(made):
            return made
    raise UsageError(f"--graph {kind}: no connected one found in {_TRIES} tries. Choose a larger K")


def _from_file(kind: str, nodes: int) -> "nx.Graph[int]":
    import networkx as nx  # comes with torch

    try:
        lines = Path(kind).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise UsageError(
            f"--graph {kind}: neither a kind of graph ({', '.join(KINDS[:-1])}) nor a file that "
            "can be read. Give one of them"
        ) from None
    made: nx.Graph[int] = nx.empty_graph(nodes)
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        pair = [int(word) for word in words if word.isdecimal()]
        if len(pair) != len(words) or len(pair) != 2 or max(pair) >= nodes:  # noqa: PLR2004
            raise UsageError(
                f"{kind} line {number}: {line.strip()!r}; expected two node numbers from 0 to "
                f"{nodes - 1}. Correct the line"
            )
        made.add_edge(*pair)
    return made


def metropolis(degree: int, degrees: Mapping[int, int]) -> dict[int, float]:
    """Return the Metropolis-Hastings weight of each neighbour, ``1 / (max(d_i, d_j) + 1)``.

    They make a symmetric matrix whose rows and columns sum to 1; what is left of 1 is the node's
    own weight. A neighbour that has gone leaves its share to the node.

    Args:
        degree: the node's own number of neighbours.
        degrees: that of each neighbour heard from.
    """
    return {j: 1 / (max(degree, d) + 1) for j, d in degrees.items()}


def mix(own: Tensor, received: Mapping[int, Tensor], weights: Mapping[int, float]) -> Tensor:
    """Return ``own + sum_j w_j (x_j - own)``, a new tensor of the same shape.

    In this form equal models stay exactly what they are. The order of the sum is that of the
    neighbours' numbers, so every engine gets the same bits.
    """
    mixed = own.clone()
    for j in sorted(received):
        mixed.add_(received[j] - own, alpha=weights[j])
    return mixed

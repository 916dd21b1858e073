"""Graphs and the mixing weights on them."""

from pathlib import Path

import numpy as np
import pytest

from edge_stl.cotrain import Graph, metropolis
from edge_stl.errors import UsageError


def _matrix(graph: Graph) -> np.ndarray:
    matrix = np.zeros((len(graph), len(graph)))
    degrees = [len(row) for row in graph.neighbours]
    for i, row in enumerate(graph.neighbours):
        for j, weight in metropolis(degrees[i], {j: degrees[j] for j in row}).items():
            matrix[i, j] = weight
        matrix[i, i] = 1 - matrix[i].sum()
    return matrix


@pytest.mark.parametrize(
    ("kind", "nodes", "edges"),
    [
        ("ring", 2, 1),
        ("ring", 5, 5),
        ("full", 6, 15),
        ("torus", 16, 32),
        ("torus", 10, 15),
        ("torus", 7, 7),
        ("regular:4", 16, 32),
    ],
)
def test_a_graph_has_its_edges_and_its_weights_are_doubly_stochastic(
    kind: str, nodes: int, edges: int
):
    graph = Graph.make(kind, nodes)
    matrix = _matrix(graph)

    assert graph.edges == edges
    assert all(k not in row and list(row) == sorted(row) for k, row in enumerate(graph.neighbours))
    assert (matrix >= 0).all()
    assert np.array_equal(matrix, matrix.T)
    assert np.abs(matrix.sum(0) - 1).max() < 1e-12


def test_rings_mix_as_fast_as_theory_says():
    for nodes, second in ((5, 0.539), (10, 0.873)):
        eigenvalues = np.sort(np.abs(np.linalg.eigvalsh(_matrix(Graph.make("ring", nodes)))))

        assert eigenvalues[-2] == pytest.approx(second, abs=1e-3)


def test_a_random_graph_follows_its_seed():
    one, same, other = (Graph.make("regular:4", 20, seed=s) for s in (1, 1, 2))

    assert one == same != other


def test_a_graph_comes_from_a_file(tmp_path: Path):
    path = tmp_path / "edges.txt"
    path.write_text("# a star\n0 1\n0 2 # far\n\n3 0\n2 2\n")

    assert Graph.make(str(path), 4).neighbours == ((1, 2, 3), (0,), (0,), (0,))


@pytest.mark.parametrize(
    ("kind", "nodes", "said"),
    [
        ("ring", 1, "1 nodes; at least 2"),
        ("regular:3", 5, "K x 5 even"),
        ("regular:x", 5, "expected regular:K"),
        ("star", 5, "neither a kind of graph"),
    ],
)
def test_a_graph_that_cannot_be_is_refused(kind: str, nodes: int, said: str):
    with pytest.raises(UsageError, match=said):
        Graph.make(kind, nodes)


@pytest.mark.parametrize(
    ("text", "said"),
    [("0 1\n2 3\n", "not connected"), ("0 1\n1 x\n", "line 2: '1 x'"), ("0 9", "from 0 to 3")],
)
def test_a_bad_file_of_edges_is_refused(tmp_path: Path, text: str, said: str):
    path = tmp_path / "edges.txt"
    path.write_text(text)

    with pytest.raises(UsageError, match=said):
        Graph.make(str(path), 4)

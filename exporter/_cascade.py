"""A cascade as ONNX nodes: the stages of `edge_stl.fusion.cascade`, each inside an ``If``.

::

    stage 1 -> probabilities so far -> ReduceMax over classes -> ReduceMin over the batch
            -> Greater than confidence_threshold -> If
                 then: these probabilities; NaN for the branches that were not asked
                 else: stage 2 -> ... -> If ... else: the last stage, which is the whole ensemble

What only a finer stage reads, banks and networks, stands inside its body; it reads the votes of
the stages before from around it. Members are added up in the order of the ensemble, so the last
stage computes exactly what the plain ensemble computes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from edge_stl.fusion import asked_so_far
from exporter import names
from exporter._fusion_nodes import add_pool
from exporter._graph import Graph, value
from exporter.read import BranchFile


@dataclass(frozen=True)
class Stage:
    """Branch files that are asked together.

    Attributes:
        resolution: what a box needs to carry their bands, in pixels.
        members: their indices among all files.
    """

    resolution: int
    members: tuple[int, ...]


@dataclass(frozen=True)
class Pooling:
    """What the fusion takes beside the votes.

    Attributes:
        prior: K shares of the classes.
        bias: b, K numbers; none are zeros.
        scales: per stage a, for the last, or a times `edge_stl.fusion.stage_factors`, ``(K,)``.
    """

    prior: Sequence[float]
    bias: Sequence[float] | None
    scales: Sequence[float | NDArray[np.floating]]


AddMembers = Callable[[Graph, Sequence[int], str], list[tuple[str, str]]]
"""Adds banks and networks of some files under a prefix; returns row and vote of each."""


def stages_of(files: Sequence[BranchFile]) -> tuple[Stage, ...]:
    """Return the stages of branch files, coarse first: one per resolution that branches need.

    A coarse branch that a fine box trained belongs to the coarse stage: it costs as little.
    """
    plan = files[0].plan
    needs = [plan.required_resolution(plan.branch(f.manifest.branch)) for f in files]
    return tuple(
        Stage(resolution, tuple(i for i, need in enumerate(needs) if need == resolution))
        for resolution in sorted(set(needs))
    )


def add_cascade(
    graph: Graph,
    stages: Sequence[Stage],
    add_members: AddMembers,
    pooling: Pooling,
    *,
    threshold: float,
) -> None:
    """Add all stages, the two outputs of the ensemble and the threshold where none is given.

    Args:
        graph: what the nodes are added to.
        stages: coarse first.
        add_members: adds the branches of a stage.
        pooling: how votes become an answer.
        threshold: the default.
    """
    graph.constant(names.THRESHOLD, np.array(threshold, np.float32))
    asked = asked_so_far([stage.members for stage in stages])
    count, classes = len(asked[-1]), len(pooling.prior)
    rows: dict[int, str] = {}
    votes: dict[int, str] = {}

    def outputs(prefix: str) -> list[onnx.ValueInfoProto]:
        return [
            value(f"{prefix}{names.PROBABILITIES}", TensorProto.FLOAT, ["batch", classes]),
            value(
                f"{prefix}{names.BRANCH_PROBABILITIES}",
                TensorProto.FLOAT,
                ["batch", count, classes],
            ),
        ]

    def add(body: Graph, index: int, prefix: str) -> None:
        for member, (row, vote) in zip(
            stages[index].members, add_members(body, stages[index].members, prefix), strict=True
        ):
            rows[member], votes[member] = row, vote
        last = index == len(stages) - 1
        answer = add_pool(
            body,
            [votes[i] for i in asked[index]],
            prior=pooling.prior,
            bias=pooling.bias,
            scale=pooling.scales[index],
            output=f"{prefix}{names.PROBABILITIES if last else 'coarse'}",
            prefix=prefix,
        )
        if last:
            _add_rows(body, [rows[i] for i in range(count)], prefix)
            return
        stop, on = f"stop{index + 1}/", f"stage{index + 2}/"
        sure = _add_gate(body, answer, prefix)
        stopped, going = Graph(outer=body, scope=stop), Graph(outer=body, scope=on)
        stopped.node("Identity", [answer], f"{stop}{names.PROBABILITIES}")
        _add_rows(
            stopped, [rows.get(i, "") for i in range(count)], stop, like=rows[asked[index][0]]
        )
        add(going, index + 1, on)
        body.choose(
            sure,
            [f"{prefix}{name}" for name in (names.PROBABILITIES, names.BRANCH_PROBABILITIES)],
            (stopped, outputs(stop)),
            (going, outputs(on)),
        )

    add(graph, 0, "")


def _add_gate(graph: Graph, answer: str, prefix: str) -> str:
    """Return the scalar bool: is the least sure image of the batch above the threshold?"""
    top = graph.node("ReduceMax", [answer], f"{prefix}confidence", axes=[1], keepdims=0)
    least = graph.node("ReduceMin", [top], f"{prefix}least_confidence", axes=[0], keepdims=0)
    return graph.node("Greater", [least, names.THRESHOLD], f"{prefix}sure")


def _add_rows(graph: Graph, rows: Sequence[str], prefix: str, *, like: str = "") -> None:
    """Put rows ``(N, 1, K)`` together; an empty name becomes NaN, as many as ``like`` has."""
    if "" in rows:
        # Any number times NaN is NaN: the rows get the batch's length without Shape or Expand.
        nan = graph.constant(f"{prefix}nan", np.array(np.nan, np.float32))
        skipped = graph.node("Mul", [like, nan], f"{prefix}skipped")
        rows = [row or skipped for row in rows]
    graph.node("Concat", list(rows), f"{prefix}{names.BRANCH_PROBABILITIES}", axis=1)

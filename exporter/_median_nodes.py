"""The median over the boxes as ONNX nodes; the formulas and the letters are those of the oracle.

`edge_stl.fusion.fuse_median` is the oracle. Boxes that did not see a class have p = 0 there, and no
p is below that, so they stand last when `TopK` sorts downwards; among the first ``m(c)``, the boxes
that saw c, a constant picks the one or two in the middle::

    (N, K) per file -- mean per box, 0 where unseen --> (N, B, K)
                    -- TopK along B --> (N, B // 2 + 1, K) -- times the picks, sum --> (N, K)
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_stl.fusion import MEDIAN_FLOOR, Member, voters
from exporter import names
from exporter._graph import Graph


def add_median(
    graph: Graph, rows: Sequence[str], members: Sequence[Member], *, prior: Sequence[float]
) -> None:
    """Add what turns the probabilities of all files into the two outputs.

    Args:
        graph: what the nodes are added to.
        rows: ``(N, 1, K)`` per member.
        members: in the same order.
        prior: K shares of the classes.
    """
    graph.node("Concat", list(rows), names.BRANCH_PROBABILITIES, axis=1)
    share = np.asarray(prior, dtype=np.float64)
    log_share = graph.constant("fusion/log_prior", np.log(share / share.sum()).astype(np.float32))
    speaks = voters(members)
    # Where every box has one class alone, nobody says anything: the medians are 1 / K throughout.
    if not speaks:
        nothing = graph.constant("median/silence", np.zeros(len(share), np.float32))
        first = graph.node("Flatten", [rows[0]], "median/first", axis=1)
        still = graph.node("Mul", [first, nothing], "median/still")
        score = graph.node("Add", [still, log_share], "fusion/score")
        graph.node("Softmax", [score], names.PROBABILITIES, axis=1)
        return
    boxes = [_add_box(graph, rows, own, prefix=f"median/{box}/") for box, own in speaks.items()]
    seen = np.stack([own.any(axis=0) for own in speaks.values()])
    picks, unseen = _picks(seen.sum(axis=0), len(boxes))
    stacked = boxes[0]
    if len(boxes) > 1:
        stacked = graph.node("Concat", boxes, "median/boxes", axis=1)
    count = graph.constant("median/count", np.array([len(picks)], dtype=np.int64))
    ordered = graph.node("TopK", [stacked, count], "median/sorted", further=1, axis=1)
    pick = graph.constant("median/picks", picks[None].astype(np.float32))
    picked = graph.node("Mul", [ordered, pick], "median/picked")
    ones = graph.constant("median/ones", np.ones((1, 1, len(picks)), dtype=np.float32))
    summed = graph.node("MatMul", [ones, picked], "median/sum")
    middle = graph.node("Flatten", [summed], "median/known", axis=1)
    nobody = graph.constant("median/nobody", unseen.astype(np.float32))
    middle = graph.node("Add", [middle, nobody], "median/middle")
    low = graph.constant("median/floor", np.array(MEDIAN_FLOOR, np.float32))
    middle = graph.node("Clip", [middle, low], "median/floored")
    logs = graph.node("Log", [middle], "median/log")
    score = graph.node("Add", [logs, log_share], "fusion/score")
    graph.node("Softmax", [score], names.PROBABILITIES, axis=1)


def _add_box(graph: Graph, rows: Sequence[str], own: NDArray[np.bool_], *, prefix: str) -> str:
    """Return the value ``(N, 1, K)`` of a box: the mean over its files that saw the class."""
    files = [i for i, speaks in enumerate(own) if speaks.any()]
    if len(files) == 1:
        return rows[files[0]]
    total = graph.node("Sum", [rows[i] for i in files], f"{prefix}sum")
    counts = np.maximum(own.sum(axis=0), 1)
    share = graph.constant(f"{prefix}share", (1 / counts).astype(np.float32))
    return graph.node("Mul", [total, share], f"{prefix}mean")


def _picks(
    seen: NDArray[np.integer], boxes: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what picks the median out of values sorted downwards, and 1 / K where there is none.

    Args:
        seen: ``(K,)``, boxes that saw the class.
        boxes: B.

    Returns:
        ``(B // 2 + 1, K)``: 1 at the middle, or 0.5 at both; and ``(K,)``.
    """
    classes = len(seen)
    picks = np.zeros((boxes // 2 + 1, classes))
    for c, m in enumerate(seen):
        if m:
            picks[(m - 1) // 2, c] += 0.5
            picks[m // 2, c] += 0.5
    return picks, np.where(seen == 0, 1 / classes, 0.0)

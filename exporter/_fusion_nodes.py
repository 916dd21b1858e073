"""The fusion as ONNX nodes; the formulas and the letters are those of `edge_stl.fusion`.

Per member, over the classes it saw (columns picked by Gather, put back by a 0/1 matrix, so that
classes it never saw are exactly 0)::

    p_k        = softmax(z[S_k] / T_k - log prior_k)
    evidence_k = log(q) - log(1 - q),   q = clip(p_k, e, 1 - e)
    score      = log prior + b + a * sum_k w_kc * evidence_k

Temperature, prior and weight are initializers of their own, so that they can be read in the file.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_stl.fusion import CLIP, Member, log_prior
from exporter import names
from exporter._graph import Graph


@dataclass(frozen=True)
class Said:
    """The values of one branch file's p.

    Attributes:
        seen: ``(N, |S|)``, over the classes it saw.
        all: ``(N, K)``, 0 elsewhere.
        row: ``(N, 1, K)``, the same.
    """

    seen: str
    all: str
    row: str


def add_probabilities(graph: Graph, member: Member, *, prefix: str, logits: str) -> Said:
    """Add one branch file's probabilities p.

    Args:
        graph: what the nodes are added to.
        member: the branch file.
        prefix: like ``fine.cam07/``.
        logits: the value ``(N, K)``.
    """
    current = logits
    if len(member.seen) < len(member.counts):
        index = graph.constant(f"{prefix}seen", np.array(member.seen, dtype=np.int64))
        current = graph.node("Gather", [current, index], f"{prefix}logits.seen", axis=1)
    temperature = graph.constant(f"{prefix}temperature", np.array(member.temperature, np.float32))
    prior = graph.constant(f"{prefix}log_prior", log_prior(member.counts).astype(np.float32))
    current = graph.node("Div", [current, temperature], f"{prefix}scaled")
    current = graph.node("Sub", [current, prior], f"{prefix}scores")
    seen_p = graph.node("Softmax", [current], f"{prefix}probabilities.seen", axis=1)
    all_p = _spread(graph, seen_p, member, f"{prefix}probabilities", prefix)
    axis = graph.constant("int.1", np.array([1], dtype=np.int64))
    row = graph.node("Unsqueeze", [all_p, axis], f"{prefix}row")
    return Said(seen_p, all_p, row)


def add_vote(
    graph: Graph, member: Member, weights: Sequence[float], said: Said, *, prefix: str
) -> str:
    """Add one branch file's weighted evidence and return the value ``(N, K)`` of it.

    Args:
        graph: what the nodes are added to.
        member: the branch file.
        weights: w, K numbers; those of classes it never saw are not read.
        said: its probabilities.
        prefix: like ``fine.cam07/``.
    """
    if len(member.seen) == 1:  # nothing to tell the class apart from: its vote is p times 0
        silent = graph.constant(f"{prefix}weight", np.array(0, np.float32))
        return graph.node("Mul", [said.all, silent], f"{prefix}vote")
    low = graph.constant("fusion/clip.low", np.array(CLIP, np.float32))
    high = graph.constant("fusion/clip.high", np.array(1 - CLIP, np.float32))
    one = graph.constant("fusion/one", np.array(1, np.float32))
    q = graph.node("Clip", [said.seen, low, high], f"{prefix}q")
    log_q = graph.node("Log", [q], f"{prefix}log_q")
    rest = graph.node("Sub", [one, q], f"{prefix}rest")
    log_rest = graph.node("Log", [rest], f"{prefix}log_rest")
    odds = graph.node("Sub", [log_q, log_rest], f"{prefix}log_odds")
    own = np.array([weights[c] for c in member.seen], dtype=np.float32)
    w = graph.constant(f"{prefix}weight", own)
    if len(member.seen) == len(member.counts):
        return graph.node("Mul", [odds, w], f"{prefix}vote")
    vote = graph.node("Mul", [odds, w], f"{prefix}vote.seen")
    return _spread(graph, vote, member, f"{prefix}vote", prefix)


def _spread(graph: Graph, value: str, member: Member, output: str, prefix: str) -> str:
    """Put the columns of the seen classes back to their places among all K."""
    classes, seen = len(member.counts), member.seen
    if len(seen) == classes:
        return value
    matrix = np.zeros((len(seen), classes), dtype=np.float32)
    matrix[np.arange(len(seen)), list(seen)] = 1
    places = graph.constant(f"{prefix}places", matrix)
    return graph.node("MatMul", [value, places], output)


def add_answer(
    graph: Graph,
    rows: Sequence[str],
    votes: Sequence[str],
    *,
    prior: Sequence[float],
    bias: Sequence[float] | None,
    scale: float,
) -> None:
    """Add what turns all votes into the two outputs.

    Args:
        graph: what the nodes are added to.
        rows: ``(N, 1, K)`` per member.
        votes: ``(N, K)`` per member.
        prior: K shares of the classes.
        bias: b, K numbers; none are zeros.
        scale: a.
    """
    graph.node("Concat", list(rows), names.BRANCH_PROBABILITIES, axis=1)
    add_pool(graph, votes, prior=prior, bias=bias, scale=scale, output=names.PROBABILITIES)


def add_pool(
    graph: Graph,
    votes: Sequence[str],
    *,
    prior: Sequence[float],
    bias: Sequence[float] | None,
    scale: float | NDArray[np.floating],
    output: str,
    prefix: str = "",
) -> str:
    """Add what turns votes into probabilities ``(N, K)``, named ``output``; as `add_answer`.

    Args:
        graph: what the nodes are added to.
        votes: ``(N, K)`` per member.
        prior: K shares of the classes.
        bias: b, K numbers; none are zeros.
        scale: a; one number, or K.
        output: name of the value.
        prefix: put before the names of what stands once for every stage of a cascade.
    """
    share = np.asarray(prior, dtype=np.float64)
    log_share = graph.constant(
        f"{prefix}fusion/log_prior", np.log(share / share.sum()).astype(np.float32)
    )
    offsets = np.zeros(len(share)) if bias is None else np.asarray(bias)
    b = graph.constant(f"{prefix}fusion/bias", offsets.astype(np.float32))
    a = graph.constant(f"{prefix}fusion/scale", np.array(scale, np.float32))
    base = graph.node("Add", [log_share, b], f"{prefix}fusion/base")
    total = graph.node("Sum", list(votes), f"{prefix}fusion/votes")
    scaled = graph.node("Mul", [total, a], f"{prefix}fusion/scaled")
    score = graph.node("Add", [scaled, base], f"{prefix}fusion/score")
    return graph.node("Softmax", [score], output, axis=1)

"""The proof of a cascade: graph against `edge_stl.fusion.cascade`, at every stop it can make."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_stl.fusion import Member, cascade
from exporter import names
from exporter._cascade import Stage
from exporter._session import run


_APART = 1e-5
"""Nearer to each other, rounding decides which of two confidences is above the other."""

Answer = Sequence[NDArray[np.floating]]


def cascade_difference(
    model: Any,
    given: NDArray[np.uint8],
    logits: Sequence[NDArray[np.floating]],
    members: Sequence[Member],
    weights: NDArray[np.floating],
    stages: Sequence[Stage],
    threshold: float,
    fusion: dict[str, Any],
) -> float:
    """Return the largest difference of a cascade's graph and its rule, however far it goes.

    Every image goes alone, and all go together: with the threshold that the file holds and none
    given, with 0, with 1, and with one between any two confidences, so that every stage has its
    turn to answer where the images let it.

    Args:
        model: the cascade, as a session.
        given: images ``(N, …)`` uint8 in the graph's layout.
        logits: ``(N, K)`` per member.
        members: the branch files.
        weights: ``(members, K)``.
        stages: coarse first.
        threshold: the one in the file.
        fusion: what `edge_stl.fusion.cascade` takes beside.
    """
    index = [stage.members for stage in stages]
    worst = 0.0
    every: set[float] = {0.0, 1.0}
    for part in [slice(i, i + 1) for i in range(len(given))] + [slice(None)]:
        some = [z[part] for z in logits]

        def expect(t: float, some: list[Any] = some) -> Answer:
            return cascade(some, members, weights, index, threshold=t, **fusion)

        sure = _confidences(expect, index)
        # Those of single images are thresholds for the batch too: one that is above the least sure
        # image and below the surest tells a gate that asks the wrong one.
        every |= {*sure}
        between = [(a + b) / 2 for a, b in pairwise(sorted(every)) if b - a > _APART]
        for t in [None, 0.0, *between, 1.0]:
            if t is None and min(abs(c - threshold) for c in sure) < _APART:
                continue  # a rounding error would decide
            inputs = {names.ENSEMBLE_INPUT: given[part]}
            if t is not None:
                inputs[names.THRESHOLD] = np.array(t, np.float32)
            got = run(model, inputs)
            worst = max(worst, difference(got, expect(threshold if t is None else t)))
    return worst


def _confidences(expect: Callable[[float], Answer], stages: Sequence[Sequence[int]]) -> list[float]:
    """Return how sure each stage's answer is: its least top probability over the batch."""
    found: list[float] = []
    reach = -1.0
    for _ in stages:
        answer, _ = expect(reach)
        found.append(float(answer.max(axis=1).min()))
        reach = max(reach, found[-1])
    return found


def difference(got: Answer, expected: Answer) -> float:
    """Return the largest difference of two answers; infinite where only one is NaN."""
    worst = 0.0
    for a, b in zip(got, expected, strict=True):
        if not np.array_equal(np.isnan(a), np.isnan(b)):
            return float("inf")
        apart = np.abs(a - b)
        worst = max(worst, float(apart[~np.isnan(b)].max()))
    return worst

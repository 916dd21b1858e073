"""The cascade: answer from the coarse branches, ask the finer ones only when that is not sure.

The members come in stages, coarse first. After a stage the answer so far is the fusion of the
members asked so far, as if there were no others: of every class their weights are scaled up to
those of all, and a is that of so many::

    score_s(c) = log prior(c) + b(c) + a_s W(c) / W_s(c) sum_(k asked so far) w_kc evidence_k(c)

with ``W(c)`` the sum of the weights of all members, ``W_s(c)`` of those asked so far, and
``a_s / a`` the ratio of their `calibration_scale`. So one threshold serves every stage. At the last
stage it is the fusion itself.

A batch stops when the **least** of its images' top probabilities is above the threshold: at 0
always at once, at 1 never, and one image at a time where the work is to be saved.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_stl.fusion._pool import CLIP, Member, fuse
from edge_stl.fusion._weights import calibration_scale, per_class


def asked_so_far(stages: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return per stage the members asked in it and before, in their own order."""
    return [sorted(i for stage in stages[: s + 1] for i in stage) for s in range(len(stages))]


def stage_factors(
    weights: NDArray[np.floating], stages: Sequence[Sequence[int]]
) -> list[NDArray[np.float64]]:
    """Return ``(a_s / a) W / W_s`` of every stage, ``(K,)`` each; 1 at the last.

    A class that nobody asked so far speaks for has no votes, whatever its factor; it is 1.

    Args:
        weights: w, ``(members, K)``, 0 where a member does not speak for a class.
        stages: indices of the members, coarse first, each member once.
    """
    w = np.asarray(weights, dtype=np.float64)
    total, a = w.sum(axis=0), calibration_scale(per_class(w))
    factors = []
    for index in asked_so_far(stages)[:-1]:
        some = w[index].sum(axis=0)
        more = np.divide(total, some, out=np.ones_like(some), where=some > 0)
        factors.append(calibration_scale(per_class(w[index])) / a * more)
    return [*factors, np.ones(w.shape[1])]


def cascade(
    logits: Sequence[NDArray[np.floating]],
    members: Sequence[Member],
    weights: NDArray[np.floating],
    stages: Sequence[Sequence[int]],
    *,
    threshold: float,
    prior: NDArray[np.floating] | None = None,
    bias: NDArray[np.floating] | None = None,
    scale: float = 1.0,
    clip: float = CLIP,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Answer a batch stage by stage; the oracle of ``merge --cascade``.

    Args:
        logits: one ``(N, K)`` array per member.
        members: in the same order.
        weights: w, ``(members, K)``, 0 where a member does not speak for a class.
        stages: indices of the members, coarse first, each member once.
        threshold: 0..1; the batch stops once every image's top probability is above it.
        prior: ``(K,)`` shares of the classes, by default uniform.
        bias: b, ``(K,)``, by default 0.
        scale: a.
        clip: e.

    Returns:
        ``probabilities (N, K)`` and ``branch_probabilities (N, members, K)``, float64; the rows of
        members that were not asked are NaN.

    Raises:
        ValueError: the stages do not hold every member once.
    """
    asked = asked_so_far(stages)
    if not asked or asked[-1] != list(range(len(members))):
        raise ValueError(f"stages {stages} of {len(members)} members; expected each member once")
    rows = np.full((len(logits[0]), len(members), len(members[0].counts)), np.nan)
    answer = rows[:, 0]
    for index, factor in zip(asked, stage_factors(weights, stages), strict=True):
        answer, rows[:, index] = fuse(
            [logits[i] for i in index],
            [members[i] for i in index],
            np.asarray(weights)[index],
            prior=prior,
            bias=bias,
            scale=scale * factor,
            clip=clip,
        )
        if answer.max(axis=1).min() > threshold:
            break
    return answer, rows

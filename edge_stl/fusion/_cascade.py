"""The cascade: answer from the coarse branches, ask the finer ones only when that is not sure.

The members come in stages, coarse first. After a stage the answer so far is the fusion of the
members asked so far, whose weights are scaled up to the sum of all::

    score_s(c) = log prior(c) + b(c) + a * W / W_s * sum_(k in stages 1..s) w_k * evidence_k(c)

with ``W`` the sum of the weights of all members that speak and ``W_s`` of those asked so far. So
the coarse answer is as sure of itself as the same weighted mean of evidence would be at the end,
and one threshold serves every stage. At the last stage it is the fusion itself.

A batch stops when the **least** of its images' top probabilities is above the threshold: at 0
always at once, at 1 never, and one image at a time where the work is to be saved.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_stl.fusion._pool import CLIP, Member, fuse


def asked_so_far(stages: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return per stage the members asked in it and before, in their own order."""
    return [sorted(i for stage in stages[: s + 1] for i in stage) for s in range(len(stages))]


def stage_factors(
    members: Sequence[Member], weights: Sequence[float], stages: Sequence[Sequence[int]]
) -> list[float]:
    """Return ``W / W_s`` of every stage; 1 at the last, and where nobody asked so far speaks.

    Args:
        members: the branch files.
        weights: w, one per member; that of a member with a single class counts for nothing.
        stages: indices of the members, coarse first, each member once.
    """
    speaks = [w * (len(m.seen) > 1) for w, m in zip(weights, members, strict=True)]
    asked = asked_so_far(stages)
    factors = []
    for index in asked[:-1]:
        some = sum(speaks[i] for i in index)
        factors.append(float(sum(speaks) / some) if some > 0 else 1.0)
    return [*factors, 1.0]


def cascade(
    logits: Sequence[NDArray[np.floating]],
    members: Sequence[Member],
    weights: Sequence[float],
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
        weights: w, one per member.
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
    for index, factor in zip(asked, stage_factors(members, weights, stages), strict=True):
        answer, rows[:, index] = fuse(
            [logits[i] for i in index],
            [members[i] for i in index],
            [weights[i] for i in index],
            prior=prior,
            bias=bias,
            scale=scale * factor,
            clip=clip,
        )
        if answer.max(axis=1).min() > threshold:
            break
    return answer, rows

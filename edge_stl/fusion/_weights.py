"""The weight rules that need no data: what a desk can know from the manifests alone."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edge_stl.fusion._pool import CLIP, Member


GEOMETRIC_P = 0.5
"""p of the paper's ``p (1 - p)^rank``."""


def reliability(member: Member) -> float:
    """Return ``r = max(0, log |S| / L - 1)``: how far the branch is above chance on its own box.

    L counts one more validation image, at chance: ``L + (log |S| - L) / (n + 1)`` for n of them, so
    r is never above n and a handful of lucky images proves little. It counts as the loss of a sure
    answer, ``-log(1 - CLIP)``, at least: no belief is taken for surer than that.
    """
    chance = math.log(max(1, len(member.seen)))
    loss = member.log_loss + (chance - member.log_loss) / (member.validation + 1)
    return max(0.0, chance / max(loss, -math.log(1 - CLIP)) - 1)


def reliability_weights(members: Sequence[Member]) -> NDArray[np.float64]:
    """Return weights ``(members,)`` that sum to 1.

    A branch's weight is the image-weighted mean of its boxes' r; a box gets that times its share
    of the branch's training images. No box, all its files together, gets more than
    ``max(min(0.5, 2 / n), 1 / m)`` with n boxes, m of them with some r > 0; the excess goes in
    proportion to the others with r > 0. There is no cap for n <= 2. If all r are 0, uniform.
    """
    r = np.array([reliability(m) for m in members])
    images = np.array([m.images for m in members], dtype=np.float64)
    weights = np.zeros(len(members))
    for branch in {m.branch for m in members}:
        own = np.array([m.branch == branch for m in members])
        share = images[own] / images[own].sum()
        weights[own] = share * float(share @ r[own])
    if not weights.any():
        return uniform_weights(members)
    return _capped(weights / weights.sum(), r, [m.box for m in members])


def _capped(
    weights: NDArray[np.float64], r: NDArray[np.float64], boxes: list[str]
) -> NDArray[np.float64]:
    names = sorted(set(boxes))
    index = np.array([names.index(box) for box in boxes])
    able = np.array([bool((r[index == i] > 0).any()) for i in range(len(names))])
    if len(names) <= 2 or not able.any():  # noqa: PLR2004  (two boxes: a cap would only swap them)
        return weights
    cap = max(min(0.5, 2 / len(names)), 1 / int(able.sum()))
    total = np.bincount(index, weights=weights, minlength=len(names))
    original = total.copy()
    full = np.zeros(len(names), dtype=bool)
    # Every round fills at least one box, so there are at most as many rounds as boxes.
    while (over := (total > cap * (1 + 1e-12)) & ~full).any():
        excess = float((total[over] - cap).sum())
        full |= over
        total[over] = cap
        takers = able & ~full
        if not takers.any():
            break
        total[takers] += excess * total[takers] / total[takers].sum()
    capped = weights * (total / np.where(original > 0, original, 1.0))[index]
    return _normalized(capped)


def uniform_weights(members: Sequence[Member]) -> NDArray[np.float64]:
    """Return equal weights ``(members,)`` that sum to 1."""
    return np.full(len(members), 1 / len(members))


def geometric_weights(members: Sequence[Member], *, p: float = GEOMETRIC_P) -> NDArray[np.float64]:
    """Return ``p (1 - p)^rank``, normalized to sum 1 (Liu et al., TNNLS 2024).

    Rank 0 is the most reliable member; equal ones are ordered by branch and box.
    """
    order = sorted(
        range(len(members)),
        key=lambda i: (-reliability(members[i]), members[i].branch, members[i].box),
    )
    weights = np.zeros(len(members))
    weights[order] = p * (1 - p) ** np.arange(len(members))
    return _normalized(weights)


def plan_weights(members: Sequence[Member], declared: Mapping[str, float]) -> NDArray[np.float64]:
    """Return the plan's branch weights, each split over its boxes by training images, sum 1.

    Raises:
        ValueError: no member's branch has a positive weight.
    """
    weights = np.array([declared.get(m.branch, 0.0) * m.images for m in members], dtype=np.float64)
    for branch in {m.branch for m in members}:
        own = np.array([m.branch == branch for m in members])
        weights[own] /= sum(m.images for m in members if m.branch == branch)
    if not weights.sum() > 0:
        raise ValueError(f"the plan's weights {dict(declared)} are 0 for every branch given")
    return _normalized(weights)


def _normalized(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return weights that sum to 1."""
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares


DATA_FREE: dict[str, Callable[[Sequence[Member]], NDArray[np.float64]]] = {
    "reliability": reliability_weights,
    "uniform": uniform_weights,
    "geometric": geometric_weights,
}
"""The rules that need the members alone; ``plan`` needs the plan's numbers beside them."""

"""The weight rules that need no data: what a desk can know from the manifests alone.

Every rule gives weights ``(members, K)``: those of a class sum to 1 over the files that speak for
it, and are 0 for the others (a box that never saw the class, or saw no other).
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edge_stl.fusion._pool import CLIP, Member


Weights = NDArray[np.float64]

GEOMETRIC_P = 0.5
"""p of the paper's ``p (1 - p)^rank``."""

DOUBT = 100
"""Validation images at chance that are added to those a box measured its loss on."""

_STEEPNESS = 0.7
_GROWTH = 0.25


def reliability(member: Member, *, doubt: float = DOUBT) -> float:
    """Return ``r = max(0, log |S| / L - 1)``: how far the branch is above chance on its own box.

    L counts ``doubt`` more validation images, at chance: ``L + (log |S| - L) doubt / (n + doubt)``
    for n of them, so that a small box's luck proves little. It counts as the loss of a sure answer,
    ``-log(1 - CLIP)``, at least: no belief is taken for surer than that.
    """
    chance = math.log(max(1, len(member.seen)))
    trust = 1 - doubt / (member.validation + doubt)
    # Not from the loss: who measured nothing shall be at chance exactly, not but for rounding.
    gain = min((chance - member.log_loss) * trust, chance + math.log(1 - CLIP))
    return max(0.0, gain / (chance - gain))


def reliability_weights(members: Sequence[Member]) -> Weights:
    """Return weights in proportion to ``sqrt(r_k n_kc)``, skill times images of the class.

    The root, because the errors of the boxes are alike in part: twice as many images are not twice
    the evidence. Where no file that speaks for a class has r > 0, they count alike.

    Of the n boxes that speak for a class, m of them with r > 0, none gets more of it, all its files
    together, than ``max(min(0.5, 2 / n), 1 / m)``; the excess goes in proportion to the others with
    r > 0. There is no cap for n <= 2.
    """
    r = np.array([reliability(m) for m in members])
    speaks = _speaks(members)
    able = speaks & (r > 0)[:, None]
    weights = _shares(np.sqrt(r[:, None] * _counts(members)) * speaks, members)
    names = sorted({m.box for m in members})
    index = np.array([names.index(m.box) for m in members])
    for c in np.flatnonzero(able.any(axis=0)):
        own = speaks[:, c]
        weights[own, c] = _capped(weights[own, c], able[own, c], index[own])
    return weights


def _capped(weights: Weights, able: NDArray[np.bool_], index: NDArray[np.intp]) -> Weights:
    """Return the weights of one class with no box above the cap.

    Args:
        weights: ``(files,)``, of sum 1.
        able: which files have r > 0.
        index: the box of each file.
    """
    boxes, index = np.unique(index, return_inverse=True)
    able_boxes = np.bincount(index, weights=able) > 0
    if len(boxes) <= 2:  # noqa: PLR2004  (two boxes: a cap would only swap them)
        return weights
    cap = max(min(0.5, 2 / len(boxes)), 1 / int(able_boxes.sum()))
    total = np.bincount(index, weights=weights)
    original = total.copy()
    full = np.zeros(len(boxes), dtype=bool)
    # Every round fills at least one box, so there are at most as many rounds as boxes.
    while (over := (total > cap * (1 + 1e-12)) & ~full).any():
        excess = float((total[over] - cap).sum())
        full |= over
        total[over] = cap
        takers = able_boxes & ~full
        if not takers.any():
            break
        total[takers] += excess * total[takers] / total[takers].sum()
    capped: Weights = weights * (total / np.where(original > 0, original, 1.0))[index]
    shares: Weights = capped / capped.sum()
    return shares


def uniform_weights(members: Sequence[Member]) -> Weights:
    """Return equal weights for all files that speak for a class."""
    return _shares(_speaks(members).astype(np.float64), members)


def geometric_weights(members: Sequence[Member], *, p: float = GEOMETRIC_P) -> Weights:
    """Return weights in proportion to ``p (1 - p)^rank`` (Liu et al., TNNLS 2024).

    Rank 0 is the most reliable of the files that speak for a class; equal ones are ordered by
    branch and box.
    """
    order = sorted(
        range(len(members)),
        key=lambda i: (-reliability(members[i]), members[i].branch, members[i].box),
    )
    speaks = _speaks(members)
    rank = np.empty(speaks.shape)
    rank[order] = np.cumsum(speaks[order], axis=0) - 1
    return _shares(np.where(speaks, p * (1 - p) ** rank, 0.0), members)


def plan_weights(members: Sequence[Member], declared: Mapping[str, float]) -> Weights:
    """Return the plan's branch weights, each split by training images over the boxes that speak.

    Of a class that not all its boxes speak for, a branch still has its whole weight. A class that
    only branches without a weight speak for gets no evidence at all.

    Raises:
        ValueError: no member's branch has a positive weight.
    """
    branches = np.array([m.branch for m in members])
    spoken = np.array([[m.images] for m in members], dtype=np.float64) * _speaks(members)
    raw = np.zeros_like(spoken)
    for branch, weight in declared.items():
        own = branches == branch
        raw[own] = weight * per_class(spoken[own])
    if not any(declared.get(m.branch, 0.0) > 0 for m in members):
        raise ValueError(f"the plan's weights {dict(declared)} are 0 for every branch given")
    return per_class(raw)


def calibration_scale(weights: NDArray[np.floating]) -> float:
    """Return a, the factor that makes a mean of evidence as sure as it should be.

    ``a = 0.7 n^(1/4)`` with n the mean, over the classes that somebody speaks for, of Kish's
    effective number of files ``1 / sum_k w_kc^2`` (Survey Sampling, 1965): the mean of more boxes
    is worth more than one of them, but far less than if they erred apart. Both numbers were chosen
    on held-out training images over alike and uneven fleets of 6 and 12 boxes
    (``docs/results.md``); below 1 for few boxes, since log-odds are steeper than log p.

    Args:
        weights: ``(members, K)``, the weights of a class of sum 1 or 0.
    """
    squares = np.square(np.asarray(weights, dtype=np.float64)).sum(axis=0)
    if not squares.any():
        return 1.0
    effective = float((1 / squares[squares > 0]).mean())
    return _STEEPNESS * math.pow(effective, _GROWTH)


def _counts(members: Sequence[Member]) -> NDArray[np.float64]:
    return np.array([m.counts for m in members], dtype=np.float64)


def _speaks(members: Sequence[Member]) -> NDArray[np.bool_]:
    """Return which file speaks for which class, ``(members, K)``."""
    able = np.array([m.speaks for m in members])
    speaks: NDArray[np.bool_] = (_counts(members) > 0) & able[:, None]
    return speaks


def _shares(raw: NDArray[np.float64], members: Sequence[Member]) -> Weights:
    """Return weights of sum 1 per class; where all are 0, those who speak for it count alike."""
    speaks = _speaks(members)
    silent = ~(raw.sum(axis=0) > 0)
    filled = np.where(silent, speaks.astype(np.float64), raw)
    return per_class(filled)


def per_class(raw: NDArray[np.floating]) -> Weights:
    """Return ``(members, K)`` divided by the sum of every class; a class of sum 0 stays 0."""
    wide = np.asarray(raw, dtype=np.float64)
    total = wide.sum(axis=0)
    shares: Weights = np.divide(wide, total, out=np.zeros_like(wide), where=total > 0)
    return shares


DATA_FREE: dict[str, Callable[[Sequence[Member]], Weights]] = {
    "reliability": reliability_weights,
    "uniform": uniform_weights,
    "geometric": geometric_weights,
}
"""The rules that need the members alone; ``plan`` needs the plan's numbers beside them."""

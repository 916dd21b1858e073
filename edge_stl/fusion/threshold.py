"""The threshold of a cascade, chosen on labelled images; what it costs and saves on others.

Not imported by the room itself, as `edge_stl.fusion.fitted`, on whose sums it builds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_stl.fusion._cascade import asked_so_far, stage_factors
from edge_stl.fusion._pool import Member
from edge_stl.fusion.fitted import answers, votes_of


_STEP = 10_000
"""Thresholds are multiples of its inverse: finer ones would be noise of the machine."""

_TINY = 1e-12


@dataclass(frozen=True)
class Trade:
    """What a cascade does to a set of images, beside what the full ensemble does.

    Attributes:
        images: N.
        accuracy: of the cascade, 0..1.
        accuracy_full: of the full ensemble, 0..1.
        stopped: share of the images that each stage answers.
    """

    images: int
    accuracy: float
    accuracy_full: float
    stopped: tuple[float, ...]


def stage_answers(
    branch_probabilities: NDArray[np.floating],
    members: Sequence[Member],
    weights: NDArray[np.floating],
    stages: Sequence[Sequence[int]],
    *,
    prior: NDArray[np.floating] | None = None,
    bias: NDArray[np.floating] | None = None,
    scale: float = 1.0,
) -> NDArray[np.float64]:
    """Return what every stage would answer, ``(stages, N, K)``; the last is the full ensemble.

    Args:
        branch_probabilities: ``(N, members, K)`` of the full ensemble.
        members: in the same order.
        weights: w, ``(members, K)``, 0 where a member does not speak for a class.
        stages: indices of the members, coarse first.
        prior: ``(K,)`` shares of the classes, by default uniform.
        bias: b, ``(K,)``, by default 0.
        scale: a.
    """
    votes = votes_of(branch_probabilities, members, weights)
    factors = stage_factors(weights, stages)
    offset = np.zeros(votes.shape[2]) if bias is None else bias
    return np.stack(
        [
            answers(scale * factor * votes[index], np.ones(len(index)), offset, prior=prior)
            for index, factor in zip(asked_so_far(stages), factors, strict=True)
        ]
    )


def stops(stage_probabilities: NDArray[np.floating], threshold: float) -> NDArray[np.int64]:
    """Return the stage ``(N,)`` that answers each image when they come one by one."""
    sure = stage_probabilities.max(axis=2) > threshold
    sure[-1] = True
    first: NDArray[np.int64] = sure.argmax(axis=0)
    return first


def choose_threshold(
    stage_probabilities: NDArray[np.floating], labels: NDArray[np.integer], *, loss: float
) -> float:
    """Return the least threshold that costs at most ``loss`` of accuracy; 1 where none does.

    The loss is measured twice, and both must hold: by the labels, and by what the full ensemble
    itself believes, as the mean of ``p_full(its class) - p_full(the cascade's class)``. The first
    is right on average but rough: of 300 images, one is 0.3 points. The second is smooth and grows
    as the threshold falls, so it knows no lucky dips, but believes the ensemble. Both must hold at
    every threshold above the one returned as well: the first time a falling threshold costs too
    much ends the search, however good a lower one looks by chance.

    Args:
        stage_probabilities: ``(stages, N, K)``, as `stage_answers`.
        labels: ``(N,)``.
        loss: 0..1.

    Returns:
        a multiple of 0.0001 in 0..1.
    """
    count, index = len(labels), np.arange(len(labels))
    confidence = np.maximum.accumulate(stage_probabilities.max(axis=2), axis=0)[:-1]
    said = stage_probabilities.argmax(axis=2)
    right = (said == labels).astype(np.float64)
    believed = stage_probabilities[-1][index, said]
    # Once a falling threshold passes the confidence of stage s, the image stops there and not at
    # s + 1: what is lost by that adds up over all (image, stage), from the surest down.
    least = (np.ceil(confidence * _STEP).astype(np.int64)).ravel()
    order = np.argsort(-least, kind="stable")
    passed = least[order]
    lost = np.stack([np.cumsum((x[1:] - x[:-1]).ravel()[order]) for x in (right, believed)]).max(
        axis=0
    )
    # At a threshold equal to one of these confidences, all that are above it have stopped.
    last = np.flatnonzero(np.diff(passed, append=-1))
    too_much = np.flatnonzero(lost[last] > loss * count + _TINY * count)
    if not len(too_much):
        return 0.0
    return min(1.0, float(passed[last[too_much[0]]]) / _STEP)


def trade(
    stage_probabilities: NDArray[np.floating],
    labels: NDArray[np.integer],
    stopped: NDArray[np.integer],
) -> Trade:
    """Return what comes of answering each image at the stage ``stopped (N,)``."""
    said = stage_probabilities.argmax(axis=2)
    count = len(stage_probabilities)
    return Trade(
        images=len(labels),
        accuracy=float((said[stopped, np.arange(len(labels))] == labels).mean()),
        accuracy_full=float((said[-1] == labels).mean()),
        stopped=tuple(float(s) for s in np.bincount(stopped, minlength=count) / len(labels)),
    )


def cross_trade(
    stage_probabilities: NDArray[np.floating],
    labels: NDArray[np.integer],
    parts: NDArray[np.integer],
    *,
    loss: float,
) -> Trade:
    """Return the `Trade` of images whose threshold was chosen on the other parts.

    Args:
        stage_probabilities: ``(stages, N, K)``.
        labels: ``(N,)``.
        parts: ``(N,)``, as `edge_stl.fusion.crossfit.folds_of`.
        loss: as `choose_threshold`.
    """
    stopped = np.empty(len(labels), dtype=np.int64)
    for part in np.unique(parts):
        held = parts == part
        chosen = choose_threshold(stage_probabilities[:, ~held], labels[~held], loss=loss)
        stopped[held] = stops(stage_probabilities[:, held], chosen)
    return trade(stage_probabilities, labels, stopped)

"""Temperature and validation scores of one branch, by the fusion's own formula for p."""

import math

import numpy as np
from numpy.typing import NDArray

from edge_stl.fusion import log_prior


_LOWEST, _HIGHEST = 0.05, 20.0
_STEPS = 60
_TINY = 1e-12
_GOLDEN = (math.sqrt(5) - 1) / 2


def class_mean_log_loss(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64], seen: tuple[int, ...]
) -> float:
    """Return the mean over the seen classes of the per-class mean of ``-log p``, in nats.

    Args:
        probabilities: ``(N, K)``.
        labels: ``(N,)``, all of them seen classes.
        seen: the classes the box trained on; one without an image here counts as chance,
            ``log |S|``, so that a box cannot look better by leaving a class out.
    """
    chance = math.log(len(seen))
    losses = []
    for c in seen:
        own = probabilities[labels == c, c]
        losses.append(float(-np.log(np.maximum(own, _TINY)).mean()) if len(own) else chance)
    return float(np.mean(losses))


def fit_temperature(
    logits: NDArray[np.floating], labels: NDArray[np.int64], counts: tuple[int, ...]
) -> float:
    """Return the temperature T in 0.05..20 with the smallest class-mean log-loss.

    The loss is convex in ``1 / T`` (a sum of log-sum-exp of affine functions), so a golden-section
    search finds the minimum. Guo et al., ICML 2017. Without images T is 1.

    Args:
        logits: ``(N, K)`` of validation images.
        labels: ``(N,)``.
        counts: training images per class, as published.
    """
    if not len(labels) or sum(n > 0 for n in counts) == 1:
        return 1.0

    seen = np.flatnonzero(counts)
    scores, prior = logits[:, seen].astype(np.float64), log_prior(counts)
    places = np.searchsorted(seen, labels)

    def loss(inverse: float) -> float:
        # Not cut off as published losses are: that would make plateaus, where the search is lost.
        z = scores * inverse - prior
        top = z.max(axis=1)
        own = np.log(np.exp(z - top[:, None]).sum(axis=1)) + top - z[np.arange(len(z)), places]
        return float(np.mean([own[places == c].mean() for c in np.unique(places)]))

    low, high = 1 / _HIGHEST, 1 / _LOWEST
    inner, outer = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_inner, at_outer = loss(inner), loss(outer)
    for _ in range(_STEPS):
        if at_inner <= at_outer:
            high, outer, at_outer = outer, inner, at_inner
            inner = high - _GOLDEN * (high - low)
            at_inner = loss(inner)
        else:
            low, inner, at_inner = inner, outer, at_outer
            outer = low + _GOLDEN * (high - low)
            at_outer = loss(outer)
    return float(f"{2 / (low + high):.6g}")

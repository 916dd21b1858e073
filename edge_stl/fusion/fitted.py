"""Weights and biases fitted on labelled holdout images: the one weight rule that needs data.

Not imported by the room itself: it needs scipy, and who only predicts has none.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_stl.fusion._pool import Member, evidence, softmax


PULL = 10.0
"""Strength of the pull that did best with 100 to 500 images (``docs/results.md``)."""

_TINY = 1e-300
_CLOSE = 1e-10
"""Slope at which the minimum counts as found: the answer is good to more digits than are kept."""


@dataclass(frozen=True, eq=False)
class Fit:
    """What a holdout taught.

    Attributes:
        weights: factors ``(members,)`` float64 of the start weights, none negative.
        bias: b, ``(K,)`` float64; 0 for a class without an image, of mean 0 over the others.
        loss_before: mean ``-log p`` of the holdout at the start, in nats.
        loss_after: the same at the fitted ones.
    """

    weights: NDArray[np.float64]
    bias: NDArray[np.float64]
    loss_before: float
    loss_after: float


def fit_weights(
    branch_probabilities: NDArray[np.floating],
    labels: NDArray[np.integer],
    members: Sequence[Member],
    *,
    start: NDArray[np.floating],
    prior: NDArray[np.floating] | None = None,
    pull: float = PULL,
) -> Fit:
    """Return the factors and biases with the smallest penalized log-loss on a holdout.

    ``score = log prior + b + sum_k f_k w_kc evidence_k`` is linear in the factor f of every file
    and in b, so the loss is convex; L-BFGS-B (Byrd et al., SIAM J. Sci. Comput. 1995) finds its
    minimum over ``f >= 0``. The pull ``pull / N * (|f - 1|^2 / members + |b|^2)`` keeps a small
    holdout close to the start and lets go of it as the holdout grows.

    A holdout says nothing of a class that it has no image of. So the bias of such a class is 0 and
    those of the others have mean 0: else all of them could rise together and rule the class out.

    Args:
        branch_probabilities: ``(N, members, K)``, the ``p_k`` of the holdout's images.
        labels: ``(N,)``, their classes.
        members: in the same order.
        start: ``(members, K)``, the weights of a rule that needs no data, times its scale.
        prior: ``(K,)`` shares of the classes, by default uniform.
        pull: strength of the pull, 0 or more.

    Raises:
        ValueError: no image, or shapes that do not fit each other.
    """
    p = np.asarray(branch_probabilities, dtype=np.float64)
    count, k_members, classes = p.shape if p.ndim == 3 else (0, 0, 0)  # noqa: PLR2004
    if (
        not count
        or len(labels) != count
        or k_members != len(members)
        or np.shape(start) != (k_members, classes)
    ):
        raise ValueError(
            f"branch probabilities {p.shape}, {len(labels)} labels, {len(members)} members, "
            f"start weights {np.shape(start)}; expected (N, members, K) with N labels and "
            "(members, K)"
        )
    return fit_votes(votes_of(p, members, start), labels, prior=prior, pull=pull)


def votes_of(
    branch_probabilities: NDArray[np.floating],
    members: Sequence[Member],
    weights: NDArray[np.floating],
) -> NDArray[np.float64]:
    """Return the weighted evidence ``(members, N, K)`` of branch probabilities.

    Args:
        branch_probabilities: ``(N, members, K)``.
        members: in the same order.
        weights: ``(members, K)``.
    """
    each = [
        own * evidence(branch_probabilities[:, i], m.seen)
        for i, (m, own) in enumerate(zip(members, weights, strict=True))
    ]
    return np.stack(each)


def answers(
    votes: NDArray[np.float64],
    factors: NDArray[np.floating],
    bias: NDArray[np.floating],
    *,
    prior: NDArray[np.floating] | None = None,
) -> NDArray[np.float64]:
    """Return the probabilities ``(N, K)`` that votes ``(members, N, K)`` come to.

    Args:
        votes: weighted evidence.
        factors: ``(members,)``, by which every file's votes count.
        bias: ``(K,)``.
        prior: ``(K,)`` shares of the classes, by default uniform.
    """
    members, count, classes = votes.shape
    # One product over all images and classes: many times faster than a sum over an axis.
    total = (np.asarray(factors, np.float64) @ votes.reshape(members, -1)).reshape(count, classes)
    return softmax(_base(classes, prior) + bias + total)


def fit_votes(
    votes: NDArray[np.float64],
    labels: NDArray[np.integer],
    *,
    prior: NDArray[np.floating] | None = None,
    pull: float = PULL,
) -> Fit:
    """Return the fit of weighted evidence ``(members, N, K)``; the rest as `fit_weights`."""
    from scipy.optimize import minimize  # an extra of the desk

    k_members, count, classes = votes.shape
    flat = np.ascontiguousarray(votes).reshape(k_members, -1)
    truth = np.eye(classes)[labels]
    present = truth.any(axis=0)
    begin = np.ones(k_members)
    stiffness = pull / count * np.concatenate([begin / k_members, np.ones(classes)])

    def centred(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(present, values - values[present].mean(), 0.0)

    def forward(
        weights: NDArray[np.float64], bias: NDArray[np.float64]
    ) -> tuple[float, NDArray[np.float64]]:
        shares = answers(votes, weights, bias, prior=prior)
        right = np.maximum((shares * truth).sum(axis=1), _TINY)
        return float(-np.log(right).mean()), shares

    def objective(theta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weights, bias = theta[:k_members], centred(theta[k_members:])
        loss, shares = forward(weights, bias)
        error = (shares - truth) / count
        slope = np.concatenate([flat @ error.ravel(), centred(error.sum(axis=0))])
        away = np.concatenate([weights - begin, bias])
        return loss + float(stiffness @ away**2), slope + 2 * stiffness * away

    found = minimize(
        objective,
        np.concatenate([begin, np.zeros(classes)]),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, None)] * k_members + [(None, None)] * classes,
        options={"ftol": 0.0, "gtol": _CLOSE, "maxcor": 20, "maxiter": 2000},
    )
    weights, bias = found.x[:k_members], centred(found.x[k_members:])
    return Fit(
        weights=weights,
        bias=bias,
        loss_before=forward(begin, np.zeros(classes))[0],
        loss_after=forward(weights, bias)[0],
    )


def _base(classes: int, prior: NDArray[np.floating] | None) -> NDArray[np.float64]:
    share = np.full(classes, 1 / classes) if prior is None else np.asarray(prior, np.float64)
    base: NDArray[np.float64] = np.log(share / share.sum())
    return base

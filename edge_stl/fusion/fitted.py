"""Weights and biases fitted on labelled holdout images: the one weight rule that needs data.

Not imported by the room itself: it needs scipy, and who only predicts has none.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_stl.fusion._pool import Member, evidence, softmax


_TINY = 1e-300


@dataclass(frozen=True, eq=False)
class Fit:
    """What a holdout taught.

    Attributes:
        weights: w, ``(members,)`` float64, none negative; they need not sum to 1.
        bias: b, ``(K,)`` float64.
        loss_before: mean ``-log p`` of the holdout at the start weights, in nats.
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
    pull: float = 1.0,
) -> Fit:
    """Return the weights and biases with the smallest penalized log-loss on a holdout.

    ``score = log prior + b + sum_k w_k evidence_k`` is linear in w and b, so the loss is convex;
    L-BFGS-B (Byrd et al., SIAM J. Sci. Comput. 1995) finds its minimum over ``w >= 0``. The pull
    ``pull / N * (members * |w - start|^2 + |b|^2)`` keeps a small holdout close to the start and
    lets go of it as the holdout grows.

    Args:
        branch_probabilities: ``(N, members, K)``, the ``p_k`` of the holdout's images.
        labels: ``(N,)``, their classes.
        members: in the same order.
        start: ``(members,)``, the weights of a rule that needs no data.
        prior: ``(K,)`` shares of the classes, by default uniform.
        pull: strength of the pull, 0 or more.

    Raises:
        ValueError: no image, or shapes that do not fit each other.
    """
    from scipy.optimize import minimize  # an extra of the desk

    p = np.asarray(branch_probabilities, dtype=np.float64)
    count, k_members, classes = p.shape if p.ndim == 3 else (0, 0, 0)  # noqa: PLR2004
    if not count or len(labels) != count or k_members != len(members) or len(start) != k_members:
        raise ValueError(
            f"branch probabilities {p.shape}, {len(labels)} labels, {len(members)} members, "
            f"{len(start)} start weights; expected (N, members, K) with N labels"
        )
    votes = np.stack([evidence(p[:, i], m.seen) for i, m in enumerate(members)], axis=1)
    share = np.full(classes, 1 / classes) if prior is None else np.asarray(prior, np.float64)
    base = np.log(share / share.sum())
    truth = np.eye(classes)[labels]
    anchor = np.concatenate([np.asarray(start, np.float64), np.zeros(classes)])
    stiffness = pull / count * np.concatenate([np.full(k_members, k_members), np.ones(classes)])

    def forward(theta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        scores = base + theta[k_members:] + np.einsum("nmk,m->nk", votes, theta[:k_members])
        shares = softmax(scores)
        return float(-np.log(np.maximum((shares * truth).sum(axis=1), _TINY)).mean()), shares

    def objective(theta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        loss, shares = forward(theta)
        error = (shares - truth) / count
        slope = np.concatenate([np.einsum("nk,nmk->m", error, votes), error.sum(axis=0)])
        away = theta - anchor
        return loss + float(stiffness @ away**2), slope + 2 * stiffness * away

    bounds = [(0.0, None)] * k_members + [(None, None)] * classes
    found = minimize(objective, anchor, jac=True, method="L-BFGS-B", bounds=bounds)
    return Fit(
        weights=found.x[:k_members],
        bias=found.x[k_members:],
        loss_before=forward(anchor)[0],
        loss_after=forward(found.x)[0],
    )

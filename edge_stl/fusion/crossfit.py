"""What a fit is worth on images that it did not see, and which boxes do harm.

Not imported by the room itself, as `edge_stl.fusion.fitted`: it needs scipy.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_stl.fusion._pool import Member
from edge_stl.fusion._scores import score
from edge_stl.fusion.fitted import PULL, answers, fit_votes, votes_of


FOLDS = 5
SURE = 2.0
"""Standard errors that a box's harm must exceed before the box is named."""

_TINY = 1e-300


@dataclass(frozen=True)
class Harm:
    """A box without which the others answer unseen images better.

    Attributes:
        box: its id.
        change: mean change of the log-loss of unseen images when it is left out, in nats; negative.
        error: standard error of that mean.
    """

    box: str
    change: float
    error: float


@dataclass(frozen=True)
class Verdict:
    """What a fit bought, measured on images that it did not see.

    Attributes:
        images: N.
        accuracy_before: with the start weights, 0..1.
        accuracy_after: with fitted weights and biases, each image by the fit that did not see it.
        log_loss_before: in nats, as ``accuracy_before``.
        log_loss_after: in nats, as ``accuracy_after``.
        harmful: the boxes that do harm, the worst first.
    """

    images: int
    accuracy_before: float
    accuracy_after: float
    log_loss_before: float
    log_loss_after: float
    harmful: tuple[Harm, ...]


def in_order(
    branch_probabilities: NDArray[np.floating], labels: NDArray[np.integer]
) -> NDArray[np.int64]:
    """Return the order of images ``(N,)`` that depends on what the branches say of them alone.

    Names and places of the files do not count, so a fit does not depend on them.

    Args:
        branch_probabilities: ``(N, members, K)``.
        labels: ``(N,)``.
    """
    keys = _keys(branch_probabilities)
    return np.array(sorted(range(len(labels)), key=lambda i: (labels[i], keys[i])), dtype=np.int64)


def folds_of(
    branch_probabilities: NDArray[np.floating], labels: NDArray[np.integer]
) -> NDArray[np.int64]:
    """Return the part 0..`FOLDS` - 1 of every image, ``(N,)``, each with its share of every class.

    Images of a class that the branches cannot tell apart, copies above all, come into one part:
    else a fit would have seen what it is measured on.
    """
    keys = _keys(branch_probabilities)
    parts: dict[tuple[int, bytes], int] = {}
    out = np.empty(len(labels), dtype=np.int64)
    for i in in_order(branch_probabilities, labels):
        out[i] = parts.setdefault((int(labels[i]), keys[i]), len(parts) % FOLDS)
    return out


def cross_fit(
    branch_probabilities: NDArray[np.floating],
    labels: NDArray[np.integer],
    members: Sequence[Member],
    *,
    start: NDArray[np.floating],
    prior: NDArray[np.floating] | None = None,
    pull: float = PULL,
) -> Verdict:
    """Fit on four parts of a holdout, measure on the fifth, in turn; see `fit_weights`.

    A box does harm if the others do better without it at the start weights: the mean change of
    the unseen log-loss lies more than `SURE` standard errors below 0. So that leaving it out does
    not just make the sum smaller, both sides get one factor for all weights and biases, fitted on
    the other parts. Not measured at the fitted weights: the fit silences the worst boxes, and
    leaving out who is silent changes nothing.

    Raises:
        ValueError: as `fit_weights`, or the labels are all of one class.
    """
    if len(np.unique(labels)) < 2:  # noqa: PLR2004  (a part would have nothing to be fitted on)
        raise ValueError("labels of one class; expected two classes at least")
    votes = votes_of(branch_probabilities, members, start)
    parts = folds_of(branch_probabilities, labels)
    after = _unseen(votes, labels, parts, prior=prior, pull=pull)
    before = answers(votes, np.ones(len(members)), np.zeros(votes.shape[2]), prior=prior)
    was, now = score(before, labels), score(after, labels)
    return Verdict(
        images=len(labels),
        accuracy_before=was.accuracy,
        accuracy_after=now.accuracy,
        log_loss_before=was.log_loss,
        log_loss_after=now.log_loss,
        harmful=_harmful(votes, labels, parts, members, prior=prior, pull=pull),
    )


def _unseen(
    votes: NDArray[np.float64],
    labels: NDArray[np.integer],
    parts: NDArray[np.int64],
    *,
    prior: NDArray[np.floating] | None,
    pull: float,
) -> NDArray[np.float64]:
    """Return the probabilities ``(N, K)`` of every image by the fit on the other parts."""
    out = np.empty(votes.shape[1:])
    for part in np.unique(parts):
        held = parts == part
        fit = fit_votes(votes[:, ~held], labels[~held], prior=prior, pull=pull)
        out[held] = answers(votes[:, held], fit.weights, fit.bias, prior=prior)
    return out


def _harmful(
    votes: NDArray[np.float64],
    labels: NDArray[np.integer],
    parts: NDArray[np.int64],
    members: Sequence[Member],
    *,
    prior: NDArray[np.floating] | None,
    pull: float,
) -> tuple[Harm, ...]:
    total = votes.sum(axis=0)

    def losses(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        p = _unseen(sums[None], labels, parts, prior=prior, pull=pull)
        each: NDArray[np.float64] = -np.log(np.maximum(p[np.arange(len(labels)), labels], _TINY))
        return each

    complete = losses(total)
    found = []
    for box in sorted({m.box for m in members}):
        own = votes[[m.box == box for m in members]].sum(axis=0)
        if not own.any() or np.array_equal(own, total):  # silent, or the only one that speaks
            continue
        change = losses(total - own) - complete
        mean, error = float(change.mean()), float(change.std(ddof=1) / np.sqrt(len(change)))
        if mean < -SURE * error:
            found.append(Harm(box, mean, error))
    return tuple(sorted(found, key=lambda harm: harm.change))


def _keys(branch_probabilities: NDArray[np.floating]) -> list[bytes]:
    """Return one key per image; those of numbers that are not negative sort as the numbers do."""
    rows = np.ascontiguousarray(branch_probabilities, dtype=">f4").reshape(
        len(branch_probabilities), -1
    )
    return [row.tobytes() for row in rows]

"""What labelled images at the desk tell of every box: who harms, who hardly does more than guess.

Not imported by the room itself, as `edge_stl.fusion.fitted`: it needs scipy.

A box is judged on images of the classes that it claims. One that saw two rare classes says nothing
useful of the others, and is honest all the same.

* It *harms* where the ensemble is right significantly more often without it: of the images on
  which exactly one of the two ensembles is right, the exact one-sided McNemar test asks whether
  more belong to the one without (McNemar, Psychometrika 1947; in the exact form a sign test).
* It *guesses* where, alone and among its own classes, it is right significantly less often than
  `little` better than one of ``|S|`` guesses: it knows nothing, or its labels are not what the plan
  calls them. (Not "less often than a guess": a box whose labels are turned round is right where it
  would have been wrong, which is about as often as a guess.)

Neither finds a back door that was trained in: such a box answers all other images well.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_stl.fusion._median import MEDIAN_FLOOR, voters
from edge_stl.fusion._pool import CLIP, Member, evidence
from edge_stl.fusion.fitted import votes_of


SURE = 0.05
"""Chance that an honest fleet has one box or more found harmful, whatever the number of boxes."""

VERY_SURE = 0.001
"""The same for guessing, where a wrong verdict would look absurd."""

FEWEST_BOXES = 3
"""With two boxes that contradict each other, nobody can say which one is wrong."""

Answer = Callable[[Sequence[int]], NDArray[np.float64]]
"""Probabilities ``(N, K)`` of the ensemble of some members, given by their indices."""


@dataclass(frozen=True)
class Trial:
    """What a holdout says of one box.

    Attributes:
        box: its id.
        images: of the classes that it claims.
        accuracy: of the box alone on these, among its own classes, 0..1; none without images.
        mended: images of these that only the ensemble without it gets right.
        spoiled: images of these that only the ensemble with it gets right.
        p_harm: exact one-sided McNemar p of that.
        p_guess: exact one-sided binomial p of so few right answers at an accuracy of `little`.
        harms: whether ``p_harm`` is below `SURE` over the number of boxes.
        guesses: whether ``p_guess`` is below `VERY_SURE` over the number of boxes.
        change_elsewhere: by how much the accuracy on all images changes without it, -1..1.
        loud: whether its answers are far louder than those of the others and the ensemble is right
            more often without it on these images, however seldom.
    """

    box: str
    images: int
    accuracy: float | None
    mended: int
    spoiled: int
    p_harm: float
    p_guess: float
    harms: bool
    guesses: bool
    change_elsewhere: float
    loud: bool = False

    @property
    def suspect(self) -> bool:
        """Return whether the box should not answer."""
        return self.harms or self.guesses or self.loud


def little(classes: int) -> float:
    """Return the accuracy that is hardly better than guessing among so many classes.

    A tenth of the way from a guess to perfection, and twice a guess at most: 0.55 of two classes,
    0.19 of ten, 0.002 of a thousand.
    """
    guess = 1 / classes
    return min(2 * guess, guess + 0.1 * (1 - guess))


def try_boxes(
    answer: Answer,
    branch_probabilities: NDArray[np.floating],
    labels: NDArray[np.integer],
    members: Sequence[Member],
    *,
    loud: Collection[str] = (),
) -> tuple[Trial, ...]:
    """Leave out every box in turn and see what the others say.

    Args:
        answer: the ensemble of some of the members.
        branch_probabilities: ``(N, members, K)``, the ``p_k`` of labelled images.
        labels: ``(N,)``.
        members: in the same order.
        loud: boxes that are found to be far louder than the others without any image. One that is
            right and too loud harms by too little for a test of a few hundred images.

    Returns:
        one trial per box that speaks of anything, by id; nothing with fewer than `FEWEST_BOXES`.
    """
    boxes = sorted({m.box for m in members if m.speaks})
    if len(boxes) < FEWEST_BOXES:
        return ()
    everyone = range(len(members))
    right = answer(list(everyone)).argmax(axis=1) == labels
    found = []
    for box in boxes:
        own = [i for i in everyone if members[i].box == box]
        without = answer([i for i in everyone if i not in own]).argmax(axis=1) == labels
        claimed = sorted({c for i in own if members[i].speaks for c in members[i].seen})
        on = np.isin(labels, claimed)
        mended, spoiled = int((without & ~right & on).sum()), int((right & ~without & on).sum())
        alone = _alone(branch_probabilities[on], [members[i] for i in own], own)
        hits, images = int((alone == labels[on]).sum()), int(on.sum())
        p_harm, p_guess = _at_least(mended, mended + spoiled, 0.5), 1.0
        if images:
            p_guess = _at_least(images - hits, images, 1 - little(len(claimed)))
        found.append(
            Trial(
                box=box,
                images=images,
                accuracy=hits / images if images else None,
                mended=mended,
                spoiled=spoiled,
                p_harm=p_harm,
                p_guess=p_guess,
                harms=p_harm < SURE / len(boxes),
                guesses=p_guess < VERY_SURE / len(boxes),
                change_elsewhere=float(without.mean() - right.mean()),
                loud=box in loud and mended > spoiled,
            )
        )
    return tuple(found)


def worst(trials: Sequence[Trial]) -> Trial | None:
    """Return the suspect box that is surest to be one, or None."""
    return min(
        (t for t in trials if t.suspect),
        key=lambda t: (min(t.p_harm / SURE, t.p_guess / VERY_SURE), t.box),
        default=None,
    )


def certified(
    branch_probabilities: NDArray[np.floating],
    labels: NDArray[np.integer],
    members: Sequence[Member],
    weights: NDArray[np.floating],
    *,
    prior: NDArray[np.floating],
    bias: NDArray[np.floating] | None = None,
    scale: float = 1.0,
) -> NDArray[np.bool_]:
    """Return which images stay right whatever any one box says, ``(N,)``.

    At these weights a file can add between ``-r`` and ``r`` to the score of every class it claims,
    with ``r = a w_kc log((1 - e) / e)``; what is right against the worst case of each box in turn
    is right against any one of them. That a box's beliefs sum to 1 is not used: the count is on
    the careful side.

    Args:
        branch_probabilities: ``(N, members, K)``.
        labels: ``(N,)``.
        members: in the same order.
        weights: w, ``(members, K)``.
        prior: ``(K,)`` shares of the classes.
        bias: b, ``(K,)``, by default 0.
        scale: a.
    """
    own = scale * np.asarray(weights, dtype=np.float64)
    votes = votes_of(branch_probabilities, members, own)
    speaks = np.array([[m.speaks and n > 0 for n in m.counts] for m in members])
    reach = np.where(speaks, own, 0.0) * np.log((1 - CLIP) / CLIP)
    total = np.log(prior / prior.sum()) + (0.0 if bias is None else bias) + votes.sum(axis=0)
    safe: NDArray[np.bool_] = total.argmax(axis=1) == labels
    for box in sorted({m.box for m in members}):
        rows = [i for i, m in enumerate(members) if m.box == box]
        rest, most = total - votes[rows].sum(axis=0), reach[rows].sum(axis=0)
        safe &= _wins(rest - most, rest + most, labels)
    return safe


def certified_median(
    branch_probabilities: NDArray[np.floating],
    labels: NDArray[np.integer],
    members: Sequence[Member],
    *,
    prior: NDArray[np.floating],
) -> NDArray[np.bool_]:
    """Return which images stay right under the median whatever any one box says, ``(N,)``.

    Without the box, with it at 0 and with it at 1 are the extremes of a median, class by class; a
    box may also begin or cease to claim a class.

    Args:
        branch_probabilities: ``(N, members, K)``.
        labels: ``(N,)``.
        members: in the same order.
        prior: ``(K,)`` shares of the classes.
    """
    p = np.asarray(branch_probabilities, dtype=np.float64)
    speaks = voters(members)
    share = prior / prior.sum()
    safe = np.ones(len(p), dtype=np.bool_)
    for box in sorted({m.box for m in members}):
        low, high = np.empty((len(p), p.shape[2])), np.empty((len(p), p.shape[2]))
        for c in range(p.shape[2]):
            rest = [
                p[:, own[:, c], c].mean(axis=1)
                for name, own in speaks.items()
                if name != box and own[:, c].any()
            ]
            silent = [np.full(len(p), 1 / p.shape[2])]
            zero, one = np.zeros(len(p)), np.ones(len(p))
            ways = [np.median(v, axis=0) for v in (rest or silent, [*rest, zero], [*rest, one])]
            low[:, c], high[:, c] = np.min(ways, axis=0), np.max(ways, axis=0)
        floor = [np.log(share) + np.log(np.maximum(m, MEDIAN_FLOOR)) for m in (low, high)]
        safe &= _wins(floor[0], floor[1], labels)
    return safe


def _wins(
    low: NDArray[np.float64], high: NDArray[np.float64], labels: NDArray[np.integer]
) -> NDArray[np.bool_]:
    """Return where the label's lowest score is above the highest of every other class, ``(N,)``."""
    rows = np.arange(len(labels))
    others = high.copy()
    others[rows, labels] = -np.inf
    above: NDArray[np.bool_] = low[rows, labels] > others.max(axis=1)
    return above


def _alone(
    branch_probabilities: NDArray[np.floating], own: Sequence[Member], rows: Sequence[int]
) -> NDArray[np.int64]:
    """Return the class ``(n,)`` that a box's files choose together among those they claim."""
    total = np.zeros((len(branch_probabilities), branch_probabilities.shape[2]))
    claims = np.zeros(branch_probabilities.shape[2], dtype=np.bool_)
    for i, member in zip(rows, own, strict=True):
        if member.speaks:
            total += evidence(branch_probabilities[:, i], member.seen)
            claims[list(member.seen)] = True
    best: NDArray[np.int64] = np.where(claims, total, -np.inf).argmax(axis=1)
    return best


def _at_least(hits: int, trials: int, chance: float) -> float:
    """Return the chance of so many hits or more."""
    from scipy.stats import binom  # an extra of the desk

    return float(binom.sf(hits - 1, trials, chance)) if trials else 1.0

"""What a box tells of its validation images: sums per temperature and class, and no image.

The group's temperature is fitted without a logit leaving a box: each sums the loss of its images,
by class, for every temperature of a fixed grid, and the sums are added.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from edge_stl.fusion import log_prior, softmax


TEMPERATURES: NDArray[np.float64] = np.geomspace(0.05, 20, 121)
"""Steps of 5 %, from the lowest to the highest that a manifest may have."""

_TINY = 1e-12  # as a box on its own takes none below


@dataclass(frozen=True)
class Scores:
    """Sums over validation images.

    Attributes:
        losses: of ``-log p`` in nats, ``(temperatures, K)``.
        right: right answers, ``(temperatures,)``; of whole images or of rounded shares.
        counts: images per class as published, ``(K,)``.
        judged: images that ``right`` counts among.
    """

    losses: NDArray[np.float64]
    right: NDArray[np.float64]
    counts: NDArray[np.int64]
    judged: int

    def __add__(self, other: "Scores") -> "Scores":
        """Return the sums of two boxes."""
        return Scores(
            self.losses + other.losses,
            self.right + other.right,
            self.counts + other.counts,
            self.judged + other.judged,
        )

    @classmethod
    def of(
        cls,
        logits: NDArray[np.floating],
        labels: NDArray[np.int64],
        train_counts: Sequence[int],
        *,
        floor: int,
    ) -> Self:
        """Return the sums of a box.

        With a floor, what is told of a class is the mean of its images times the count published,
        and right answers are told in whole percents, of no fewer images than the floor.

        Args:
            logits: ``(n, K)``.
            labels: ``(n,)``; all of them classes that the group trained on.
            train_counts: of the whole group, as published.
            floor: the plan's ``privacy.min_count``.
        """
        classes = len(train_counts)
        seen = np.flatnonzero(np.asarray(train_counts))
        places = np.searchsorted(seen, labels)
        held = np.bincount(labels, minlength=classes)
        published = np.where(held > 0, np.maximum(held, floor), 0)
        prior = log_prior(train_counts)
        losses = np.zeros((len(TEMPERATURES), classes))
        right = np.zeros(len(TEMPERATURES))
        rows = np.arange(len(labels))
        for k, temperature in enumerate(TEMPERATURES):
            p = softmax(logits[:, seen].astype(np.float64) / temperature - prior)
            own = -np.log(np.maximum(p[rows, places], _TINY))
            sums = np.bincount(labels, weights=own, minlength=classes)
            losses[k] = sums * published / np.maximum(held, 1)
            right[k] = np.count_nonzero(p.argmax(axis=1) == places)
        judged = len(labels)
        if floor:
            judged = int(published.sum()) if judged >= floor else 0
            right = np.round(right / max(len(labels), 1), 2) * judged
        return cls(losses, right, published.astype(np.int64), judged)

    def best(self, train_counts: Sequence[int]) -> int:
        """Return which temperature has the smallest class-mean loss; that of 1 without images."""
        there = self.counts > 0
        if not there.any() or np.count_nonzero(np.asarray(train_counts)) == 1:
            return int(np.abs(np.log(TEMPERATURES)).argmin())
        return int((self.losses[:, there] / self.counts[there]).mean(axis=1).argmin())

    def log_loss(self, place: int, train_counts: Sequence[int]) -> float:
        """Return L at a temperature: a class without validation images counts as chance."""
        seen = np.flatnonzero(np.asarray(train_counts))
        chance = float(np.log(len(seen)))
        parts = [self.losses[place, c] / self.counts[c] if self.counts[c] else chance for c in seen]
        return float(f"{np.mean(parts):.6g}")

    def accuracy(self, place: int, *, floor: int) -> float | None:
        """Return the share of right answers, rounded as a box on its own does."""
        if not self.judged:
            return None
        return round(float(self.right[place]) / self.judged, 2 if floor else 6)

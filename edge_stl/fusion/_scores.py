"""How good probabilities are: accuracy, macro accuracy, log-loss, calibration error."""

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray


BINS = 15
_TINY = 1e-12


@dataclass(frozen=True)
class Scores:
    """Scores of a set of images.

    Attributes:
        images: how many.
        accuracy: share of right labels, 0..1.
        macro_accuracy: mean over the classes present of the share of right labels, 0..1.
        log_loss: mean of ``-log p(label)`` in nats, p cut off at 1e-12.
        ece: expected calibration error over 15 equal-width bins of the top probability, 0..1.
    """

    images: int
    accuracy: float
    macro_accuracy: float
    log_loss: float
    ece: float

    def to_dict(self) -> dict[str, float]:
        """Return the scores as plain values."""
        return asdict(self)


def score(probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> Scores:
    """Return the scores of probabilities ``(N, K)`` against labels ``(N,)``.

    Raises:
        ValueError: there is no image, or the lengths differ.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if len(p) != len(labels) or not len(labels):
        raise ValueError(f"{len(p)} rows of probabilities and {len(labels)} labels")
    predicted = p.argmax(axis=1)
    right = predicted == labels
    per_class = [right[labels == c].mean() for c in np.unique(labels)]
    picked = p[np.arange(len(labels)), labels]
    top = p.max(axis=1)
    bins = np.minimum((top * BINS).astype(int), BINS - 1)
    gaps = [
        abs(top[bins == b].mean() - right[bins == b].mean()) * (bins == b).mean()
        for b in np.unique(bins)
    ]
    return Scores(
        images=len(labels),
        accuracy=float(right.mean()),
        macro_accuracy=float(np.mean(per_class)),
        log_loss=float(-np.log(np.maximum(picked, _TINY)).mean()),
        ece=float(np.sum(gaps)),
    )

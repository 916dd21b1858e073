"""Which images of a box are for training and which are held back for validation."""

import numpy as np
from numpy.typing import NDArray


_ENOUGH = 5


def split_validation(
    labels: NDArray[np.int64], *, share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Hold back a share of each class.

    A class with fewer than five images trains on all of them; any other gives at least one.

    Args:
        labels: ``(N,)`` class indices.
        share: 0..0.5.
        seed: of the choice.

    Returns:
        sorted indices ``(n_train,)`` and ``(n_validation,)``.
    """
    rng = np.random.default_rng([seed, 1])
    held: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    for c in np.unique(labels):
        own = np.flatnonzero(labels == c)
        count = max(1, round(share * len(own))) if share > 0 and len(own) >= _ENOUGH else 0
        held.append(rng.permutation(own)[:count])
    validation = np.sort(np.concatenate(held))
    train = np.setdiff1d(np.arange(len(labels)), validation)
    return train.astype(np.int64), validation.astype(np.int64)

"""The stages of a cascade: which of its branches were asked, and what that cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class CascadeStage:
    """Branches that a cascade asks together.

    Attributes:
        resolution: what a box needs to carry their bands, in pixels.
        members: their indices among the ensemble's branches.
        multiply_adds: of their banks and networks, for one image.
    """

    resolution: int
    members: tuple[int, ...]
    multiply_adds: int


@dataclass(frozen=True)
class CascadeUse:
    """How far a cascade went.

    Attributes:
        threshold: 0..1.
        stopped: images that each stage answered, coarse first.
        multiply_adds: mean of an image.
        multiply_adds_full: of an image for which every branch is asked.
    """

    threshold: float
    stopped: tuple[int, ...]
    multiply_adds: float
    multiply_adds_full: int


def stages_in(record: dict[str, Any], branches: Sequence[str]) -> tuple[CascadeStage, ...]:
    """Return the stages that an ensemble's record names, none where it is no cascade.

    Raises:
        KeyError: a part is missing.
        TypeError: a part is of another kind.
        ValueError: a branch is unknown.
    """
    if "cascade" not in record:
        return ()
    return tuple(
        CascadeStage(
            int(stage["resolution"]),
            tuple(branches.index(name) for name in stage["branches"]),
            int(stage["multiply_adds"]),
        )
        for stage in record["cascade"]["stages"]
    )


def asked(branch_probabilities: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return which branches answered which images, ``(N, branches)``."""
    answered: NDArray[np.bool_] = ~np.isnan(branch_probabilities).all(axis=2)
    return answered


def use_of(
    stages: Sequence[CascadeStage], threshold: float, branch_probabilities: NDArray[np.floating]
) -> CascadeUse:
    """Return how far a cascade went for the images of ``branch_probabilities (N, branches, K)``."""
    first = [stage.members[0] for stage in stages]
    reached = asked(branch_probabilities)[:, first].sum(axis=0)
    work = [stage.multiply_adds for stage in stages]
    return CascadeUse(
        threshold=threshold,
        stopped=tuple(int(n) for n in reached - np.append(reached[1:], 0)),
        multiply_adds=float(reached @ np.array(work) / len(branch_probabilities)),
        multiply_adds_full=sum(work),
    )

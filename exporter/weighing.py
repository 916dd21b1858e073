"""How much every branch file counts in every class, by the rules that need no images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_stl.errors import UsageError
from edge_stl.fusion import DATA_FREE, calibration_scale, plan_weights
from exporter.options import Options
from exporter.read import BranchFile


_DECIMALS = 6
"""Of weights and scale: more would be noise of the machine, and fill the record."""


@dataclass(frozen=True)
class Weighing:
    """What a weight rule gives.

    Attributes:
        weights: K per file, 0 where it does not speak for a class; all 0 under a robust rule.
        scale: a of the fusion.
    """

    weights: tuple[tuple[float, ...], ...]
    scale: float

    @property
    def matrix(self) -> NDArray[np.float64]:
        """Return the weights as ``(files, K)`` float64."""
        return np.array(self.weights, dtype=np.float64)


def mean_weight(weights: Sequence[float]) -> float:
    """Return the mean over the classes of a file's weights: its share of the whole ensemble."""
    return float(np.mean(np.asarray(weights, dtype=np.float64)))


def rounded(weights: NDArray[np.floating], scale: float) -> Weighing:
    """Return weights ``(files, K)`` and a as an ensemble keeps them."""
    # + 0.0 turns a negative zero into the one zero that the record and the graph should hold
    rows = np.round(np.asarray(weights, dtype=np.float64), _DECIMALS) + 0.0
    return Weighing(tuple(tuple(row.tolist()) for row in rows), round(scale, _DECIMALS))


def weigh(files: Sequence[BranchFile], options: Options) -> Weighing:
    """Return the weights and the scale that a rule without a holdout gives.

    Raises:
        UsageError: the plan's weights were asked for, and it has none for these files.
    """
    members = [f.manifest.member() for f in files]
    if options.robust is not None:
        return rounded(np.zeros((len(files), len(files[0].plan.classes))), 1.0)
    if options.weights == "plan":
        declared = files[0].plan.fusion.weights
        if declared is None:
            raise UsageError(
                "--weights plan: the plan declares no weights; it needs [fusion] weights = "
                "{ branch = number }. Choose another rule"
            )
        try:
            weights = plan_weights(members, declared)
        except ValueError as error:
            raise UsageError(f"--weights plan: {error}") from None
    else:
        weights = DATA_FREE[options.weights](members)
    return rounded(weights, calibration_scale(weights))

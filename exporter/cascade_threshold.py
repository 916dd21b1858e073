"""Where the threshold of a cascade comes from, and what the cascade saves."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_stl.errors import UsageError
from exporter._cascade import stages_of
from exporter.ensemble import Fitted, class_prior
from exporter.fitting import Answered
from exporter.options import Cascade, Options
from exporter.read import BranchFile
from exporter.weighing import Weighing, weigh


CASCADE_LOSS = 0.003
"""Accuracy that a cascade may lose unless something else is asked for, 0..1."""


@dataclass(frozen=True)
class CascadeReport:
    """What a cascade does.

    Attributes:
        threshold: the default of the graph's input.
        stages: as the ensemble's record has them: resolution, branches, multiply-adds.
        holdout: on images of the holdout, each with a threshold that was chosen without it; none
            where the threshold was named.
    """

    threshold: float
    holdout: "HoldoutTrade | None" = None
    stages: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class HoldoutTrade:
    """What a cascade costs and saves on images that its threshold was not chosen on.

    Attributes:
        images: how many.
        accuracy_full: of the ensemble with all branches, 0..1.
        accuracy: of the cascade, 0..1.
        stopped: share of the images that each stage answers.
        left_out: files not used, by reason.
    """

    images: int
    accuracy_full: float
    accuracy: float
    stopped: tuple[float, ...]
    left_out: dict[str, int]


def cascade_of(
    files: Sequence[BranchFile],
    weighing: Weighing,
    options: Options,
    seen: Answered | None,
    fitted: Fitted | None,
) -> tuple[Cascade, CascadeReport]:
    """Return the cascade that the options ask for, its threshold chosen where it is not named.

    Where weights were fitted on the same holdout, the threshold is chosen on answers of fits that
    did not see the image: those of the final fit look surer than they will be.

    Args:
        files: of one plan, in the order of the ensemble.
        weighing: of the files.
        options: with ``threshold`` or ``cascade_loss``.
        seen: what the files say to the holdout; needed for ``cascade_loss``.
        fitted: biases, where the weights were fitted.
    """
    if options.threshold is not None or options.cascade_loss is None or seen is None:
        threshold = 1.0 if options.threshold is None else options.threshold
        return Cascade(threshold), CascadeReport(threshold)
    from edge_stl.fusion.crossfit import folds_of
    from edge_stl.fusion.threshold import choose_threshold, cross_trade

    p, labels = seen.branch_probabilities, seen.labels
    parts = folds_of(p, labels)
    if fitted is None:
        answered = _answers(files, weighing.matrix, None, p, weighing.scale)
    else:
        answered = _unseen_answers(files, seen, parts)
    threshold = choose_threshold(answered, labels, loss=options.cascade_loss)
    told = cross_trade(answered, labels, parts, loss=options.cascade_loss)
    trade = HoldoutTrade(
        told.images, told.accuracy_full, told.accuracy, told.stopped, seen.left_out
    )
    return Cascade(threshold, len(labels)), CascadeReport(threshold, trade)


def _answers(
    files: Sequence[BranchFile],
    weights: NDArray[np.float64],
    bias: NDArray[np.float64] | None,
    p: NDArray[np.float32],
    scale: float,
) -> NDArray[np.float64]:
    from edge_stl.fusion.threshold import stage_answers

    return stage_answers(
        p,
        [f.manifest.member() for f in files],
        weights,
        [stage.members for stage in stages_of(files)],
        prior=np.array(class_prior(files[0].plan)),
        bias=bias,
        scale=scale,
    )


def _unseen_answers(
    files: Sequence[BranchFile], seen: Answered, parts: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the stages' answers to every image by the fit on the other parts."""
    from edge_stl.fusion.fitted import fit_weights

    p, labels = seen.branch_probabilities, seen.labels
    members = [f.manifest.member() for f in files]
    start = weigh(files, Options())
    prior = np.array(class_prior(files[0].plan))
    out = np.empty((len(stages_of(files)), len(labels), p.shape[2]))
    for part in np.unique(parts):
        held = parts == part
        fit = fit_weights(
            p[~held], labels[~held], members, start=start.scale * start.matrix, prior=prior
        )
        found = fit.weights[:, None] * start.matrix
        out[:, held] = _answers(files, found, fit.bias, p[held], start.scale)
    return out


def need_stages(files: Sequence[BranchFile]) -> None:
    """Refuse a cascade of branches that all need one resolution.

    Raises:
        UsageError: there is nothing finer to leave out.
    """
    stages = stages_of(files)
    if len(stages) < 2:  # noqa: PLR2004
        raise UsageError(
            f"--cascade: all branches here are of {stages[0].resolution} px, so none is finer than "
            "the others; expected branches that need two resolutions or more. Merge with "
            "--no-cascade"
        )


def need_threshold_again(
    was: Options, cascade: Cascade | None, wanted: Options, holdout: Path | None, name: str
) -> None:
    """Refuse to carry a threshold over to other branches than those it was chosen with.

    Raises:
        UsageError: naming what gives another.
    """
    if was.cascade_loss is None or wanted.cascade_loss is None or holdout is not None:
        return
    images = cascade.images if cascade else None
    raise UsageError(
        f"{name}: its confidence threshold was chosen on a holdout of {images} images, and other "
        "branches need another; expected --holdout IMAGES, --threshold X, or --no-cascade. Name "
        "one of them"
    )

"""Weights and biases from a labelled holdout, and what they are worth on images nobody fitted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_stl.errors import DataError, UsageError
from edge_stl.fusion import Member
from exporter.ensemble import Fitted, build_ensemble, class_prior
from exporter.options import Options
from exporter.read import BranchFile
from exporter.weighing import Weighing, mean_weight, rounded


if TYPE_CHECKING:
    from edge_stl.fusion.crossfit import Verdict


Progress = Callable[[int, int], None]

FEWEST = 20
"""Images that a holdout has at least: with fewer, five parts say nothing of a fit."""

_DECIMALS = 4
"""Of factors and biases."""


@dataclass(frozen=True)
class HarmfulBox:
    """A box that the others do better without, at the weights that need no data.

    Attributes:
        box: its id.
        log_loss_change: of unseen images when it is left out, in nats; negative.
        standard_error: of that mean.
        weight_before: of all its files together, from the manifests alone.
        weight_after: the same, fitted.
    """

    box: str
    log_loss_change: float
    standard_error: float
    weight_before: float
    weight_after: float


@dataclass(frozen=True)
class Holdout:
    """What a holdout taught and what that is worth.

    Attributes:
        images: readable images; all of them count in the final fit.
        accuracy_before: with weights that need no data, 0..1.
        accuracy_after: fitted, every image by a fit that did not see it, 0..1.
        log_loss_before: in nats, as ``accuracy_before``.
        log_loss_after: in nats, as ``accuracy_after``.
        harmful: the boxes that do harm, the worst first.
        classes_without_images: whose biases stay 0.
        left_out: files not used, by reason.
    """

    images: int
    accuracy_before: float
    accuracy_after: float
    log_loss_before: float
    log_loss_after: float
    harmful: tuple[HarmfulBox, ...]
    classes_without_images: tuple[str, ...]
    left_out: dict[str, int]


@dataclass(frozen=True, eq=False)
class Answered:
    """What the branches say to a holdout; no name of an image and no order of files is in it.

    Attributes:
        branch_probabilities: ``(N, members, K)``.
        labels: ``(N,)``.
        left_out: files not used, by reason.
    """

    branch_probabilities: NDArray[np.float32]
    labels: NDArray[np.int64]
    left_out: dict[str, int]


@dataclass(frozen=True)
class Fitting:
    """The numbers for the graph, and the report.

    Attributes:
        weighing: factor times start weight, per file and class; the scale of the start.
        fitted: what the ensemble keeps beside them.
        report: what to tell.
    """

    weighing: Weighing
    fitted: Fitted
    report: Holdout


def need_scipy() -> None:
    """Refuse to fit where scipy is not installed.

    Raises:
        UsageError: naming the extra that brings it.
    """
    try:
        import scipy.optimize  # noqa: F401  (an extra, and slow to load where nothing is fitted)
    except ImportError:
        raise UsageError("fitting weights needs scipy: pip install 'edge-stl[merge]'") from None


def answer_holdout(
    files: Sequence[BranchFile],
    folder: Path,
    *,
    resolution: int | None = None,
    progress: Progress | None = None,
) -> Answered:
    """Run every branch on labelled images, once, inside a plain ensemble.

    Args:
        files: of one plan, in the order of the ensemble.
        folder: class folders, or images with ``labels.csv``.
        resolution: of the ensemble's input, where that is not the plan's.
        progress: called with images done and images in all.

    Raises:
        DataError: the folder cannot be used, has fewer than `FEWEST` images or one class only.
    """
    from edge_stl.fusion.crossfit import in_order
    from edge_stl.predict import Ensemble, evaluate

    # weights change nothing in what a branch says
    equal = [[1 / len(files)] * len(files[0].plan.classes)] * len(files)
    model = build_ensemble(files, equal, options=Options(resolution=resolution), scale=1.0)
    seen = evaluate(Ensemble(model), folder, progress=progress)
    classes = len(np.unique(seen.labels))
    if len(seen.labels) < FEWEST or classes < 2:  # noqa: PLR2004
        raise DataError(
            f"{folder}: a holdout of {len(seen.labels)} readable images of {classes} classes; "
            f"expected at least {FEWEST} images of 2 classes or more. Add labelled images, or "
            "merge without a holdout"
        )
    order = in_order(seen.branch_probabilities, seen.labels)
    return Answered(seen.branch_probabilities[order], seen.labels[order], seen.left_out)


def fit_on_holdout(files: Sequence[BranchFile], seen: Answered, *, start: Weighing) -> Fitting:
    """Fit the weights of branch files and the biases of the classes on labelled images.

    Args:
        files: of one plan, in the order of the ensemble.
        seen: what they say to the holdout.
        start: where the fit starts; it keeps the scale.

    Raises:
        UsageError: scipy is not installed.
    """
    need_scipy()
    from edge_stl.fusion.crossfit import cross_fit
    from edge_stl.fusion.fitted import fit_weights

    members = [f.manifest.member() for f in files]
    plan = files[0].plan
    prior = np.array(class_prior(plan))
    counts = np.bincount(seen.labels, minlength=len(plan.classes))
    # The fit knows no scale: with evidence times a, its factors are those of the graph.
    p, labels, begin = seen.branch_probabilities, seen.labels, start.scale * start.matrix
    fit = fit_weights(p, labels, members, start=begin, prior=prior)
    # Rounded, because more would be noise of the holdout, and of the machine it ran on.
    weighing = rounded(np.round(fit.weights, _DECIMALS)[:, None] * start.matrix, start.scale)
    bias = tuple(round(float(b), _DECIMALS) + 0.0 for b in fit.bias)
    verdict = cross_fit(p, labels, members, start=begin, prior=prior)
    return Fitting(
        weighing,
        Fitted(len(labels), bias),
        Holdout(
            images=verdict.images,
            accuracy_before=verdict.accuracy_before,
            accuracy_after=verdict.accuracy_after,
            log_loss_before=verdict.log_loss_before,
            log_loss_after=verdict.log_loss_after,
            harmful=_harmful(verdict, members, start, weighing),
            classes_without_images=tuple(
                name for name, count in zip(plan.classes, counts, strict=True) if not count
            ),
            left_out=seen.left_out,
        ),
    )


def _harmful(
    verdict: "Verdict",
    members: Sequence[Member],
    start: Weighing,
    found: Weighing,
) -> tuple[HarmfulBox, ...]:
    def of(box: str, weighing: Weighing) -> float:
        rows = zip(weighing.weights, members, strict=True)
        return float(sum(mean_weight(row) for row, m in rows if m.box == box))

    return tuple(
        HarmfulBox(
            box=harm.box,
            log_loss_change=harm.change,
            standard_error=harm.error,
            weight_before=of(harm.box, start),
            weight_after=of(harm.box, found),
        )
        for harm in verdict.harmful
    )

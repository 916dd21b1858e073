"""Which boxes a labelled holdout speaks against: left out of the ensemble, never deleted."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_stl.errors import UsageError
from edge_stl.fusion import median_answers
from exporter import names
from exporter.ensemble import Fitted, class_prior
from exporter.fitting import Answered, need_scipy
from exporter.flags import find_flags
from exporter.options import DEFAULT_WEIGHTS, Options
from exporter.read import BranchFile
from exporter.weighing import Weighing, weigh


if TYPE_CHECKING:
    from edge_stl.fusion.audit import Trial

_LONGEST = 400
"""Characters of a reason that an ensemble may hold."""


@dataclass(frozen=True)
class Quarantined:
    """A box that does not answer.

    Attributes:
        box: its id.
        reason: what the holdout said, one sentence without images or paths.
    """

    box: str
    reason: str


@dataclass(frozen=True)
class Verdicts:
    """What an ensemble keeps of an audit: who does not answer, and who does in spite of it.

    Attributes:
        quarantined: boxes whose files were left out.
        kept: boxes that the holdout speaks against and that somebody named with ``--keep``.
    """

    quarantined: tuple[Quarantined, ...] = ()
    kept: tuple[Quarantined, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.quarantined or self.kept)

    def to_document(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "quarantined": [{"box": q.box, "reason": q.reason} for q in self.quarantined],
            "kept": [{"box": q.box, "reason": q.reason} for q in self.kept],
        }


@dataclass(frozen=True)
class Audit:
    """What a holdout says of the boxes of a merge.

    Attributes:
        images: of the holdout.
        trials: one per box, with all boxes in the ensemble; none with fewer than three boxes.
        verdicts: what follows from them.
        accuracy: of the ensemble as it was made, on the holdout, 0..1.
        certified: share of the holdout that is right and stays so whatever any one box says, 0..1.
    """

    images: int
    trials: "tuple[Trial, ...]"
    verdicts: Verdicts
    accuracy: float
    certified: float


def need_boxes(files: Sequence[BranchFile], keep: Sequence[str]) -> None:
    """Refuse to keep a box that is not there.

    Raises:
        UsageError: naming those that are.
    """
    boxes = sorted({f.manifest.box for f in files})
    for box in keep:
        if box not in boxes:
            raise UsageError(f"--keep {box}: no such box here; expected one of {', '.join(boxes)}")


def audit_boxes(
    files: Sequence[BranchFile], seen: Answered, options: Options, keep: Sequence[str]
) -> "tuple[tuple[Trial, ...], Verdicts]":
    """Try every box on a holdout; take out suspects one by one, the surest first.

    Never half of the boxes or more: then nobody could say who is right.

    Args:
        files: of one plan, in the order of the ensemble.
        seen: what they say to the holdout.
        options: the rule by which they answer; fitted weights count as those that the fit begins
            with.
        keep: boxes that answer whatever the holdout says.

    Returns:
        the trials with all boxes, and what follows.

    Raises:
        UsageError: scipy is not installed.
    """
    need_scipy()
    from edge_stl.fusion.audit import worst

    boxes = {f.manifest.box for f in files}
    left, answered = tuple(files), seen
    trials = first = _tried(left, answered, options)
    out: list[Quarantined] = []
    while 2 * (len(out) + 1) < len(boxes):
        bad = worst([t for t in trials if t.box not in keep])
        if bad is None:
            break
        out.append(Quarantined(bad.box, reason_of(bad)))
        left, answered = without(files, seen, Verdicts(tuple(out)))
        trials = _tried(left, answered, options)
    spared = tuple(Quarantined(t.box, reason_of(t)) for t in trials if t.suspect and t.box in keep)
    return first, Verdicts(tuple(out), spared)


def _tried(files: Sequence[BranchFile], seen: Answered, options: Options) -> "tuple[Trial, ...]":
    from edge_stl.fusion.audit import try_boxes

    p = seen.branch_probabilities

    def answer(some: Sequence[int]) -> NDArray[np.float64]:
        return _answers([files[i] for i in some], p[:, list(some)], options)

    loud = {flag.box for flag in find_flags(files) if flag.what == "loudness"}
    return try_boxes(answer, p, seen.labels, [f.manifest.member() for f in files], loud=loud)


def reason_of(trial: "Trial") -> str:
    """Return one sentence on why a box is a suspect."""
    if trial.guesses and trial.accuracy is not None:
        return (
            f"right on {100 * trial.accuracy:.1f} % of {trial.images} images of its classes, "
            f"hardly more than guesses (p = {trial.p_guess:.1e}): it knows nothing, or its labels "
            "are not the plan's"
        )
    if trial.loud and not trial.harms:
        return (
            "its answers are far louder than those of the others, and on images of its classes "
            f"the ensemble is right {trial.mended} times only without it and {trial.spoiled} "
            "times only with it"
        )
    return (
        f"on images of its classes the ensemble is right {trial.mended} times only without it and "
        f"{trial.spoiled} times only with it (p = {trial.p_harm:.1e})"
    )


def without(
    files: Sequence[BranchFile], seen: Answered, verdicts: Verdicts
) -> tuple[tuple[BranchFile, ...], Answered]:
    """Return files and answers of the boxes that are not in quarantine."""
    gone = {q.box for q in verdicts.quarantined}
    index = [i for i, f in enumerate(files) if f.manifest.box not in gone]
    answered = replace(seen, branch_probabilities=seen.branch_probabilities[:, index])
    return tuple(files[i] for i in index), answered


def concluded(
    trials: "tuple[Trial, ...]",
    verdicts: Verdicts,
    files: Sequence[BranchFile],
    seen: Answered,
    weighing: Weighing,
    options: Options,
    fitted: Fitted | None,
) -> Audit:
    """Return the report on an ensemble with its final weights.

    A cascade is reported as the ensemble that asks every branch.
    """
    from edge_stl.fusion.audit import certified, certified_median

    members = [f.manifest.member() for f in files]
    prior = np.array(class_prior(files[0].plan))
    p, labels = seen.branch_probabilities, seen.labels
    if options.robust is not None:
        safe = certified_median(p, labels, members, prior=prior)
        said = median_answers(p, members, prior=prior)
    else:
        bias = np.array(fitted.bias) if fitted else None
        how: dict[str, Any] = {"prior": prior, "bias": bias, "scale": weighing.scale}
        safe = certified(p, labels, members, weighing.matrix, **how)
        said = _weighted(files, p, weighing, bias)
    return Audit(
        images=len(labels),
        trials=trials,
        verdicts=verdicts,
        accuracy=float((said.argmax(axis=1) == labels).mean()),
        certified=float(safe.mean()),
    )


def verdicts_in(record: dict[str, Any]) -> Verdicts:
    """Return what an ensemble's record keeps of an audit.

    Raises:
        ValueError: it is there and cannot be.
    """
    kept = record.get("audit")
    if kept is None:
        return Verdicts()
    lists: list[tuple[Quarantined, ...]] = []
    for key in ("quarantined", "kept"):
        rows = kept[key] if isinstance(kept, dict) and set(kept) == {"quarantined", "kept"} else ""
        if not isinstance(rows, list) or not all(_sound(row) for row in rows):
            raise ValueError(f"an audit {kept}")
        lists.append(tuple(Quarantined(row["box"], row["reason"]) for row in rows))
    found = Verdicts(*lists)
    if not found:
        raise ValueError("an audit that says nothing")
    return found


def _sound(row: object) -> bool:
    return (
        isinstance(row, dict)
        and set(row) == {"box", "reason"}
        and all(isinstance(text, str) and text.isprintable() for text in row.values())
        and len(row["reason"]) <= _LONGEST
    )


def _answers(
    files: Sequence[BranchFile], p: NDArray[np.floating], options: Options
) -> NDArray[np.float64]:
    """Return the probabilities ``(N, K)`` of an ensemble of these files alone."""
    plan = files[0].plan
    if options.robust is not None:
        members = [f.manifest.member() for f in files]
        return median_answers(p, members, prior=np.array(class_prior(plan)))
    start = options.weights != names.FITTED
    weighing = weigh(files, options if start else replace(options, weights=DEFAULT_WEIGHTS))
    return _weighted(files, p, weighing, None)


def _weighted(
    files: Sequence[BranchFile],
    p: NDArray[np.floating],
    weighing: Weighing,
    bias: NDArray[np.float64] | None,
) -> NDArray[np.float64]:
    from edge_stl.fusion.fitted import answers, votes_of

    prior = np.array(class_prior(files[0].plan))
    members = [f.manifest.member() for f in files]
    votes = votes_of(p, members, weighing.scale * weighing.matrix)
    return answers(
        votes, np.ones(len(files)), np.zeros(len(prior)) if bias is None else bias, prior=prior
    )

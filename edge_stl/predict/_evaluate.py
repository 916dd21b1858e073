"""How good an ensemble is on a folder of labelled images."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_stl.errors import DataError
from edge_stl.fusion import Scores, score
from edge_stl.images import UnreadableImage, scan
from edge_stl.predict._cascade import CascadeUse, asked, use_of
from edge_stl.predict._ensemble import Ensemble


@dataclass(frozen=True)
class Evaluation:
    """Scores of an ensemble and of each branch in it.

    Attributes:
        scores: of the ensemble.
        branches: ``branch.box`` to accuracy of that branch alone, 0..1; in a cascade over the
            images that it was asked, None where there is none.
        branch_macro: ``branch.box`` to macro accuracy, likewise.
        left_out: files not used, by reason.
        probabilities: ``(N, K)`` float32.
        branch_probabilities: ``(N, branches, K)`` float32.
        labels: ``(N,)`` int64.
        cascade: how far it went; None unless the ensemble is a cascade.
    """

    scores: Scores
    branches: dict[str, float | None]
    branch_macro: dict[str, float | None]
    left_out: dict[str, int]
    probabilities: NDArray[np.float32]
    branch_probabilities: NDArray[np.float32]
    labels: NDArray[np.int64]
    cascade: CascadeUse | None = None


def evaluate(
    ensemble: Ensemble, folder: Path, *, progress: Callable[[int, int], None] | None = None
) -> Evaluation:
    """Run an ensemble on every readable image of a folder of class folders.

    Args:
        ensemble: the ensemble.
        folder: class folders, or images with ``labels.csv``.
        progress: called with images done and images in all.

    Raises:
        DataError: no image can be used, or a class is unknown to the ensemble.
    """
    images = scan(folder, ensemble.classes)
    left_out: Counter[str] = Counter(images.left_out)
    outputs: list[NDArray[np.float32]] = []
    rows: list[NDArray[np.float32]] = []
    kept: list[int] = []
    batch: list[NDArray[np.uint8]] = []

    def flush() -> None:
        if batch:
            p, each = ensemble.run(np.stack(batch))
            outputs.append(p)
            rows.append(each)
            batch.clear()

    for index in range(len(images)):
        try:
            batch.append(ensemble.prepare(images.path(index)))
            kept.append(index)
        except UnreadableImage as error:
            left_out[error.reason] += 1
        except DataError:
            left_out["too_small"] += 1
        if len(batch) == ensemble.batch_size:
            flush()
        if progress is not None:
            progress(index + 1, len(images))
    flush()
    if not kept:
        counts = ", ".join(f"{n} {reason}" for reason, n in sorted(left_out.items()))
        raise DataError(
            f"{folder}: no image can be used ({counts}); the ensemble takes images of at least "
            f"{ensemble.resolution} px. Give it such images"
        )
    probabilities, each = np.concatenate(outputs), np.concatenate(rows)
    labels = images.labels[kept]
    answered = asked(each)
    branches = {
        name: score(each[own, i], labels[own]) if (own := answered[:, i]).any() else None
        for i, name in enumerate(ensemble.branches)
    }
    return Evaluation(
        scores=score(probabilities, labels),
        branches={name: None if s is None else s.accuracy for name, s in branches.items()},
        branch_macro={
            name: None if s is None else s.macro_accuracy for name, s in branches.items()
        },
        left_out=dict(sorted(left_out.items())),
        probabilities=probabilities,
        branch_probabilities=each,
        labels=labels,
        cascade=None
        if ensemble.threshold is None
        else use_of(ensemble.stages, ensemble.threshold, each),
    )

"""What each box adds: the ensemble without it, measured on the same images."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from edge_stl.errors import UsageError
from edge_stl.fusion import score
from edge_stl.fusion.fitted import answers, votes_of
from edge_stl.predict import Evaluation
from exporter.ensemble import class_prior
from exporter.merge import Merged
from exporter.weighing import weigh


def without_each(merged: Merged, evaluation: Evaluation) -> list[dict[str, Any]]:
    """Leave every box out in turn, weigh the others anew, and score them.

    It is what ``merge --remove`` would give, from the branch probabilities that the whole ensemble
    already gave: no graph is built and no image read again.

    Args:
        merged: the whole ensemble.
        evaluation: of it.

    Returns:
        per box, by name: ``box``; ``accuracy`` and ``macro_accuracy`` of the ensemble without it;
        ``cost`` and ``macro_cost``, how much lower they are than with it, below 0 where the box
        does harm. All but the name are None where nobody is left, or the plan has no weight for
        those who are.
    """
    plan = merged.files[0].plan
    members = [f.manifest.member() for f in merged.files]
    prior, bias = np.array(class_prior(plan)), np.zeros(len(plan.classes))
    rows = []
    for box in sorted({f.manifest.box for f in merged.files}):
        kept = [i for i, f in enumerate(merged.files) if f.manifest.box != box]
        weights = _weights(merged, kept)
        if weights is None:
            rows.append(dict.fromkeys(_KEYS) | {"box": box})
            continue
        votes = votes_of(evaluation.branch_probabilities, members, weights)
        p = answers(votes, np.ones(len(members)), bias, prior=prior)
        scores = score(p, evaluation.labels)
        whole = evaluation.scores
        rows.append(
            {
                "box": box,
                "accuracy": scores.accuracy,
                "macro_accuracy": scores.macro_accuracy,
                "cost": whole.accuracy - scores.accuracy,
                "macro_cost": whole.macro_accuracy - scores.macro_accuracy,
            }
        )
    return rows


_KEYS = ("box", "accuracy", "macro_accuracy", "cost", "macro_cost")


def _weights(merged: Merged, kept: Sequence[int]) -> Any:
    """Return weights times a, ``(files, K)``, 0 for files not kept; None where there are none."""
    if not kept:
        return None
    try:
        found = weigh([merged.files[i] for i in kept], merged.options)
    except UsageError:  # the plan gives no weight to any of those who are left
        return None
    weights = np.zeros((len(merged.files), found.matrix.shape[1]))
    weights[list(kept)] = found.scale * found.matrix
    return weights

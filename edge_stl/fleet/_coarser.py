"""How good the ensembles for coarser cameras are: what `merge --resolution r` gives, measured."""

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_stl.errors import UsageError
from edge_stl.predict import Ensemble, evaluate
from exporter.merge import Merged, merge_files


SCORES = ("accuracy", "macro_accuracy", "log_loss", "ece")


def at_each_resolution(merged: Merged, test: Path) -> list[dict[str, Any]]:
    """Merge for every resolution below R that some branch carries, and score that ensemble.

    It is the real graph. The test images are area-averaged to r and rounded to 8 bits, as
    `Ensemble` does with any image that is larger than its input.

    Args:
        merged: the whole ensemble; its weight rule and options are kept.
        test: folder of labelled images.

    Returns:
        per resolution, finest first: ``resolution``, ``branches`` (how many files are in it) and
        the scores; these are None where the plan gives no weight to any of those files.
    """
    plan = merged.files[0].plan
    rows = []
    for resolution in plan.resolutions[1:]:
        fits = {branch.name for branch in plan.carried(resolution)}
        files = [f for f in merged.files if f.manifest.branch in fits]
        if not files:
            continue
        row: dict[str, Any] = {"resolution": resolution, "branches": len(files)}
        try:
            coarse = merge_files(files, options=replace(merged.options, resolution=resolution))
        except UsageError:  # the plan gives no weight to any of these
            rows.append(row | dict.fromkeys(SCORES))
            continue
        scores = evaluate(Ensemble(coarse.model), test).scores.to_dict()
        rows.append(row | {key: scores[key] for key in SCORES})
    return rows


def coarser_summary(results: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return mean and sample standard deviation over the seeds, a row per resolution.

    Args:
        results: those of the seeds; their ``resolutions`` count. Seeds in which no branch had a
            resolution, or none with a weight, do not.

    Returns:
        ``mean`` and ``std``; the spread of one seed is 0.
    """
    found: dict[int, list[dict[str, Any]]] = {}
    for result in results:
        for row in result["resolutions"]:
            if row["accuracy"] is not None:
                found.setdefault(row["resolution"], []).append(row)
    return {
        "mean": [
            {"resolution": r} | {k: statistics.fmean(row[k] for row in rows) for k in SCORES}
            for r, rows in sorted(found.items(), reverse=True)
        ],
        "std": [
            {"resolution": r}
            | {k: statistics.stdev([row[k] for row in rows]) if len(rows) > 1 else 0.0
               for k in SCORES}
            for r, rows in sorted(found.items(), reverse=True)
        ],
    }  # fmt: skip

"""What a simulation tells: rows of boxes, settings, mean and spread over the seeds."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_stl.fleet._coarser import coarser_summary
from edge_stl.fleet._settings import Simulation
from edge_stl.predict import Evaluation
from exporter.merge import Merged


def settings_document(what: Simulation, resolutions: Sequence[int]) -> dict[str, Any]:
    """Return the settings that say what kind of fleet this was."""
    return {
        "boxes": what.boxes,
        "resolutions": list(resolutions),
        "split": str(what.split),
        "share": what.share,
        "camera": str(what.camera),
    }


def box_rows(
    rows: Sequence[dict[str, Any]], merged: Merged, evaluation: Evaluation
) -> list[dict[str, Any]]:
    """Return what is told of every branch file.

    Args:
        rows: those of ``train --json``.
        merged: the ensemble of their files.
        evaluation: of the ensemble.
    """
    manifests = {f.manifest.id: f.manifest for f in merged.files}
    classes = merged.files[0].plan.classes
    told = []
    for row in rows:
        identity = f"{row['branch']}.{row['box']}"
        counts = manifests[identity].images.train
        told.append(
            {
                "box": row["box"],
                "branch": row["branch"],
                "native_resolution": row["native_resolution"],
                "images": row["images"],
                "class_images": dict(zip(classes, counts, strict=True)),
                "accuracy": evaluation.branches[identity],
                "macro_accuracy": evaluation.branch_macro[identity],
                "parameters": row["parameters"],
                "seconds": row["seconds"],
                "bytes": Path(row["file"]).stat().st_size,
            }
        )
    return told


def summary(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return mean and sample standard deviation over the seeds; 0 where there is one seed."""
    series: dict[str, list[float]] = {}
    for result in results:
        ensemble = result["ensemble"]
        for key in ("accuracy", "macro_accuracy", "log_loss", "ece"):
            series.setdefault(key, []).append(ensemble[key])
        best = max(row["accuracy"] for row in result["boxes"])
        series.setdefault("best_box", []).append(best)
        series.setdefault("gain", []).append(ensemble["accuracy"] - best)
        series.setdefault("seconds", []).append(sum(row["seconds"] for row in result["boxes"]))
        if result["centralized"] is not None:
            series.setdefault("centralized", []).append(result["centralized"]["accuracy"])
    coarser = coarser_summary(results)
    return {
        "mean": {key: statistics.fmean(values) for key, values in series.items()}
        | {"resolutions": coarser["mean"]},
        "std": {
            key: statistics.stdev(values) if len(values) > 1 else 0.0
            for key, values in series.items()
        }
        | {"resolutions": coarser["std"]},
    }

"""A whole fleet on one machine: deal, train every box by the real agent, merge, evaluate."""

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_stl.durable import write_durably
from edge_stl.errors import UsageError
from edge_stl.fleet._boxes import Box, train_boxes
from edge_stl.fleet._deal import deal, default_resolutions, hold_out, write_box
from edge_stl.images import ImageList, scan
from edge_stl.plan import Plan, plan_from_document, plan_toml
from edge_stl.predict import Ensemble, Evaluation, evaluate
from exporter.ensemble import Options
from exporter.merge import merge_paths


_TEST_SHARE = 0.2
CENTRALIZED = "centralized"


@dataclass(frozen=True)
class Simulation:
    """What to simulate.

    Attributes:
        plan: the plan.
        images: training images of the whole fleet.
        test: labelled test images; None holds out a fifth of ``images``.
        boxes: number of boxes.
        resolutions: native resolutions, given to the boxes in turn.
        branch: what each box trains: ``auto``, ``all`` or a name.
        weights: rule of the merge.
        centralized: also train one network of the same preset on all images at full resolution.
        seeds: number of repetitions; each deals, initializes and shuffles anew.
        epochs: instead of the plan's.
        jobs: boxes that train at a time.
        out: everything is kept under it.
    """

    plan: Plan
    images: Path
    out: Path
    test: Path | None = None
    boxes: int = 3
    resolutions: tuple[int, ...] = ()
    branch: str = "auto"
    weights: str = "reliability"
    centralized: bool = False
    seeds: int = 1
    epochs: int | None = None
    jobs: int = 1


def simulate(
    what: Simulation, *, progress: Callable[[str, int, int], None] | None = None
) -> dict[str, Any]:
    """Run a simulation; a stopped one goes on under the same ``out``.

    Args:
        what: the fleet.
        progress: called with the seed's name, boxes done and boxes in all.

    Returns:
        the document of ``simulate --json``.

    Raises:
        UsageError: the settings do not fit the plan, or ``out`` holds another simulation.
        EdgeStlError: a box failed.
    """
    resolutions = _checked_resolutions(what)
    images = scan(what.images, what.plan.classes)
    _claim(what, images, resolutions)
    results = []
    for seed in range(what.seeds):
        folder = what.out / f"seed{seed}"

        def told(done: int, total: int, name: str = folder.name) -> None:
            if progress is not None:
                progress(name, done, total)

        results.append(_one_seed(what, images, resolutions, seed, folder, told))
    document = {"seeds": results, **_summary(results)}
    write_durably(what.out / "results.json", json.dumps(document, indent=1).encode())
    return document


def _checked_resolutions(what: Simulation) -> tuple[int, ...]:
    chosen = what.resolutions or tuple(default_resolutions(what.plan))
    unknown = [r for r in chosen if r not in what.plan.resolutions]
    if unknown:
        raise UsageError(
            f"--resolutions {','.join(map(str, unknown))}: a box of this plan has one of "
            f"{', '.join(map(str, what.plan.resolutions))}"
        )
    if what.boxes < 1:
        raise UsageError(f"--boxes {what.boxes}: at least 1")
    return chosen


def _claim(what: Simulation, images: ImageList, resolutions: Sequence[int]) -> None:
    """Mark ``out`` as this simulation's, so that another one cannot mix with it."""
    facts = {
        "plan": what.plan.digest,
        "images": images.digest,
        "test": None if what.test is None else scan(what.test, what.plan.classes).digest,
        "boxes": what.boxes,
        "resolutions": list(resolutions),
        "branch": what.branch,
        "weights": what.weights,
        "epochs": what.epochs,
    }
    marker = what.out / "simulation.json"
    if marker.is_file():
        if marker.read_bytes() != json.dumps(facts).encode():
            raise UsageError(
                f"{what.out}: holds a simulation with other settings or images. Choose another "
                "-o, or delete it"
            )
        return
    if what.out.is_dir() and any(what.out.iterdir()):
        raise UsageError(f"{what.out}: is not empty. Choose another -o")
    what.out.mkdir(parents=True, exist_ok=True)
    write_durably(what.out / "plan.toml", plan_toml(what.plan).encode())
    write_durably(marker, json.dumps(facts).encode())


def _one_seed(
    what: Simulation,
    images: ImageList,
    resolutions: Sequence[int],
    seed: int,
    folder: Path,
    told: Callable[[int, int], None],
) -> dict[str, Any]:
    plan = what.plan
    everything = np.arange(len(images))
    train, test = everything, None
    if what.test is None:
        train, test = hold_out(images.labels, share=_TEST_SHARE, seed=seed)
    hands = [train[hand] for hand in deal(images.labels[train], boxes=what.boxes, seed=seed)]
    width = max(2, len(str(what.boxes)))
    boxes = [
        Box(
            name=f"box{i + 1:0{width}d}",
            images=folder / "boxes" / f"box{i + 1:0{width}d}",
            out=folder / "branches",
            work=folder / "work" / f"box{i + 1:0{width}d}",
            branch=what.branch,
            options=_train_options(what, seed),
        )
        for i in range(what.boxes)
    ]
    native = {box.name: resolutions[i % len(resolutions)] for i, box in enumerate(boxes)}
    for box, hand in zip(boxes, hands, strict=True):
        _once(plan, images, hand, native[box.name], box.images)
    test_folder = what.test
    if test is not None:
        test_folder = folder / "test"
        _once(plan, images, test, plan.input.resolution, test_folder)
    assert test_folder is not None  # noqa: S101  (given, or just written)
    total = len(boxes) + what.centralized
    told(0, total)
    finished = [0]

    def count(*_: object) -> None:
        finished[0] += 1
        told(finished[0], total)

    # A fine box has more pixels, and under `--branch all` more branches: it starts first.
    finest_first = sorted(boxes, key=lambda box: -native[box.name])
    trained = train_boxes(what.out / "plan.toml", finest_first, jobs=what.jobs, done=count)
    rows = sorted((row for rows in trained for row in rows), key=lambda row: str(row["box"]))
    merged = merge_paths([Path(row["file"]) for row in rows], options=Options(weights=what.weights))
    ensemble_path = folder / "ensemble.onnx"
    write_durably(ensemble_path, merged.model)
    evaluation = evaluate(Ensemble(ensemble_path), test_folder)
    central = None
    if what.centralized:
        central = _centralized(what, images, train, seed, folder, test_folder)
        count()
    return {
        "boxes": [_box_row(row, evaluation) for row in rows],
        "ensemble": {**evaluation.scores.to_dict(), "bytes": len(merged.model)},
        "centralized": central,
        "training_bytes": 0,
    }


def _train_options(what: Simulation, seed: int) -> tuple[str, ...]:
    """Return the arguments of ``edge-stl train`` that a repetition sets."""
    epochs = () if what.epochs is None else ("--epochs", str(what.epochs))
    return ("--seed", str(what.plan.training.seed + seed), *epochs)


def _once(
    plan: Plan, images: ImageList, index: NDArray[np.int64], resolution: int, folder: Path
) -> None:
    """Write a folder of images unless an earlier, stopped run did; files keep their times."""
    if folder.is_dir():
        return
    building = folder.with_name(f".{folder.name}.part")
    write_box(plan, images, index, resolution=resolution, folder=building)
    building.rename(folder)


def _box_row(row: dict[str, Any], evaluation: Evaluation) -> dict[str, Any]:
    identity = f"{row['branch']}.{row['box']}"
    return {
        "box": row["box"],
        "branch": row["branch"],
        "native_resolution": row["native_resolution"],
        "images": row["images"],
        "accuracy": evaluation.branches[identity],
        "macro_accuracy": evaluation.branch_macro[identity],
        "parameters": row["parameters"],
        "seconds": row["seconds"],
        "bytes": Path(row["file"]).stat().st_size,
    }


def centralized_plan(plan: Plan) -> Plan:
    """Return the plan of one network on the full image: the same preset on the one band ``cA0``."""
    document = plan.to_document()
    document["name"] = CENTRALIZED
    document["transform"] = {"kind": "wavelet", "wavelet": "haar", "levels": 0}
    network = plan.branches[-1].network
    document["branches"] = [{"name": "full", "bands": ["cA0"], "network": network}]
    document.get("fusion", {}).pop("weights", None)
    return plan_from_document(document, where="centralized plan")


def _centralized(
    what: Simulation,
    images: ImageList,
    train: NDArray[np.int64],
    seed: int,
    folder: Path,
    test: Path,
) -> dict[str, Any]:
    plan = centralized_plan(what.plan)
    plan_path = what.out / "centralized.toml"
    write_durably(plan_path, plan_toml(plan).encode())
    _once(plan, images, train, plan.input.resolution, folder / "boxes" / CENTRALIZED)
    box = Box(
        name=CENTRALIZED,
        images=folder / "boxes" / CENTRALIZED,
        out=folder / CENTRALIZED,
        work=folder / "work" / CENTRALIZED,
        options=_train_options(what, seed),
    )
    ((row,),) = train_boxes(plan_path, [box], jobs=1, threads=what.jobs)
    merged = merge_paths([Path(row["file"])], options=Options(weights="uniform"))
    path = folder / "centralized.onnx"
    write_durably(path, merged.model)
    scores = evaluate(Ensemble(path), test).scores
    return {
        "accuracy": scores.accuracy,
        "seconds": row["seconds"],
        "parameters": row["parameters"],
        "images": row["images"],
    }


def _summary(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
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
    return {
        "mean": {key: statistics.fmean(values) for key, values in series.items()},
        "std": {
            key: statistics.stdev(values) if len(values) > 1 else 0.0
            for key, values in series.items()
        },
    }

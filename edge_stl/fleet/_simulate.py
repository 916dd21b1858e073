"""A whole fleet on one machine: deal, train every box by the real agent, merge, evaluate."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_stl.durable import publish_folder, write_durably
from edge_stl.fleet._boxes import Box, train_boxes
from edge_stl.fleet._camera import BOX, Camera
from edge_stl.fleet._coarser import at_each_resolution
from edge_stl.fleet._deal import write_box
from edge_stl.fleet._engine import Engine, open_engine
from edge_stl.fleet._results import box_rows, settings_document, summary
from edge_stl.fleet._settings import (
    Dealt,
    Simulation,
    checked_resolutions,
    claim,
    dealt,
)
from edge_stl.fleet._without import without_each
from edge_stl.images import ImageList, scan
from edge_stl.plan import Plan, plan_from_document, plan_toml
from edge_stl.predict import Ensemble, evaluate
from exporter.merge import merge_paths
from exporter.options import Options


CENTRALIZED = "centralized"
_APART = 10_000  # between the seeds of two boxes: more than anybody repeats


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
    resolutions = checked_resolutions(what)
    opened = open_engine(what.engine, cpus=what.jobs, address=what.ray_address)
    images = scan(what.images, what.plan.classes)
    # Before anything is written or trained: a split that cannot be must not cost hours.
    deals = [dealt(what, images, seed) for seed in range(what.seeds)]
    opened = open_engine(what.engine, cpus=what.jobs, address=what.ray_address)
    claim(what, images, resolutions)
    results = []
    with opened as engine:
        for seed, deal in enumerate(deals):
            folder = what.out / f"seed{seed}"

            def told(done: int, total: int, name: str = folder.name) -> None:
                if progress is not None:
                    progress(name, done, total)

            results.append(_one_seed(what, images, deal, resolutions, seed, folder, engine, told))
    settings = settings_document(what, resolutions)
    document = {"settings": settings, "seeds": results, **summary(results)}
    write_durably(what.out / "results.json", json.dumps(document, indent=1).encode())
    return document


def _one_seed(
    what: Simulation,
    images: ImageList,
    deal: Dealt,
    resolutions: Sequence[int],
    seed: int,
    folder: Path,
    engine: Engine,
    told: Callable[[int, int], None],
) -> dict[str, Any]:
    plan = what.plan
    width = max(2, len(str(what.boxes)))
    boxes = [
        Box(
            name=f"box{i + 1:0{width}d}",
            images=folder / "boxes" / f"box{i + 1:0{width}d}",
            out=folder / "branches",
            work=folder / "work" / f"box{i + 1:0{width}d}",
            branch=what.branch,
            options=_train_options(what, seed, i),
        )
        for i in range(what.boxes)
    ]
    native = {box.name: resolutions[i % len(resolutions)] for i, box in enumerate(boxes)}
    for box, hand in zip(boxes, deal.hands, strict=True):
        _once(plan, images, hand, native[box.name], box.images, what.camera)
    test_folder = what.test
    if deal.test is not None:
        test_folder = folder / "test"
        _once(plan, images, deal.test, plan.input.resolution, test_folder)
    assert test_folder is not None  # noqa: S101  (given, or just written)
    total = len(boxes) + what.centralized
    told(0, total)
    finished = [0]

    def count(*_: object) -> None:
        finished[0] += 1
        told(finished[0], total)

    # A fine box has more pixels, and under `--branch all` more branches: it starts first.
    finest_first = sorted(boxes, key=lambda box: -native[box.name])
    trained = train_boxes(
        what.out / "plan.toml", finest_first, jobs=what.jobs, done=count, engine=engine
    )
    rows = sorted((row for rows in trained for row in rows), key=lambda row: str(row["box"]))
    # networks of the user's own were exported by this very command
    merged = merge_paths(
        [Path(row["file"]) for row in rows],
        options=Options(weights=what.weights),
        accept_graphs=True,
    )
    ensemble_path = folder / "ensemble.onnx"
    write_durably(ensemble_path, merged.model)
    evaluation = evaluate(Ensemble(ensemble_path), test_folder)
    central = None
    if what.centralized:
        central = _centralized(what, images, deal.train, seed, folder, test_folder, engine)
        count()
    return {
        "boxes": box_rows(rows, merged, evaluation),
        "ensemble": {**evaluation.scores.to_dict(), "bytes": len(merged.model)},
        "without": without_each(merged, evaluation),
        "resolutions": at_each_resolution(merged, test_folder),
        "centralized": central,
        "training_bytes": 0,
    }


def _train_options(what: Simulation, seed: int, box: int = 0) -> tuple[str, ...]:
    """Return the arguments of ``edge-stl train`` that a repetition sets."""
    epochs = () if what.epochs is None else ("--epochs", str(what.epochs))
    # Of the same images and the same seed two boxes would make the same network.
    own = _APART * box if what.share == "all" else 0
    return ("--seed", str(what.plan.training.seed + seed + own), *epochs)


def _once(
    plan: Plan,
    images: ImageList,
    index: NDArray[np.int64],
    resolution: int,
    folder: Path,
    camera: Camera = BOX,
) -> None:
    """Write a folder of images unless an earlier, stopped run did; files keep their times."""
    if folder.is_dir():
        return
    building = folder.with_name(f".{folder.name}.part")
    write_box(plan, images, index, resolution=resolution, folder=building, camera=camera)
    publish_folder(building, folder)


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
    engine: Engine,
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
    ((row,),) = train_boxes(plan_path, [box], jobs=1, threads=what.jobs, engine=engine)
    merged = merge_paths(
        [Path(row["file"])], options=Options(weights="uniform"), accept_graphs=True
    )
    path = folder / "centralized.onnx"
    write_durably(path, merged.model)
    scores = evaluate(Ensemble(path), test).scores
    return {
        "accuracy": scores.accuracy,
        "seconds": row["seconds"],
        "parameters": row["parameters"],
        "images": row["images"],
    }

"""MNIST by the paper's split: four branches, one per haar band, each on all training images.

Bands ``cA1 cH1 cV1 cD1`` of the 28 px digits, 14 x 14 each; four boxes that exchange nothing; the
merge by the paper's geometric weights. Prints the best branch and every weight rule beside it.
Hyperparameters and the rule were chosen with ``--select``, which holds out a sixth of the training
images and never reads the test split.
"""

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._common import guarded, parser, points, report
from benchmarks._data import image_folders
from edge_stl.durable import write_durably
from edge_stl.fleet._boxes import Box, train_boxes
from edge_stl.fusion import DATA_FREE, score
from edge_stl.fusion.fitted import answers, votes_of
from edge_stl.plan import Plan, new_plan, plan_from_document, plan_toml
from edge_stl.predict import Ensemble, evaluate
from exporter.merge import Merged, merge_paths
from exporter.options import Options


RULE = "geometric"
SELECT_SHARE = 6
PLAN = {"batch_size": 64, "validation": 0.03}


def make_plan(epochs: int, network: str) -> Plan:
    """Return the plan: one branch per band."""
    plan = new_plan(
        classes=[str(digit) for digit in range(10)],
        resolution=28,
        channels=1,
        levels=1,
        branches="single",
        network=network,
        name="mnist",
        epochs=epochs,
        shift=0.07,
        flip=False,
    )
    document = plan.to_document()
    document["training"] = document.get("training", {}) | PLAN
    return plan_from_document(document, where="mnist plan")


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--epochs", type=int, default=5)
    options.add_argument("--network", default="cnn-s")
    options.add_argument(
        "--select", action="store_true", help="measure on held-out training images"
    )
    chosen = options.parse_args()
    out = chosen.out or Path("runs") / ("mnist-select" if chosen.select else "mnist")
    began = time.monotonic()
    folders = image_folders("mnist", chosen.data, out.parent / "images" / "mnist")
    train, test = folders.train, folders.test
    if chosen.select:
        train, test = _selection(folders.train, out / "selection")
    plan = make_plan(chosen.epochs, chosen.network)
    out.mkdir(parents=True, exist_ok=True)
    plan_path = out / f"plan-{plan.digest[:8]}.toml"
    write_durably(plan_path, plan_toml(plan).encode())
    prepared = time.monotonic() - began
    seeds = []
    for seed in range(chosen.seeds):
        boxes = [
            Box(
                name=f"box-{branch.name}",
                images=train,
                out=out / f"{plan.digest[:8]}-seed{seed}",
                work=out / "work" / f"{plan.digest[:8]}-{branch.name}",
                branch=branch.name,
                options=("--seed", str(seed)),
            )
            for branch in plan.branches
        ]
        rows = [r for rows in train_boxes(plan_path, boxes, jobs=chosen.jobs) for r in rows]
        seeds.append(_evaluated(rows, test, out / f"{plan.digest[:8]}-seed{seed}"))
    wall = time.monotonic() - began
    _print(seeds, wall=wall, prepared=prepared, chosen=chosen)


def _evaluated(rows: list[dict[str, Any]], test: Path, folder: Path) -> dict[str, Any]:
    paths = [Path(row["file"]) for row in rows]
    merged = merge_paths(paths, options=Options(weights=RULE))
    path = folder / "ensemble.onnx"
    write_durably(path, merged.model)
    result = evaluate(Ensemble(path), test)
    rules = {
        rule: _fused(merged, result.branch_probabilities, result.labels, rule) for rule in DATA_FREE
    }
    return {
        "ensemble": result.scores.to_dict(),
        "branches": result.branches,
        "rules": rules,
        "seconds": {row["branch"]: row["seconds"] for row in rows},
        "parameters": rows[0]["parameters"],
        "bytes": len(merged.model),
    }


def _fused(merged: Merged, each: Any, labels: Any, rule: str) -> float:
    """Return the accuracy another rule would have had, by the oracle; nothing is chosen by it."""
    members = [f.manifest.member() for f in merged.files]
    votes = votes_of(each, members, DATA_FREE[rule](members))
    probabilities = answers(votes, np.ones(len(members)), np.zeros(each.shape[2]))
    return score(probabilities, labels).accuracy


def _selection(train: Path, folder: Path) -> tuple[Path, Path]:
    """Split the training images once into two folders: five sixths and one sixth."""
    if not folder.is_dir():
        building = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(building, ignore_errors=True)
        for path in sorted(train.rglob("*")):
            if path.is_file():
                held = int(path.stem) % SELECT_SHARE == 0
                target = building / ("test" if held else "train") / path.relative_to(train)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.hardlink_to(path)
        building.rename(folder)
    return folder / "train", folder / "test"


def _print(seeds: list[dict[str, Any]], *, wall: float, prepared: float, chosen: Any) -> None:
    ensemble = [s["ensemble"]["accuracy"] for s in seeds]
    best = [max(s["branches"].values()) for s in seeds]
    document = {
        "benchmark": "mnist",
        "selection": chosen.select,
        "rule": RULE,
        "seeds": seeds,
        "mean": {
            "ensemble": float(np.mean(ensemble)),
            "best_branch": float(np.mean(best)),
            **{rule: float(np.mean([s["rules"][rule] for s in seeds])) for rule in DATA_FREE},
        },
        "wall_seconds": wall,
    }
    lines = ["| what | accuracy % |", "|---|---|"]
    lines += [
        f"| branch {name} alone | {points([s['branches'][name] for s in seeds])} |"
        for name in seeds[0]["branches"]
    ]
    lines += [
        f"| ensemble, {rule} weights{' (the benchmark)' if rule == RULE else ''} | "
        f"{points([s['rules'][rule] for s in seeds])} |"
        for rule in sorted(DATA_FREE)
    ]
    seconds = sum(sum(s["seconds"].values()) for s in seeds) / len(seeds)
    lines += [
        "",
        f"{len(seeds)} seeds, {chosen.epochs} epochs, {chosen.network} "
        f"({seeds[0]['parameters']:,} parameters a branch), {seeds[0]['ensemble']['images']} test "
        f"images{' held out of the training split' if chosen.select else ''}; training "
        f"{seconds:.0f} core-seconds a seed, {wall / 60:.1f} minutes in all, {prepared:.0f} s of "
        f"them for image folders; ensemble file {seeds[0]['bytes']:,} bytes; 0 bytes exchanged.",
    ]
    report(document, lines, as_json=chosen.json)


if __name__ == "__main__":
    raise SystemExit(guarded(main))

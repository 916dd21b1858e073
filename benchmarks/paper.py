"""The paper's tables beside ours: one command per row.

    python -m benchmarks.paper mnist-fc-sub4 --epochs 10 --seeds 3

Every branch is a box of its own, trained by the agent on all images; the monolithic network reads
the full image, with the same layers, the same recipe and the same images, in the same run. The
fused accuracies are those of every weight rule; ``fitted`` learns weights and biases on training
images that neither the branches nor the monolith trained on. ``--select`` measures on a sixth of
the training images and never reads the test split: it is how settings were chosen.
"""

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks._common import append_results, guarded, parser, points, report
from benchmarks._data import image_folders
from benchmarks._paper_rows import ROWS, Row
from benchmarks._subsets import deal_parts
from edge_stl.durable import write_durably
from edge_stl.errors import DataError, UsageError
from edge_stl.fleet._boxes import Box, train_boxes
from edge_stl.fleet._simulate import centralized_plan
from edge_stl.fusion import DATA_FREE, calibration_scale, score
from edge_stl.fusion.fitted import answers, fit_weights, votes_of
from edge_stl.images import class_names
from edge_stl.plan import Plan, new_plan, plan_from_document, plan_toml
from edge_stl.predict import Ensemble, Evaluation, evaluate
from exporter.merge import Merged, merge_paths
from exporter.options import Options


SELECT_SHARE = 6
MONOLITH = "monolith"
MOST_BRANCH_BYTES = 400_000_000  # FC-8L on a CIFAR-10 image is 302 MB


@dataclass(frozen=True)
class Images:
    """Where the parts of the images are."""

    train: Path
    holdout: Path
    test: Path
    classes: tuple[str, ...]


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("row", choices=tuple(ROWS))
    options.add_argument("--epochs", type=int, help="by default 10; imagenet rows 30")
    options.add_argument("--images", type=int, help="training images; by default all")
    options.add_argument("--holdout", type=int, default=3000, help="images for the fitted weights")
    options.add_argument("--network", help="another preset than the row's")
    options.add_argument("--transform", help="another split than the row's")
    options.add_argument("--batch-size", type=int)
    options.add_argument("--learning-rate", type=float)
    options.add_argument("--device", default="cpu", help="cpu, cuda or auto")
    options.add_argument("--threads", type=int, default=1, help="torch threads of a process")
    options.add_argument(
        "--select", action="store_true", help="measure on held-out training images"
    )
    options.add_argument("--tnn", action="store_true", help="train a t-NN beside them (mnist rows)")
    options.add_argument("--append", action="store_true", help="append to docs/results.md")
    chosen = options.parse_args()
    row = ROWS[chosen.row]
    # Rows of one image set share the folder: a monolith that is trained is not trained again.
    out = chosen.out or Path("runs") / "paper" / row.data
    began = time.monotonic()
    images = _images(row, chosen, out)
    plans = _plans(row, images.classes, chosen)
    files = _train(plans, images, chosen, out)
    seeds = [_scored(rows, images) for rows in files]
    if chosen.tnn:
        _add_tnn(seeds, row, images, plans[0].training.epochs)
    _print(row, seeds, wall=time.monotonic() - began, chosen=chosen)


def _images(row: Row, chosen: Any, out: Path) -> Images:
    if row.data == "folders":
        if not all((chosen.data / split).is_dir() for split in ("train", "test")):
            raise DataError(
                f"{chosen.data}: expected train/ and test/ with class folders. Name the folder of "
                "your ImageNet-like set with --data"
            )
        train, test = chosen.data / "train", chosen.data / "test"
        classes = tuple(class_names(train))
    else:
        folders = image_folders(row.data, chosen.data, Path("runs") / "images" / row.data)
        train, test, classes = folders.train, folders.test, folders.classes
    total = sum(1 for path in train.rglob("*") if path.is_file())
    parts: dict[str, int | None] = {"holdout": chosen.holdout}
    if chosen.select:
        parts["select"] = total // SELECT_SHARE
    parts["train"] = chosen.images
    name = "-".join(f"{part}{count or ''}" for part, count in parts.items())
    dealt = deal_parts(train, out / "images" / name, parts)
    return Images(dealt["train"], dealt["holdout"], dealt.get("select", test), classes)


def _plans(row: Row, classes: Sequence[str], chosen: Any) -> tuple[Plan, Plan]:
    """Return the plan of the branches and that of the monolithic network."""
    plan = new_plan(
        classes=classes,
        resolution=row.resolution,
        channels=row.channels,
        transform=chosen.transform or row.transform,
        levels=None if ":" in (chosen.transform or row.transform) else 1,
        branches="single",
        network=chosen.network or row.network,
        name="paper",
        epochs=chosen.epochs or row.epochs,
        shift=row.shift,
        flip=row.flip,
    )
    document = plan.to_document()
    changes = {"batch_size": chosen.batch_size, "learning_rate": chosen.learning_rate}
    document["training"] = (
        document.get("training", {})
        | row.training
        | {key: value for key, value in changes.items() if value is not None}
    )
    document["limits"] = {"max_branch_bytes": MOST_BRANCH_BYTES}
    plan = plan_from_document(document, where="paper plan")
    return plan, centralized_plan(plan)


def _train(
    plans: tuple[Plan, Plan], images: Images, chosen: Any, out: Path
) -> list[list[dict[str, Any]]]:
    """Train every box with every seed; per seed the rows of the agent, the monolith's first.

    A box goes through its seeds one after the other, so its images are decoded once.
    """
    paths = []
    for plan in plans:
        paths.append(out / f"plan-{plan.digest[:8]}.toml")
        write_durably(paths[-1], plan_toml(plan).encode())
    branches, monolith = plans
    # The monolith first: it has the most work, and nobody waits for it in the end.
    jobs = [(paths[1], monolith, monolith.branches[0].name, MONOLITH)]
    jobs += [(paths[0], branches, b.name, f"box-{b.name}") for b in branches.branches]

    def train_seeds(job: tuple[Path, Plan, str, str]) -> list[dict[str, Any]]:
        path, plan, branch, name = job
        key = f"{plan.digest[:8]}-{images.train.parent.name}"
        found = []
        for seed in range(chosen.seeds):
            box = Box(
                name=name,
                images=images.train,
                out=out / f"{key}-seed{seed}",
                work=out / "work" / f"{key}-{branch}",
                branch=branch,
                options=("--seed", str(seed), "--device", chosen.device),
            )
            # A work folder keeps the last seed alone; what was trained here before is not again.
            kept = box.out / f"{branch}.{name}.json"
            if not kept.is_file():
                ((row,),) = train_boxes(path, [box], jobs=1, threads=chosen.threads)
                write_durably(kept, json.dumps(row).encode())
            found.append(json.loads(kept.read_text()))
        return found

    with ThreadPoolExecutor(max_workers=chosen.jobs) as pool:
        per_box = list(pool.map(train_seeds, jobs))
    return [[rows[seed] for rows in per_box] for seed in range(chosen.seeds)]


def _add_tnn(seeds: list[dict[str, Any]], row: Row, images: Images, epochs: int) -> None:
    """Train the non-separable comparison with every seed."""
    from benchmarks._tnn import train_tnn

    if row.data != "mnist":
        raise UsageError("--tnn: the t-NN reads grey images; use it with a mnist row")
    for seed, result in enumerate(seeds):
        result["tnn"] = asdict(
            train_tnn(
                images.train,
                images.test,
                images.classes,
                size=row.resolution,
                epochs=epochs,
                seed=seed,
            )
        )


def _scored(rows: list[dict[str, Any]], images: Images) -> dict[str, Any]:
    monolith, *boxes = rows
    alone = _evaluated([monolith], images.test)[1]
    merged, result = _evaluated(boxes, images.test)
    rules = {rule: _fused(merged, result, DATA_FREE[rule]) for rule in DATA_FREE}
    held = _evaluated(boxes, images.holdout)[1]
    members = [f.manifest.member() for f in merged.files]
    weights = DATA_FREE["reliability"](members)
    start = calibration_scale(weights) * weights
    fit = fit_weights(held.branch_probabilities, held.labels, members, start=start)
    rules["fitted"] = _accuracy(merged, result, fit.weights[:, None] * start, fit.bias)
    return {
        "monolith": alone.scores.accuracy,
        "branches": result.branches,
        "rules": rules,
        "fitted_factors": dict(zip(result.branches, fit.weights.round(4).tolist(), strict=True)),
        "seconds": {row["branch"]: row["seconds"] for row in boxes},
        "monolith_seconds": monolith["seconds"],
        "parameters": max(row["parameters"] for row in boxes),
        "monolith_parameters": monolith["parameters"],
        "images": boxes[0]["images"],
        "tested": result.scores.images,
    }


def _evaluated(rows: list[dict[str, Any]], folder: Path) -> tuple[Merged, Evaluation]:
    paths = [Path(row["file"]) for row in rows]
    merged = merge_paths(paths, options=Options(weights="reliability"))
    name = "monolith" if len(rows) == 1 else "ensemble"
    path = paths[0].parent / f"{name}.onnx"
    write_durably(path, merged.model)
    return merged, evaluate(Ensemble(path), folder)


def _fused(merged: Merged, result: Evaluation, rule: Any) -> float:
    return _accuracy(merged, result, rule([f.manifest.member() for f in merged.files]))


def _accuracy(
    merged: Merged,
    result: Evaluation,
    weights: NDArray[np.float64],
    bias: NDArray[np.float64] | float = 0.0,
) -> float:
    """Return the accuracy with these weights, by the fusion's own oracle."""
    members = [f.manifest.member() for f in merged.files]
    votes = votes_of(result.branch_probabilities, members, weights)
    p = answers(votes, np.ones(len(members)), np.asarray(bias))
    return score(p, result.labels).accuracy


def _print(row: Row, seeds: list[dict[str, Any]], *, wall: float, chosen: Any) -> None:
    first = seeds[0]
    rules = list(first["rules"])
    document = {
        "benchmark": "paper",
        "row": chosen.row,
        "selection": chosen.select,
        "published": row.published,
        "seeds": seeds,
        "mean": {
            "monolith": float(np.mean([s["monolith"] for s in seeds])),
            "best_branch": float(np.mean([max(s["branches"].values()) for s in seeds])),
            **{rule: float(np.mean([s["rules"][rule] for s in seeds])) for rule in rules},
        },
        "wall_seconds": wall,
    }
    lines = ["| what | accuracy % |", "|---|---|"]
    lines += [
        f"| published, {row.published_epochs} epochs: {name} | {value:.2f} |"
        for name, value in row.published.items()
    ]
    lines.append(f"| monolithic network of this run | {points([s['monolith'] for s in seeds])} |")
    if "tnn" in first:
        lines.append(
            f"| t-NN of this run, {first['tnn']['parameters']:,} parameters | "
            f"{points([s['tnn']['accuracy'] for s in seeds])} |"
        )
    if len(first["branches"]) <= 4:  # noqa: PLR2004  (sixteen rows would hide the others)
        lines += [
            f"| branch {name} alone | {points([s['branches'][name] for s in seeds])} |"
            for name in first["branches"]
        ]
    lines.append(f"| best branch | {points([max(s['branches'].values()) for s in seeds])} |")
    lines += [
        f"| fused, {rule} weights | {points([s['rules'][rule] for s in seeds])} |" for rule in rules
    ]
    seconds = [np.mean(list(s["seconds"].values())) for s in seeds]
    total = [sum(s["seconds"].values()) for s in seeds]
    lines += [
        "",
        f"{len(seeds)} seeds, {chosen.epochs or row.epochs} epochs, "
        f"{chosen.network or row.network}, {chosen.transform or row.transform}: "
        f"{len(first['branches'])} boxes with {first['parameters']:,} parameters each (monolith "
        f"{first['monolith_parameters']:,}); {first['images']:,} training images, "
        f"{chosen.holdout:,} more for the fitted weights, {first['tested']:,} "
        f"{'held out of the training split' if chosen.select else 'test images'}. Training "
        f"{np.mean(seconds):.0f} s per box, {np.mean(total):.0f} s all boxes of a seed, "
        f"{np.mean([s['monolith_seconds'] for s in seeds]):.0f} s the monolith "
        f"({chosen.device}, {chosen.threads} thread(s) each, {chosen.jobs} processes at a time); "
        f"{wall / 60:.1f} minutes in all; 0 bytes exchanged. {row.note}".rstrip(),
    ]
    report(document, lines, as_json=chosen.json)
    if chosen.append:
        append_results(f"Paper row {chosen.row}", lines)


if __name__ == "__main__":
    raise SystemExit(guarded(main))

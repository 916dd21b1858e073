"""roadside64, a real fleet: three boxes with cameras of 16, 32 and 64 px on disjoint images.

Every box trains its own bands only (``cA2``; ``cH2 cV2 cD2``; ``cH1 cV1 cD1``), or with ``--branch
all`` every branch its resolution carries (and the ensemble of the own bands is merged from the same
files and measured beside it); ``--centralized`` trains one network of the same preset
on all images at full resolution beside them. Hyperparameters were chosen with ``--select``, which
holds out a fifth of the training images and never reads the test split.
"""

import time
from pathlib import Path
from typing import Any

from benchmarks._common import append_results, guarded, parser, points, report
from benchmarks._data import image_folders
from edge_stl.durable import write_durably
from edge_stl.fleet._settings import Simulation
from edge_stl.fleet._simulate import simulate
from edge_stl.plan import Plan, new_plan
from edge_stl.predict import Ensemble, evaluate
from exporter.merge import merge_paths
from exporter.options import Options


RESOLUTIONS = (16, 32, 64)


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--epochs", type=int, default=30)
    options.add_argument("--network", default="cnn-m")
    options.add_argument("--branches", default="detail", choices=("single", "detail", "context"))
    options.add_argument("--branch", default="auto", help="auto, or all")
    options.add_argument("--transform", default="haar")
    options.add_argument("--centralized", action="store_true")
    options.add_argument(
        "--select", action="store_true", help="measure on held-out training images"
    )
    options.add_argument("--append", action="store_true", help="append to docs/results.md")
    chosen = options.parse_args()
    parts = ["roadside", chosen.transform.replace(":", ""), chosen.branches, chosen.branch]
    parts += [chosen.network, str(chosen.epochs), "select" * chosen.select]
    parts += ["central" * chosen.centralized]
    out = chosen.out or Path("runs") / "-".join(filter(None, parts))
    began = time.monotonic()
    folders = image_folders("roadside64", chosen.data, Path("runs") / "images" / "roadside64")
    plan = new_plan(
        classes=folders.classes,
        resolution=64,
        transform=chosen.transform,
        branches=chosen.branches,
        network=chosen.network,
        name="roadside",
        epochs=chosen.epochs,
    )
    document = simulate(
        Simulation(
            plan=plan,
            images=folders.train,
            test=None if chosen.select else folders.test,
            boxes=len(RESOLUTIONS),
            resolutions=RESOLUTIONS,
            branch=chosen.branch,
            centralized=chosen.centralized,
            seeds=chosen.seeds,
            jobs=chosen.jobs,
            out=out,
        )
    )
    document = {"benchmark": "roadside", "selection": chosen.select, **document}
    if chosen.branch == "all":
        for seed, result in enumerate(document["seeds"]):
            folder = out / f"seed{seed}"
            test = folder / "test" if chosen.select else folders.test
            result["own_bands"] = _own_bands(plan, result["boxes"], folder, test)
    _print(document, wall=time.monotonic() - began, chosen=chosen)


def _own_bands(plan: Plan, boxes: list[dict[str, Any]], folder: Path, test: Path) -> dict[str, Any]:
    """Return the scores of the ensemble of what ``--branch auto`` would have trained."""
    files = [
        folder / "branches" / f"{row['branch']}.{row['box']}.onnx"
        for row in boxes
        if row["branch"] in [branch.name for branch in plan.own(row["native_resolution"])]
    ]
    path = folder / "own-bands.onnx"
    write_durably(path, merge_paths(files, options=Options()).model)
    return evaluate(Ensemble(path), test).scores.to_dict()


def _print(document: dict[str, Any], *, wall: float, chosen: Any) -> None:
    seeds = document["seeds"]
    lines = ["| what | accuracy % |", "|---|---|"]
    for index, row in enumerate(seeds[0]["boxes"]):
        name = f"{row['box']}, {row['native_resolution']} px, branch {row['branch']} alone"
        lines.append(f"| {name} | {points([s['boxes'][index]['accuracy'] for s in seeds])} |")
    best = [max(row["accuracy"] for row in s["boxes"]) for s in seeds]
    ensemble = [s["ensemble"]["accuracy"] for s in seeds]
    lines.append(f"| best box | {points(best)} |")
    own = [s["own_bands"]["accuracy"] for s in seeds if "own_bands" in s]
    if own:
        lines.append(f"| ensemble of the own bands alone | {points(own)} |")
    lines.append(f"| **ensemble** | **{points(ensemble)}** |")
    gains = [e - b for e, b in zip(ensemble, best, strict=True)]
    lines.append(f"| gain over the best box, points | {points(gains)} |")
    if seeds[0]["centralized"] is not None:
        lines.append(
            "| centralized: one network, all images, full resolution | "
            f"{points([s['centralized']['accuracy'] for s in seeds])} |"
        )
        central = [s["centralized"]["accuracy"] for s in seeds]
        shares = [e / c for e, c in zip(ensemble, central, strict=True)]
        lines.append(f"| ensemble, share of centralized | {points(shares)} |")
        if own:
            shares = [e / c for e, c in zip(own, central, strict=True)]
            lines.append(f"| ensemble of the own bands, share of centralized | {points(shares)} |")
    total = sum(sum(r["seconds"] for r in s["boxes"]) for s in seeds) / len(seeds)
    first = seeds[0]["ensemble"]
    parameters = sum(row["parameters"] for row in seeds[0]["boxes"])
    lines += [
        "",
        f"{len(seeds)} seeds, {chosen.epochs} epochs, {chosen.network} ({parameters:,} parameters "
        f"in all), {first['images']} test images"
        f"{' held out of the training split' if chosen.select else ''}; training {total:.0f} "
        f"core-seconds a seed, {wall / 60:.1f} minutes in all; ensemble file {first['bytes']:,} "
        f"bytes, log-loss {document['mean']['log_loss']:.3f}, calibration error "
        f"{100 * document['mean']['ece']:.1f} %; 0 bytes exchanged in training.",
    ]
    if seeds[0]["centralized"] is not None:
        one = seeds[0]["centralized"]
        lines.append(
            f"Centralized: {one['parameters']:,} parameters, {one['seconds']:.0f} s with "
            f"{chosen.jobs} threads."
        )
    report(document, lines, as_json=chosen.json)
    if chosen.append:
        append_results("roadside64, a real fleet", lines)


if __name__ == "__main__":
    raise SystemExit(guarded(main))

"""roadside64, a real fleet: three boxes with cameras of 16, 32 and 64 px on disjoint images.

Every box trains its own bands only (``cA2``; ``cH2 cV2 cD2``; ``cH1 cV1 cD1``), or with ``--branch
all`` every branch its resolution carries; ``--centralized`` trains one network of the same preset
on all images at full resolution beside them. Hyperparameters were chosen with ``--select``, which
holds out a fifth of the training images and never reads the test split.
"""

import time
from pathlib import Path
from typing import Any

from benchmarks._common import guarded, parser, points, report
from benchmarks._data import image_folders
from edge_stl.fleet._settings import Simulation
from edge_stl.fleet._simulate import simulate
from edge_stl.plan import new_plan


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
    _print(document, wall=time.monotonic() - began, chosen=chosen)


def _print(document: dict[str, Any], *, wall: float, chosen: Any) -> None:
    seeds = document["seeds"]
    lines = ["| what | accuracy % |", "|---|---|"]
    for index, row in enumerate(seeds[0]["boxes"]):
        name = f"{row['box']}, {row['native_resolution']} px, branch {row['branch']} alone"
        lines.append(f"| {name} | {points([s['boxes'][index]['accuracy'] for s in seeds])} |")
    best = [max(row["accuracy"] for row in s["boxes"]) for s in seeds]
    ensemble = [s["ensemble"]["accuracy"] for s in seeds]
    lines.append(f"| best box | {points(best)} |")
    lines.append(f"| **ensemble** | **{points(ensemble)}** |")
    gains = [e - b for e, b in zip(ensemble, best, strict=True)]
    lines.append(f"| gain over the best box, points | {points(gains)} |")
    if seeds[0]["centralized"] is not None:
        lines.append(
            "| centralized: one network, all images, full resolution | "
            f"{points([s['centralized']['accuracy'] for s in seeds])} |"
        )
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
        central = seeds[0]["centralized"]
        lines.append(
            f"Centralized: {central['parameters']:,} parameters, {central['seconds']:.0f} s with "
            f"{chosen.jobs} threads."
        )
    report(document, lines, as_json=chosen.json)


if __name__ == "__main__":
    raise SystemExit(guarded(main))

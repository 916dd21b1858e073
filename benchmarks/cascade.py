"""A cascade on roadside64: accuracy against multiply-adds and milliseconds of an image.

Three boxes with cameras of 16, 32 and 64 px on disjoint images train every branch their resolution
carries. The branch of the coarsest band has a small network, the finer ones a larger one: a cascade
saves what it need not ask, so the coarse answer must be cheap. The threshold is chosen on training
images that no box sees. Networks and branches were chosen with ``--select``, which measures on
further training images and never reads the test split.

Milliseconds are those of one thread, image by image. All rows take turns at every image; a pass
over the images gives each row its mean, and the table has the median of the passes.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks._common import append_results, guarded, parser, points, report
from benchmarks._data import image_folders
from benchmarks._subsets import deal_parts
from edge_stl.durable import write_durably
from edge_stl.fleet._settings import Simulation
from edge_stl.fleet._simulate import simulate
from edge_stl.images import scan
from edge_stl.plan import Plan, new_plan, plan_from_document
from edge_stl.predict import Ensemble
from edge_stl.predict._cascade import use_of
from exporter.merge import merge_paths
from exporter.options import Options


RESOLUTIONS = (16, 32, 64)
THRESHOLDS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
TIMED_IMAGES = 100
PASSES = 15

FULL, CHOSEN = "all branches, no cascade", "cascade, threshold from the holdout"


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--epochs", type=int, default=30)
    options.add_argument("--coarse", default="cnn-s", help="network of the coarsest band")
    options.add_argument("--fine", default="cnn-m", help="network of the other branches")
    options.add_argument("--branches", default="context", choices=("single", "detail", "context"))
    options.add_argument("--holdout", type=int, default=500, help="images for the threshold")
    options.add_argument("--loss", type=float, default=0.003, help="accuracy it may lose there")
    options.add_argument(
        "--select", action="store_true", help="measure on held-out training images"
    )
    options.add_argument("--append", action="store_true", help="append to docs/results.md")
    chosen = options.parse_args()
    began = time.monotonic()
    folders = image_folders("roadside64", chosen.data, Path("runs") / "images" / "roadside64")
    parts: dict[str, int | None] = {"holdout": chosen.holdout}
    if chosen.select:
        parts["select"] = 800
    parts["train"] = None
    name = "-".join(f"{part}{count or ''}" for part, count in parts.items())
    dealt = deal_parts(folders.train, Path("runs") / "cascade-images" / name, parts)
    test = dealt.get("select", folders.test)
    kind = ["cascade", chosen.branches, chosen.coarse, chosen.fine, str(chosen.epochs)]
    out = chosen.out or Path("runs") / "-".join([*kind, name])
    trained = simulate(
        Simulation(
            plan=_plan(folders.classes, chosen),
            images=dealt["train"],
            test=test,
            boxes=len(RESOLUTIONS),
            resolutions=RESOLUTIONS,
            branch="all",
            centralized=False,
            seeds=chosen.seeds,
            jobs=chosen.jobs,
            out=out,
        )
    )
    seeds = [
        _measured(out / f"seed{s}", dealt["holdout"], test, chosen) for s in range(chosen.seeds)
    ]
    seconds = sum(row["seconds"] for s in trained["seeds"] for row in s["boxes"]) / chosen.seeds
    _print(seeds, seconds=seconds, wall=time.monotonic() - began, chosen=chosen)


def _plan(classes: tuple[str, ...], chosen: Any) -> Plan:
    document = new_plan(
        classes=classes,
        resolution=max(RESOLUTIONS),
        branches=chosen.branches,
        network=chosen.fine,
        name="cascade",
        epochs=chosen.epochs,
    ).to_document()
    document["branches"][0]["network"] = chosen.coarse
    return plan_from_document(document, where="cascade plan")


def _measured(folder: Path, holdout: Path, test: Path, chosen: Any) -> dict[str, Any]:
    """Merge a seed's branch files both ways and measure them on the same images."""
    files = sorted((folder / "branches").glob("*.onnx"))
    plain = merge_paths(files, options=Options())
    gated = merge_paths(files, options=Options(cascade_loss=chosen.loss), holdout=holdout)
    write_durably(folder / "cascade.onnx", gated.model)
    full, cascade = (Ensemble(m.model, threads=1) for m in (plain, gated))
    full.batch_size = 1  # both alike: image by image
    images = scan(test, full.classes)
    pixels = np.stack([full.prepare(images.path(i)) for i in range(len(images))])
    given = cascade.threshold
    rows = {FULL: None, CHOSEN: given, **{f"cascade, threshold {t:g}": t for t in THRESHOLDS}}
    scored = {}
    for name, threshold in rows.items():
        if threshold is None:
            p, share = full.run(pixels)[0], 1.0
        else:
            cascade.threshold = threshold
            p, each = cascade.run(pixels)
            use = use_of(cascade.stages, threshold, each)
            share = use.multiply_adds / use.multiply_adds_full
        right = float((p.argmax(axis=1) == images.labels).mean())
        scored[name] = {"accuracy": right, "share": share}
    for name, ms in _milliseconds(full, cascade, rows, pixels).items():
        scored[name]["ms"] = ms
    return {
        "rows": scored,
        "threshold": given,
        "images": len(images),
        "stages": [
            {"resolution": stage.resolution, "multiply_adds": stage.multiply_adds}
            for stage in cascade.stages
        ],
    }


def _milliseconds(
    full: Ensemble,
    cascade: Ensemble,
    rows: dict[str, float | None],
    pixels: NDArray[np.uint8],
) -> dict[str, float]:
    """Return the milliseconds of an image per row: median over passes of the pass's mean."""
    step = max(1, len(pixels) // TIMED_IMAGES)  # the folder is in class order: from every class
    some = pixels[::step][:TIMED_IMAGES]
    passes: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(PASSES):
        spent = dict.fromkeys(rows, 0.0)
        for i in range(len(some)):
            for name, threshold in rows.items():
                model = full
                if threshold is not None:
                    model = cascade
                    cascade.threshold = threshold
                began = time.perf_counter()
                model.run(some[i : i + 1])
                spent[name] += time.perf_counter() - began
        for name, seconds in spent.items():
            passes[name].append(1000 * seconds / len(some))
    return {name: float(np.median(times)) for name, times in passes.items()}


def _print(seeds: list[dict[str, Any]], *, seconds: float, wall: float, chosen: Any) -> None:
    def of(name: str, key: str) -> list[float]:
        return [float(s["rows"][name][key]) for s in seeds]

    lines = [
        "| what | accuracy % | against all branches, points | multiply-adds % | ms an image | "
        "ms, ratio |",
        "|---|---|---|---|---|---|",
    ]
    full, slow = of(FULL, "accuracy"), of(FULL, "ms")
    for name in seeds[0]["rows"]:
        change = [a - b for a, b in zip(of(name, "accuracy"), full, strict=True)]
        ratio = [a / b for a, b in zip(of(name, "ms"), slow, strict=True)]
        lines.append(
            f"| {name} | {points(of(name, 'accuracy'))} | {points(change)} | "
            f"{points(of(name, 'share'))} | {np.mean(of(name, 'ms')):.2f} | {np.mean(ratio):.2f} |"
        )
    stages = ", ".join(
        f"{s['resolution']} px {s['multiply_adds'] / 1e6:.1f} M" for s in seeds[0]["stages"]
    )
    lines += [
        "",
        f"{len(seeds)} seeds, {chosen.epochs} epochs, {chosen.branches} branches, {chosen.coarse} "
        f"for the coarsest band and {chosen.fine} for the others; multiply-adds of the stages: "
        f"{stages}. {seeds[0]['images']} "
        f"{'images held out of the training split' if chosen.select else 'test images'}; "
        f"{chosen.holdout} training images that no box saw for the threshold, {chosen.loss:g} "
        f"allowed to be lost there: thresholds "
        f"{', '.join(format(s['threshold'], 'g') for s in seeds)}. Training {seconds:.0f} "
        f"core-seconds a seed, {wall / 60:.1f} minutes in all.",
    ]
    report(
        {"benchmark": "cascade", "selection": chosen.select, "seeds": seeds},
        lines,
        as_json=chosen.json,
    )
    if chosen.append:
        append_results("A cascade on roadside64", lines)


if __name__ == "__main__":
    raise SystemExit(guarded(main))

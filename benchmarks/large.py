"""Images too large for memory: does the peak of a box grow with the number of its images?

Photographs of 500 x 400 px, made from numbers, are fitted to ``--side`` pixels and trained on by
the real agent with one branch per band of the paper's polyphase DCT: 36 of 56 x 56 from 336 px, or
4 of 112 x 112 from 224 px. For every count of images: one agent from nothing to its branch files,
one merge, one prediction, each in a fresh process whose peak memory is read. What is measured is
kept in ``--out`` and not measured again; an agent that was stopped goes on.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks._common import COMMIT, guarded, parser, report
from benchmarks._fresh import fresh
from benchmarks._photos import class_names, write_photos
from edge_stl.durable import make_folder, write_durably
from edge_stl.errors import UsageError
from edge_stl.plan import Plan, new_plan, plan_from_document, plan_toml


PREDICTED = 8  # images
_SIDES = {36: 336, 4: 224}  # the paper's


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--images", default="500,2000", help="counts (default %(default)s)")
    options.add_argument("--bands", type=int, default=36, help="a square, 4 to 81 (default 36)")
    options.add_argument("--side", type=int, help="R (default: 336 for 36 bands, 224 for 4)")
    options.add_argument("--branches", type=int, help="train the first so many only")
    options.add_argument("--classes", type=int, default=10)
    options.add_argument("--network", default="cnn-xs")
    options.add_argument("--epochs", type=int, default=1)
    options.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")
    chosen = options.parse_args()
    plan, counts = _plan(chosen), _counts(chosen.images)
    out = chosen.out or Path("runs") / "large"
    rows = [_row(count, plan, out, chosen) for count in counts]
    document = {"benchmark": "large", "threads": chosen.threads, "rows": rows}
    report(document, table(rows, plan, threads=chosen.threads), as_json=chosen.json)


def _counts(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--images {text}: expected numbers like 500,2000") from None
    if min(counts) < 1:
        raise UsageError(f"--images {text}: expected numbers above 0")
    return counts


def _plan(chosen: argparse.Namespace) -> Plan:
    block = round(chosen.bands**0.5)
    if block**2 != chosen.bands:
        raise UsageError(f"--bands {chosen.bands}: expected a square like 4 or 36")
    side = chosen.side or _SIDES.get(chosen.bands)
    if side is None:
        raise UsageError(f"--bands {chosen.bands}: give --side, a multiple of {block}")
    plan = new_plan(
        classes=class_names(chosen.classes),
        resolution=side,
        transform=f"stl-dct:{block}",
        branches="single",
        network=chosen.network,
        epochs=chosen.epochs,
        name="large",
    )
    if chosen.branches is None:
        return plan
    if chosen.branches < 1:
        raise UsageError(f"--branches {chosen.branches}: expected 1 or more")
    document = plan.to_document()
    document["branches"] = document["branches"][: chosen.branches]
    return plan_from_document(document, where=f"--branches {chosen.branches}")


def _row(count: int, plan: Plan, out: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    """Measure everything at one count of images, or take what was measured before."""
    side = plan.input.resolution
    images = out / "photos" / f"{side}px-{chosen.classes}-classes-{count}"
    folder = out / f"{plan.digest[:12]}-{chosen.threads}-threads" / str(count)
    done = folder / "row.json"
    if done.is_file():
        row: dict[str, Any] = json.loads(done.read_text())
        return row
    make_folder(folder)
    weight = write_photos(images, count=count, classes=chosen.classes, side=side)
    write_durably(folder / "plan.toml", plan_toml(plan).encode())
    # one process after the other: nothing else of this benchmark takes time or memory from it
    trained, peak = fresh(
        "benchmarks._stages:agent",
        plan=str(folder / "plan.toml"),
        images=str(images),
        out=str(folder / "files"),
        work=str(folder / "work"),
        record=str(folder / "parts.jsonl"),
        threads=chosen.threads,
    )
    ensemble = folder / "ensemble.onnx"
    merged, merge_peak = fresh(
        "benchmarks._stages:merge",
        files=[branch["file"] for branch in trained["rows"]],
        ensemble=str(ensemble),
    )
    first = sorted(images.rglob("*.jpg"))[:PREDICTED]
    answered, predict_peak = fresh(
        "benchmarks._stages:predict", ensemble=str(ensemble), images=[str(p) for p in first]
    )
    (cache,) = (folder / "work" / "images").glob("*.u8")
    row = {
        "commit": COMMIT,
        "images": count,
        "image_bytes": weight,
        "cache_bytes": cache.stat().st_size,
        "train": trained | {"peak_mb": max(peak, trained["peak_mb"])},
        "merge": merged | {"peak_mb": merge_peak},
        "predict": answered | {"peak_mb": predict_peak},
    }
    write_durably(done, json.dumps(row).encode())
    return row


def table(rows: list[dict[str, Any]], plan: Plan, *, threads: int) -> list[str]:
    """Return the lines for ``docs/results.md``."""
    lines = [
        "| images | JPEG MB | cache MB | reading s | peak MB, reading | training s a branch | "
        "peak MB, first branch | peak MB, all branches |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        train = row["train"]
        seconds = statistics.median(branch["seconds"] for branch in train["rows"])
        lines.append(
            f"| {row['images']} | {row['image_bytes'] / 1e6:.0f} | {row['cache_bytes'] / 1e6:.0f} "
            f"| {train['build_seconds']:.1f} | {train['build_peak_mb']:.0f} | {seconds:.2f} | "
            f"{train['rows'][0]['peak_rss_mb']:.0f} | {train['peak_mb']:.0f} |"
        )
    lines += [
        "",
        "| images | ensemble bytes | merge s | peak MB, merge | predict ms an image | "
        "peak MB, predict |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        merge, predict = row["merge"], row["predict"]
        lines.append(
            f"| {row['images']} | {merge['bytes']:,} | {merge['seconds']:.1f} | "
            f"{merge['peak_mb']:.0f} | {1e3 * predict['seconds'] / predict['images']:.0f} | "
            f"{predict['peak_mb']:.0f} |"
        )
    branch = plan.branches[0]
    size = plan.band_size(branch)
    lines += [
        "",
        f"{plan.bank}, R = {plan.input.resolution} px, {len(plan.branches)} branches of "
        f"{size} x {size}, {branch.network} ({rows[0]['train']['rows'][0]['parameters']:,} "
        f"parameters a branch), {plan.training.epochs} epochs, {threads} torch threads, one "
        f"process at a time; seconds a branch are medians; predictions of {PREDICTED} images in "
        "one call, decoding and fitting included, one thread.",
    ]
    if len(rows) > 1:
        least, *_, most = sorted(rows, key=lambda row: int(row["images"]))
        lines.append(
            f"From {least['images']} to {most['images']} images the cache grows by "
            f"{(most['cache_bytes'] - least['cache_bytes']) / 1e6:.0f} MB and the peak of the "
            f"agent by {most['train']['peak_mb'] - least['train']['peak_mb']:.0f} MB."
        )
    kept = sorted({row["commit"] for row in rows} - {COMMIT})
    if kept:
        lines.append(f"Measured at commit {', '.join(kept)} and kept since.")
    stopped = [str(row["images"]) for row in rows if row["train"]["parts"] > 1]
    if stopped:
        lines.append(f"The agent was stopped and went on at {', '.join(stopped)} images.")
    return lines


if __name__ == "__main__":
    raise SystemExit(guarded(main))

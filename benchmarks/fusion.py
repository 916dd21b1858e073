"""Which way to fuse: many rules on the same trained fleets, beside each other.

    python -m benchmarks.fusion roadside64 --seeds 3

Fleets of 6 and 12 boxes, alike and uneven, train once; every rule then works on what their branches
say. Training images that no box has are held out (``--held``, by default 1,000): ``--select``
measures on them, and so the defaults were chosen; without it the test images are measured. Weights
are fitted on 100, 300 and 1,000 of the held-out images, as far as there are so many (with
``--select`` on half of them at most, and measured on the other half).
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks._common import append_results, guarded, parser, points, report
from benchmarks._data import image_folders
from benchmarks._fleet import FleetSettings, Pixels, Voter, fleet_answers, hold_out, read_pixels
from benchmarks._fusion_rules import RULES
from edge_stl.fusion import calibration_scale, fuse, reliability_weights, score
from edge_stl.fusion.fitted import answers, fit_weights, votes_of
from edge_stl.plan import Plan, new_plan


SPLITS = ("iid", "dirichlet:0.3", "classes:4")
FIT_SIZES = (100, 300, 1000)
PULLS = (1.0, 3.0, 10.0, 30.0)
ONE_VS_REST = "branches trained one-vs-rest"
_SETS = {"roadside64": (64, 2), "cifar10": (32, 1)}


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("set", choices=tuple(_SETS))
    options.add_argument("--boxes", default="6,12", help="sizes of fleets (default 6,12)")
    options.add_argument("--splits", default=",".join(SPLITS))
    options.add_argument("--epochs", type=int, default=20)
    options.add_argument("--network", default="cnn-s")
    options.add_argument("--branch", default="auto", choices=("auto", "all"))
    options.add_argument("--images", type=int, help="training images; by default all")
    options.add_argument("--held", type=int, default=1000, help="images held out (default 1000)")
    options.add_argument(
        "--no-one-vs-rest", action="store_true", help="do not train one-vs-rest beside softmax"
    )
    options.add_argument(
        "--select", action="store_true", help="measure on held-out training images"
    )
    options.add_argument("--append", action="store_true", help="append to docs/results.md")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    began = time.monotonic()
    resolution, levels = _SETS[chosen.set]
    folders = image_folders(chosen.set, chosen.data, Path("runs") / "images" / chosen.set)
    plan = new_plan(
        classes=folders.classes,
        resolution=resolution,
        transform="haar",
        levels=levels,
        branches="detail",
        network=chosen.network,
        name="fusion",
        epochs=chosen.epochs,
    )
    train, held = hold_out(read_pixels(folders.train, plan), chosen.held)
    if chosen.images:
        train, _ = hold_out(train, len(train.labels) - chosen.images)
    test = read_pixels(folders.test, plan)
    fleets = [
        (split, boxes) for split in chosen.splits.split(",") for boxes in _numbers(chosen.boxes)
    ]
    results = {}
    for split, boxes in fleets:
        rows: dict[str, list[dict[str, float]]] = {}
        for seed in range(chosen.seeds):
            for name, numbers in _one_fleet(
                plan, FleetSettings(split, boxes, chosen.branch, False, seed),
                train=train, held=held, test=test, chosen=chosen,
            ).items():  # fmt: skip
                rows.setdefault(name, []).append(numbers)
        results[f"{split}, {boxes}"] = rows
    document = {
        "benchmark": "fusion",
        "set": chosen.set,
        "selection": chosen.select,
        "fleets": results,
    }
    lines = _lines(results, chosen, plan=plan, images=len(train.labels), began=began)
    report(document, lines, as_json=chosen.json)
    if chosen.append:
        append_results(f"Ways to fuse, {chosen.set}", lines)


def _one_fleet(
    plan: Plan,
    settings: FleetSettings,
    *,
    train: Pixels,
    held: Pixels,
    test: Pixels,
    chosen: Any,
) -> dict[str, dict[str, float]]:
    """Return accuracy, log-loss and calibration error of every rule on one fleet."""
    folder = chosen.out or Path("runs") / "fusion"
    given: dict[str, Any] = {"train": train, "held": held, "test": test, "folder": folder}
    voters = fleet_answers(plan, settings, **given)
    rows = _rules(voters, held.labels, test.labels, select=chosen.select)
    if not chosen.no_one_vs_rest:
        other = FleetSettings(settings.split, settings.boxes, settings.branch, True, settings.seed)
        voters = fleet_answers(plan, other, **given)
        again = _rules(voters, held.labels, test.labels, select=chosen.select)
        for name in ("**reliability** (the default)", "log-odds, mean, one-vs-rest logits"):
            rows[f"{ONE_VS_REST}: {name.strip('*')}"] = again[name]
    return rows


def _rules(
    voters: Sequence[Voter],
    held_labels: NDArray[np.int64],
    test_labels: NDArray[np.int64],
    *,
    select: bool,
) -> dict[str, dict[str, float]]:
    members = [v.member for v in voters]
    held = [v.held for v in voters]
    measured = held if select else [v.test for v in voters]
    labels = held_labels if select else test_labels
    rows = {}
    for name, rule in RULES.items():
        scores = rule(measured, members)
        rows[name] = {"accuracy": float((scores.argmax(axis=1) == labels).mean())}
    alone = [float((z.argmax(axis=1) == labels).mean()) for z in measured]
    rows["mean of the branches alone"] = {"accuracy": float(np.mean(alone))}
    weights = reliability_weights(members)
    for name, scale in (("1", 1.0), ("by the files per class", calibration_scale(weights))):
        p, _ = fuse(measured, members, weights, scale=scale)
        rows[f"reliability, scale {name}"] = _scored(p, labels)
    rows |= _fitted(members, weights, (held, held_labels), (measured, labels), select=select)
    return rows


def _fitted(
    members: Sequence[Any],
    weights: NDArray[np.float64],
    held: tuple[Sequence[NDArray[np.float32]], NDArray[np.int64]],
    measured: tuple[Sequence[NDArray[np.float32]], NDArray[np.int64]],
    *,
    select: bool,
) -> dict[str, dict[str, float]]:
    """Fit on parts of the held-out images; what is measured is never among them."""
    start = calibration_scale(weights) * weights
    votes = [votes_of(fuse(z, members, weights)[1], members, start) for z, _ in (held, measured)]
    order = np.random.default_rng(0).permutation(len(held[1]))
    rows = {}
    most = len(order) // 2 if select else len(order)
    for size in sorted({min(size, most) for size in FIT_SIZES}):
        used = order[:size]
        rest = np.setdiff1d(order, order[: len(order) // 2]) if select else slice(None)
        for pull in PULLS:
            p = fuse([z[used] for z in held[0]], members, weights)[1]
            fit = fit_weights(p, held[1][used], members, start=start, pull=pull)
            got = answers(votes[1][:, rest], fit.weights, fit.bias)
            rows[f"fitted on {len(used)}, pull {pull:g}"] = _scored(got, measured[1][rest])
    return rows


def _scored(p: NDArray[np.float64], labels: NDArray[np.int64]) -> dict[str, float]:
    scores = score(p, labels)
    return {"accuracy": scores.accuracy, "log_loss": scores.log_loss, "ece": scores.ece}


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _lines(
    results: dict[str, dict[str, list[dict[str, float]]]],
    chosen: Any,
    *,
    plan: Plan,
    images: int,
    began: float,
) -> list[str]:
    names = list(next(iter(results.values())))
    cells: Callable[[str, str], list[str]] = lambda name, key: [  # noqa: E731
        points([seed[key] for seed in rows[name]]) for rows in results.values()
    ]
    mean = {
        name: 100 * float(np.mean([s["accuracy"] for rows in results.values() for s in rows[name]]))
        for name in names
    }
    head = "".join(f" {fleet} |" for fleet in results)
    lines = [f"| accuracy % |{head} mean |", "|---|" + "---|" * (len(results) + 1)]
    lines += [f"| {n} | {' | '.join(cells(n, 'accuracy'))} | {mean[n]:.2f} |" for n in names]
    lines += ["", f"| calibration error % |{head}", "|---|" + "---|" * len(results)]
    calibrated = [n for n in names if "ece" in next(iter(results.values()))[n][0]]
    lines += [f"| {n} | {' | '.join(cells(n, 'ece'))} |" for n in calibrated]
    where = "held-out training" if chosen.select else "test"
    lines += [
        "",
        f"{chosen.set}, {images:,} training images dealt to the boxes, {chosen.held:,} held out; "
        f"{where} images; {chosen.seeds} seeds, {plan.training.epochs} epochs, {chosen.network}, "
        f"--branch {chosen.branch}; {(time.monotonic() - began) / 60:.1f} minutes.",
    ]
    return lines


if __name__ == "__main__":
    raise SystemExit(guarded(main))

"""Which way to fuse: many rules on the same trained fleets, beside each other.

    python -m benchmarks.fusion roadside64 --seeds 3

Fleets of 6 and 12 boxes, alike and uneven, train once; every rule then works on what their branches
say. Training images that no box has are held out (``--held``, by default 1,000): ``--select``
measures on them, and so the defaults were chosen; without it the test images are measured. Weights
are fitted on 100, 300 and 1,000 of the held-out images, as far as there are so many (with
``--select`` on half of them at most, and measured on the other half).
"""

import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks._common import append_results, guarded, parser, points, report, whole
from benchmarks._data import image_folders
from benchmarks._fleet import FleetSettings, Pixels, Voter, fleet_answers, hold_out, read_pixels
from benchmarks._fusion_rules import DEFAULT, RULES
from edge_stl.errors import UsageError
from edge_stl.fleet._split import EXPECTED, read_split
from edge_stl.fusion import Member, calibration_scale, fuse, reliability_weights, score
from edge_stl.fusion.fitted import answers, fit_weights, votes_of
from edge_stl.plan import networks, new_plan


Rows = dict[str, dict[str, float]]
"""What was measured of every rule."""

Results = dict[str, dict[str, list[dict[str, float]]]]
"""Per fleet and rule, one measurement per seed."""

SPLITS = ("iid", "dirichlet:0.3", "classes:4")
FIT_SIZES = (100, 300, 1000)
PULLS = (1.0, 3.0, 10.0, 30.0)
ONE_VS_REST = "branches trained one-vs-rest"
_SETS = {"roadside64": (64, 2), "cifar10": (32, 1)}


def main() -> None:
    """Run the benchmark."""
    chosen = _options().parse_args()
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
    train, held = _deal(read_pixels(folders.train, plan), chosen)
    answered = partial(
        fleet_answers,
        plan,
        train=train,
        held=held,
        test=read_pixels(folders.test, plan),
        folder=chosen.out or Path("runs") / "fusion",
    )
    labels = answered.keywords["held" if chosen.select else "test"].labels
    results: Results = {}
    for split, boxes in product(chosen.splits, chosen.boxes):
        rows: dict[str, list[dict[str, float]]] = {}
        for seed in range(chosen.seeds):
            settings = FleetSettings(split, boxes, chosen.branch, one_vs_rest=False, seed=seed)
            for name, numbers in _one_fleet(
                answered, settings, held.labels, labels, chosen=chosen
            ).items():
                rows.setdefault(name, []).append(numbers)
        results[f"{split}, {boxes}"] = rows
    document = {
        "benchmark": "fusion",
        "set": chosen.set,
        "selection": chosen.select,
        "fleets": results,
    }
    footer = (
        f"{chosen.set}, {len(train.labels):,} training images dealt to the boxes, "
        f"{len(held.labels):,} held out; {'held-out training' if chosen.select else 'test'} "
        f"images; {chosen.seeds} seeds, {plan.training.epochs} epochs, {chosen.network}, "
        f"--branch {chosen.branch}; {(time.monotonic() - began) / 60:.1f} minutes."
    )
    lines = [*_lines(results), "", footer]
    report(document, lines, as_json=chosen.json)
    if chosen.append:
        append_results(f"Ways to fuse, {chosen.set}", lines)


def _options() -> ArgumentParser:
    options = parser(__doc__)
    options.add_argument("set", choices=tuple(_SETS))
    options.add_argument(
        "--boxes", type=_sizes, default="6,12", help="sizes of fleets (default %(default)s)"
    )
    options.add_argument(
        "--splits", type=_splits, default=",".join(SPLITS), help="(default %(default)s)"
    )
    options.add_argument("--epochs", type=whole, default=20, help="(default %(default)s)")
    options.add_argument(
        "--network", choices=networks.preset_names(), default="cnn-s", help="(default %(default)s)"
    )
    options.add_argument("--branch", default="auto", choices=("auto", "all"))
    options.add_argument("--images", type=whole, help="training images; by default all")
    options.add_argument(
        "--held", type=whole, default=1000, help="images held out (default %(default)s)"
    )
    options.add_argument(
        "--no-one-vs-rest", action="store_true", help="do not train one-vs-rest beside softmax"
    )
    options.add_argument(
        "--select", action="store_true", help="measure on held-out training images"
    )
    options.add_argument("--append", action="store_true", help="append to docs/results.md")
    return options


def _sizes(text: str) -> list[int]:
    return [whole(part) for part in text.split(",")]


def _splits(text: str) -> list[str]:
    for part in text.split(","):
        try:
            read_split(part)
        except UsageError:
            raise ArgumentTypeError(f"{part!r}: is no split; {EXPECTED}") from None
    return text.split(",")


def _deal(pixels: Pixels, chosen: Namespace) -> tuple[Pixels, Pixels]:
    """Return the images for the boxes and those held out.

    Raises:
        UsageError: there are too few for what is asked, or none of a class would be held out.
    """
    classes, there = int(pixels.labels.max()) + 1, len(pixels.labels)
    if not classes <= chosen.held < there:
        raise UsageError(
            f"--held {chosen.held}: there are {there} training images of {classes} classes; "
            f"expected from {classes} to {there - 1}. Choose another number"
        )
    train, held = hold_out(pixels, chosen.held)
    left = len(train.labels)
    if chosen.images and chosen.images > left:
        raise UsageError(
            f"--images {chosen.images}: {left} of {there} training images are left beside those "
            f"held out; expected {left} at most. Take fewer, or hold out fewer"
        )
    if chosen.images:
        train, _ = hold_out(train, left - chosen.images)
    return train, held


def _one_fleet(
    answered: Callable[[FleetSettings], Sequence[Voter]],
    settings: FleetSettings,
    held_labels: NDArray[np.int64],
    labels: NDArray[np.int64],
    *,
    chosen: Namespace,
) -> Rows:
    """Return accuracy, log-loss and calibration error of every rule on one fleet."""
    rows = _rules(answered(settings), held_labels, labels, select=chosen.select)
    if not chosen.no_one_vs_rest:
        other = answered(replace(settings, one_vs_rest=True))
        again = _rules(other, held_labels, labels, select=chosen.select)
        for name in (DEFAULT, "log-odds, mean, one-vs-rest logits"):
            rows[f"{ONE_VS_REST}: {name.replace('*', '')}"] = again[name]
    return rows


def _rules(
    voters: Sequence[Voter],
    held_labels: NDArray[np.int64],
    labels: NDArray[np.int64],
    *,
    select: bool,
) -> Rows:
    """Return the numbers of every rule, on held-out (``select``) or test images."""
    members = [v.member for v in voters]
    held = [v.held for v in voters]
    measured = held if select else [v.test for v in voters]
    rows: Rows = {}
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
    members: Sequence[Member],
    weights: NDArray[np.float64],
    held: tuple[Sequence[NDArray[np.float32]], NDArray[np.int64]],
    measured: tuple[Sequence[NDArray[np.float32]], NDArray[np.int64]],
    *,
    select: bool,
) -> Rows:
    """Fit on parts of the held-out images; what is measured is never among them."""
    start = calibration_scale(weights) * weights
    known, asked = (fuse(logits, members, weights)[1] for logits, _ in (held, measured))
    order = np.random.default_rng(0).permutation(len(held[1]))
    half = len(order) // 2
    rest = np.sort(order[half:]) if select else np.arange(len(measured[1]))
    votes = votes_of(asked[rest], members, start)
    most = half if select else len(order)
    rows: Rows = {}
    for size in sorted({min(size, most) for size in FIT_SIZES}):
        used = order[:size]
        for pull in PULLS:
            fit = fit_weights(known[used], held[1][used], members, start=start, pull=pull)
            got = answers(votes, fit.weights, fit.bias)
            rows[f"fitted on {size}, pull {pull:g}"] = _scored(got, measured[1][rest])
    return rows


def _scored(p: NDArray[np.float64], labels: NDArray[np.int64]) -> dict[str, float]:
    scores = score(p, labels)
    return {"accuracy": scores.accuracy, "log_loss": scores.log_loss, "ece": scores.ece}


def _lines(results: Results) -> list[str]:
    """Return two tables: accuracy, and calibration error where it is known."""
    fleets = list(results.values())
    names = list(fleets[0])
    calibrated = [name for name in names if "ece" in fleets[0][name][0]]

    def cells(name: str, key: str) -> str:
        return " | ".join(points([seed[key] for seed in rows[name]]) for rows in fleets)

    def mean(name: str) -> float:
        return 100 * float(np.mean([seed["accuracy"] for rows in fleets for seed in rows[name]]))

    head = " | ".join(results)
    return [
        f"| accuracy % | {head} | mean |",
        "|---|" + "---|" * (len(fleets) + 1),
        *(f"| {name} | {cells(name, 'accuracy')} | {mean(name):.2f} |" for name in names),
        "",
        f"| calibration error % | {head} |",
        "|---|" + "---|" * len(fleets),
        *(f"| {name} | {cells(name, 'ece')} |" for name in calibrated),
    ]


if __name__ == "__main__":
    raise SystemExit(guarded(main))

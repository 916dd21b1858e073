"""NGC and CompNGC against D-PSGD where every box sees two classes.

CIFAR-10 and MNIST, rings of five and ten boxes, LeNet with group norm, one minibatch a round. With
five boxes the images are sorted by label and cut into equal slices, two classes a box; with ten,
each class is cut into halves and every box is dealt halves of two classes. All methods take equally
many rounds. The settings of a method (learning rate with its momentum, then gamma; alpha is 1) are
those of the grid that answer the most validation images, with the first seed; the test images are
looked at once, with those settings. A box's accuracy is that of its own model, and the mean over
the boxes counts; the mean of all models is told beside it.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._common import append_results, guarded, parser, points, report, whole
from benchmarks._cotrain import ImageSet
from benchmarks._ngc import Run, images, scores, train, wire
from benchmarks._readers.sets import SetName
from edge_stl.durable import write_durably
from edge_stl.errors import UsageError


METHODS = ("full", "ngc", "compngc")
TITLES = {"full": "D-PSGD (`full`)", "ngc": "NGC", "compngc": "CompNGC"}
RATES: tuple[tuple[float, float], ...] = (
    (0.1, 0.0),
    (0.003, 0.9),
    (0.01, 0.9),
    (0.03, 0.9),
    (0.1, 0.9),
)
"""Learning rate and momentum (Nesterov's where there is any)."""
RATES_FULL: tuple[tuple[float, float], ...] = (
    *((0.0001, 0.9), (0.0003, 0.9), (0.001, 0.9), (0.03, 0.0)),
    *RATES,
)
"""Those of D-PSGD: the same and lower ones, as its steps go along one box's images alone."""
GAMMAS: tuple[float, ...] = (0.5, 1.0)
"""Of NGC and CompNGC; D-PSGD has its mixing matrix, which is gamma 1."""
TABLES: tuple[tuple[SetName, int, int], ...] = (
    ("cifar10", 5, 100),
    ("mnist", 5, 50),
    ("cifar10", 10, 60),
    ("mnist", 10, 40),
)
"""Image set, boxes and rounds; each class of the ten is cut for ten boxes, and none for five."""


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--quick", action="store_true", help="a few rounds, to see that it works")
    options.add_argument("--rounds", type=whole, help="of every table (default: each its own)")
    options.add_argument(
        "--pool", type=whole, default=2, help="average that many pixels a side (default 2)"
    )
    options.add_argument("--tables", default="", help="like mnist-5,cifar10-10; default: all")
    options.add_argument("--append", action="store_true", help="append to docs/results.md")
    chosen = options.parse_args()
    out = chosen.out or Path("runs") / "ngc"
    torch.set_num_threads(1)
    wanted = [word for word in chosen.tables.split(",") if word]
    known = [f"{name}-{nodes}" for name, nodes, _ in TABLES]
    if unknown := sorted(set(wanted) - set(known)):
        raise UsageError(
            f"--tables {unknown[0]}: no such table; expected some of {', '.join(known)}. Correct it"
        )
    tables = []
    for name, nodes, rounds in TABLES:
        if not wanted or f"{name}-{nodes}" in wanted:
            took = 3 if chosen.quick else chosen.rounds or rounds
            tables.append(_table(name, nodes, took, chosen, out))
    sent = wire()
    document = {"benchmark": "ngc", "tables": tables, "wire": sent}
    write_durably(out / "ngc.json", json.dumps(document, indent=1).encode())
    lines = [line for table in tables for line in [*_lines(table), ""]] + _wire_lines(sent)
    report(document, lines, as_json=chosen.json)
    if chosen.append:
        append_results("NGC and CompNGC, two classes a box", lines)


def _table(name: SetName, nodes: int, rounds: int, chosen: Any, out: Path) -> dict[str, Any]:
    data = images(name, chosen.data, pool=chosen.pool)
    tried: dict[str, list[dict[str, Any]]] = {}
    best: list[Run] = []
    for method in METHODS:
        run = Run(name, nodes, rounds, method, 0.0, 0.0, 1.0, 1.0, 0, chosen.pool)
        tried[method] = _search(run, data, out, quick=chosen.quick)
        best.append(_best(tried[method]))
    rows = [
        {
            "run": dataclasses.asdict(run),
            "seeds": [
                _tested(dataclasses.replace(run, seed=seed), data, out)
                for seed in range(chosen.seeds)
            ],
        }
        for run in best
    ]
    return {"images": name, "nodes": nodes, "rounds": rounds, "rows": rows, "tried": tried}


def _search(run: Run, data: ImageSet, out: Path, *, quick: bool) -> list[dict[str, Any]]:
    """Return the runs of the grid: every rate at the first gamma, then the others at the best."""
    full = run.method == "full"
    rates, gammas = (RATES_FULL if full else RATES), ((1.0,) if full else GAMMAS)
    if quick:
        rates, gammas = rates[-3:-2], gammas[:1]
    tried = [
        _tuned(dataclasses.replace(run, rate=r, momentum=m, gamma=gammas[0]), data, out)
        for r, m in rates
    ]
    best = _best(tried)
    return tried + [
        _tuned(dataclasses.replace(best, gamma=gamma), data, out) for gamma in gammas[1:]
    ]


def _best(tried: list[dict[str, Any]]) -> Run:
    return Run(**max(tried, key=lambda row: float(row["validation"]))["run"])


def _tuned(run: Run, data: ImageSet, out: Path) -> dict[str, Any]:
    result, models = train(run, data, out)
    own, mean = ([0.0], 0.0) if result["diverged"] else scores(run, models, data, "validation", out)
    result |= {"validation": float(np.mean(own)), "validation_mean_model": mean}
    print(
        f"{run.name}: rate {run.rate:g}, momentum {run.momentum:g}, gamma {run.gamma:g}: "
        f"validation {result['validation']:.4f}, mean model {mean:.4f}, "
        f"{result['cpu_seconds']:.0f} s {result['diverged']}",
        flush=True,
    )
    return result


def _tested(run: Run, data: ImageSet, out: Path) -> dict[str, Any]:
    result, models = train(run, data, out)
    own, mean = scores(run, models, data, "test", out)
    accuracies = {"test": float(np.mean(own)), "worst": min(own), "mean_model": mean}
    print(f"{run.name}: test {accuracies}", flush=True)
    return result | accuracies


def _lines(table: dict[str, Any]) -> list[str]:
    first, seeds = Run(**table["rows"][0]["run"]), len(table["rows"][0]["seeds"])
    lines = [
        f"**{first.images}, a ring of {first.nodes}, {first.rounds} rounds, {seeds} seeds**",
        "",
        "| method | rate, momentum, gamma | own models % | worst box % | mean of the models % | "
        "bytes a box and round |",
        "|---|---|---|---|---|---|",
    ]
    for row in table["rows"]:
        run = Run(**row["run"])
        sent = row["seeds"][0]["bytes"]["bytes"] / run.nodes / run.rounds
        measured = (
            points([s[key] for s in row["seeds"]]) for key in ("test", "worst", "mean_model")
        )
        lost = sum(bool(s["diverged"]) for s in row["seeds"])
        title = TITLES[run.method] + (f" ({lost} diverged)" if lost else "")
        setting = f"{run.rate:g}, {run.momentum:g}, {run.gamma:g}"
        lines.append(f"| {title} | {setting} | {' | '.join(measured)} | {sent:,.0f} |")
    return lines


def _wire_lines(found: dict[str, dict[str, int]]) -> list[str]:
    models = found["full"]
    second = {
        name: {part: found[name][part] - models[part] for part in ("values", "headers")}
        for name in ("ngc", "compngc")
    }
    plain, packed = (second[name]["values"] for name in ("ngc", "compngc"))
    with_headers = [sum(second[name].values()) for name in ("ngc", "compngc")]
    alone = [
        sum(found[f"{name}, alpha 0"].values()) - sum(models.values())
        for name in ("ngc", "compngc")
    ]
    return [
        f"A message of the second exchange, five-layer CNN of 76,010 numbers: {plain:,} bytes with "
        f"NGC, {packed:,} with CompNGC, {plain / packed:.2f} times fewer; with headers "
        f"{with_headers[0]:,} and {with_headers[1]:,}, {with_headers[0] / with_headers[1]:.2f} "
        f"times fewer. Alpha 0 sends {alone[0]} and {alone[1]} bytes a message more than D-PSGD.",
    ]


if __name__ == "__main__":
    raise SystemExit(guarded(main))

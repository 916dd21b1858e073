"""Accuracy against bytes: every method on the same images, network and effort, by one ledger."""

import itertools
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from device_agent.cotrain._problem import refuse_batch_norm
from edge_stl.cotrain import Graph
from edge_stl.durable import make_folder, write_durably
from edge_stl.errors import DataError, Interrupted, UsageError
from edge_stl.fleet._compare_bench import Bench, text_of, training_of
from edge_stl.fleet._compare_runs import Runs
from edge_stl.fleet._contestants import CONTESTANTS, Chosen, Effort, Tables
from edge_stl.fleet._split import IID, Split
from edge_stl.fleet._study import Archive, Study, read_images
from edge_stl.plan import Plan, nearest, plan_toml


@dataclass(frozen=True)
class Comparison:
    """What to compare.

    Attributes:
        plan: the plan.
        branch: the branch that all boxes train.
        images: of all boxes.
        out: pictures, tables and finished runs are kept here.
        test: labelled test images; None holds out a fifth of ``images``.
        methods: names of `CONTESTANTS`.
        boxes: how many.
        graph: as `Graph.make` reads it.
        split: which box gets which classes.
        rounds: exchanges.
        steps: minibatches of a box between two exchanges.
        batch: images of a minibatch.
        rates: learning rates to choose from, per method.
        schedule: of the rate.
        momentum: of the local steps.
        kept: share of a model that partial methods send.
        seeds: repetitions; the settings are chosen on the validation images of the first.
        tables: settings of methods, by method, that are neither defaults nor chosen.
    """

    plan: Plan
    branch: str
    images: Path
    out: Path
    methods: tuple[str, ...]
    boxes: int
    graph: str
    rounds: int
    rates: tuple[float, ...]
    test: Path | None = None
    split: Split = IID
    steps: int = 1
    batch: int = 16
    schedule: str = "constant"
    momentum: float = 0.0
    kept: float = 0.2
    seeds: int = 1
    tables: Tables = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """Return what the runs depend on, for the record."""
        return {
            "plan": self.plan.digest,
            "branch": self.branch,
            "network": self.plan.branch(self.branch).network,
            "boxes": self.boxes,
            "graph": self.graph,
            "split": str(self.split),
            "rounds": self.rounds,
            "steps": self.steps,
            "batch": self.batch,
            "rates": list(self.rates),
            "schedule": self.schedule,
            "momentum": self.momentum,
            "kept": self.kept,
            "method_settings": {name: dict(table) for name, table in self.tables.items()},
        }


def check_methods(methods: Sequence[str]) -> tuple[str, ...]:
    """Return the methods in the order of the table.

    Raises:
        UsageError: one is none, or there is none.
    """
    for name in methods:
        if name not in CONTESTANTS:
            raise UsageError(f"--methods {name}: not a method{nearest(name, list(CONTESTANTS))}")
    if not methods:
        raise UsageError(f"--methods: none; expected some of {', '.join(CONTESTANTS)}. Name one")
    return tuple(name for name in CONTESTANTS if name in methods)


def compare(
    what: Comparison,
    *,
    told: Callable[[str], object] = lambda _: None,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Run a comparison; a stopped one goes on under the same ``out``.

    Args:
        what: the comparison.
        told: called with a sentence for what a user should know.
        progress: called with what is run, runs done and runs in all.

    Returns:
        the document of ``compare --json``.

    Raises:
        DataError: images cannot be used.
        UsageError: the settings do not fit the plan, or ``out`` holds another comparison.
        Interrupted: a signal asked to stop; the same call goes on.
    """
    methods = check_methods(what.methods)
    choices = [b.name for b in what.plan.branches]
    if what.branch not in choices:
        raise UsageError(
            f"--branch {what.branch}: not a branch of the plan{nearest(what.branch, choices)}"
        )
    refuse_batch_norm(what.plan, what.plan.branch(what.branch))
    graph = Graph.make(what.graph, what.boxes)
    make_folder(what.out)
    effort = Effort(
        graph, what.rounds, what.steps, what.schedule, what.momentum, what.kept, what.tables
    )
    effort.local({"rate": what.rates[0]})  # what is wrong there is told before images are read
    archive = read_images(what.plan, what.images, what.out / "cache" / "images", told=told)
    tests = None
    if what.test is not None:
        tests = read_images(what.plan, what.test, what.out / "cache" / "test", told=told)
    # Without the rates: with others, those that were tried are not tried again.
    facts = {key: value for key, value in what.settings().items() if key != "rates"} | {
        "edges": [list(row) for row in graph.neighbours],
        "images": archive.digest,
        "test": None if tests is None else tests.digest,
    }
    runs = Runs(what.out, facts)
    write_durably(what.out / "plan.toml", plan_toml(what.plan).encode())
    studies = [_deal(what, archive, tests, seed) for seed in range(what.seeds)]
    if not len(studies[0].validation[1]):
        raise DataError(
            f"{what.images}: dealt to {what.boxes} boxes, no class of a box has the 5 images of "
            "which one can be held back for validation; settings are chosen on those. Give "
            "more images or fewer boxes"
        )
    total = sum(len(_grid(what, m)) + what.seeds - 1 for m in methods)
    begun = 0

    def step(label: str) -> None:
        nonlocal begun
        begun += 1
        if progress is not None:
            progress(label, begun, total)

    bench = Bench(studies, effort, runs, step)
    rows = []
    try:
        for place, name in enumerate(methods):
            rows.append(_one_method(bench, name, _grid(what, name)))
            if training_of(name) not in map(training_of, methods[place + 1 :]):
                runs.forget_models(training_of(name))
    except KeyboardInterrupt:
        raise Interrupted(
            f"{what.out}: stopped; {max(0, begun - 1)} of {total} runs are done and kept. The same "
            "command goes on there"
        ) from None
    document = {"settings": what.settings() | {"seeds": what.seeds}, "methods": rows}
    write_durably(what.out / "results.json", json.dumps(document, indent=1).encode())
    return document


def _deal(what: Comparison, archive: Archive, tests: Archive | None, seed: int) -> Study:
    return Study.deal(
        what.plan,
        what.branch,
        archive,
        tests,
        boxes=what.boxes,
        split=what.split,
        seed=seed,
        batch=what.batch,
    )


def _grid(what: Comparison, method: str) -> list[dict[str, float]]:
    """Return what is tried: a method has nothing to choose where its table says it."""
    said = what.tables.get(method, {})
    grid = {key: row for key, row in CONTESTANTS[method].grid.items() if key not in said}
    values = itertools.product(what.rates, *grid.values())
    return [dict(zip(["rate", *grid], row, strict=True)) for row in values]


def _one_method(bench: Bench, name: str, grid: Sequence[Chosen]) -> dict[str, Any]:
    """Choose the settings on the validation images of the first seed, then ask all seeds."""
    tried = []
    for chosen in grid:
        bench.step(f"{name} {text_of(chosen)}")
        tried.append((bench.tried(name, 0, chosen), chosen))
    # The first of equals: a smaller rate, which comes first, is the safer one.
    best, chosen = max(tried, key=lambda pair: pair[0]["validation"])
    rows = [best | bench.asked(name, 0, chosen)]
    nodes = bench.studies[0].nodes
    for seed in range(1, len(bench.studies)):
        bench.step(f"{name} seed {seed}")
        rows.append(bench.tried(name, seed, chosen) | bench.asked(name, seed, chosen))
    accuracies = [row["accuracy"] for row in rows]
    training, files, seconds = (
        statistics.fmean(row[key] for row in rows)
        for key in ("bytes_training", "bytes_files", "seconds")
    )
    return {
        "method": name,
        "title": CONTESTANTS[name].title,
        "chosen": dict(chosen),
        "at_edge": at_edge(grid, chosen),
        "tried": [{**c, "validation": row["validation"]} for row, c in tried],
        "accuracy": statistics.fmean(accuracies),
        "accuracy_std": statistics.stdev(accuracies) if len(rows) > 1 else 0.0,
        "accuracies": accuracies,
        "bytes_total": training + files,
        "bytes_per_box": (training + files) / nodes,
        "bytes_training": training,
        "bytes_files": files,
        "ledger": best["ledger"],
        "gradients_per_box": best["gradients"],
        "seconds": seconds,
    }


def at_edge(grid: Sequence[Chosen], chosen: Chosen) -> list[str]:
    """Return the settings whose chosen value is the smallest or the largest of several tried."""
    ends = {name: sorted({row[name] for row in grid}) for name in chosen}
    return [
        name
        for name, values in ends.items()
        if len(values) > 1 and chosen[name] in (values[0], values[-1])
    ]

"""Accuracy against bytes: every method on the same images, network and effort, by one ledger."""

import itertools
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from device_agent.cotrain._problem import refuse_batch_norm
from edge_stl.cotrain import Graph
from edge_stl.durable import make_folder, write_durably
from edge_stl.errors import DataError, UsageError
from edge_stl.fleet._contestants import CONTESTANTS, SAME_RUN, Chosen, Contestant, Effort, Outcome
from edge_stl.fleet._split import IID, Split
from edge_stl.fleet._study import Archive, Study, read_images
from edge_stl.plan import Plan, nearest, plan_toml


_RUNS = "runs.json"


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
        }


@dataclass
class _Runs:
    """Finished runs of a folder, so that a stopped comparison goes on where it was."""

    path: Path
    facts: dict[str, Any]
    done: dict[str, dict[str, Any]] = field(default_factory=dict)

    def open(self) -> None:
        if not self.path.is_file():
            return
        try:
            document = json.loads(self.path.read_bytes())
            facts, done = document["facts"], document["runs"]
        except (OSError, ValueError, KeyError, TypeError):
            raise UsageError(
                f"{self.path}: cannot be read as the runs of a comparison. Delete it, or choose "
                "another -o"
            ) from None
        if facts != self.facts:
            different = sorted(k for k in self.facts if facts.get(k) != self.facts[k])
            raise UsageError(
                f"{self.path}: of a comparison with other {', '.join(different)}; expected the "
                "same. Choose another -o, or delete it"
            )
        self.done = done

    def keep(self, key: str, row: dict[str, Any]) -> None:
        self.done[key] = row
        document = {"facts": self.facts, "runs": self.done}
        write_durably(self.path, json.dumps(document, indent=1).encode())


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
    effort = Effort(graph, what.rounds, what.steps, what.schedule, what.momentum, what.kept)
    archive = read_images(what.plan, what.images, what.out / "cache" / "images", told=told)
    tests = None
    if what.test is not None:
        tests = read_images(what.plan, what.test, what.out / "cache" / "test", told=told)
    facts = what.settings() | {
        "edges": [list(row) for row in graph.neighbours],
        "images": archive.digest,
        "test": None if tests is None else tests.digest,
    }
    runs = _Runs(what.out / _RUNS, facts)
    runs.open()
    write_durably(what.out / "plan.toml", plan_toml(what.plan).encode())
    studies = [_deal(what, archive, tests, seed) for seed in range(what.seeds)]
    if not len(studies[0].validation[1]):
        raise DataError(
            f"{what.images}: dealt to {what.boxes} boxes, no class of a box has the 5 images of "
            "which one can be held back for validation; settings are chosen on those. Give "
            "more images or fewer boxes"
        )
    total = sum(len(_grid(what, CONTESTANTS[m])) + what.seeds - 1 for m in methods)
    at = itertools.count(1)

    def step(label: str) -> None:
        if progress is not None:
            progress(label, next(at), total)

    rows = [_one_method(what, name, studies, effort, runs, step) for name in methods]
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


def _grid(what: Comparison, contestant: Contestant) -> list[dict[str, float]]:
    names = ["rate", *contestant.grid]
    values = itertools.product(what.rates, *contestant.grid.values())
    return [dict(zip(names, row, strict=True)) for row in values]


def _one_method(
    what: Comparison,
    name: str,
    studies: Sequence[Study],
    effort: Effort,
    runs: _Runs,
    step: Callable[[str], None],
) -> dict[str, Any]:
    """Choose the settings on the validation images of the first seed, then run all seeds."""
    tried = []
    for chosen in _grid(what, CONTESTANTS[name]):
        step(f"{name} {_text(chosen)}")
        tried.append((_run(name, studies[0], 0, effort, chosen, runs), chosen))
    # The first of equals: a smaller rate, which comes first, is the safer one.
    best, chosen = max(tried, key=lambda pair: pair[0]["validation"])
    rows = [best]
    for seed, study in enumerate(studies[1:], start=1):
        step(f"{name} seed {seed}")
        rows.append(_run(name, study, seed, effort, chosen, runs))
    accuracies = [row["accuracy"] for row in rows]
    return {
        "method": name,
        "title": CONTESTANTS[name].title,
        "chosen": dict(chosen),
        "tried": [{**c, "validation": row["validation"]} for row, c in tried],
        "accuracy": statistics.fmean(accuracies),
        "accuracy_std": statistics.stdev(accuracies) if len(rows) > 1 else 0.0,
        "accuracies": accuracies,
        **{
            key: statistics.fmean(row[key] for row in rows)
            for key in ("bytes_total", "bytes_per_box", "bytes_training", "bytes_files")
        },
        "ledger": best["ledger"],
        "gradients_per_box": best["gradients"],
        "seconds": statistics.fmean(row["seconds"] for row in rows),
    }


def _text(chosen: Mapping[str, float]) -> str:
    return " ".join(f"{key} {value:g}" for key, value in chosen.items())


def _run(
    name: str, study: Study, seed: int, effort: Effort, chosen: Chosen, runs: _Runs
) -> dict[str, Any]:
    """Return the row of one run, from the folder where it was finished before."""
    key = f"{name} {seed} {_text(chosen)}"
    if key in runs.done:
        return runs.done[key]
    shared = SAME_RUN.get(name)
    other = None if shared is None else runs.done.get(f"{shared} {seed} {_text(chosen)}")
    row = _alone_of(other) if other is not None else _row(name, study, effort, chosen, runs, seed)
    runs.keep(key, row)
    return row


def _alone_of(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row of the boxes alone, from that of their ensemble."""
    nothing = dict.fromkeys(("bytes_total", "bytes_per_box", "bytes_files"), 0)
    means = {"validation": row["alone_validation"], "accuracy": row["alone"]}
    return {**row, **nothing, **means}


def _row(
    name: str, study: Study, effort: Effort, chosen: Chosen, runs: _Runs, seed: int
) -> dict[str, Any]:
    contestant = CONTESTANTS[name]
    outcome = contestant.run(study, effort, chosen)
    training = outcome.ledger.total.total
    row: dict[str, Any] = {
        "bytes_training": training,
        "ledger": {k: v for k, v in outcome.ledger.to_json().items() if k == "total"},
        "gradients": outcome.gradients,
        "seconds": round(outcome.seconds, 3),
    }
    if outcome.apart:
        row |= _apart(study, outcome, runs.path.parent / "branches" / f"seed{seed}")
        files = row.pop("file_bytes")
    else:
        row |= {
            "validation": outcome.accuracy(study, study.validation),
            "accuracy": outcome.accuracy(study, study.test),
        }
        files = len(study.branch_file(outcome.vectors[0], 0)[1])
    moved = {"files": files, "file": files, "images": _image_bytes(study), "nothing": 0}
    row["bytes_files"] = moved[contestant.moved]
    row["bytes_total"] = training + row["bytes_files"]
    row["bytes_per_box"] = row["bytes_total"] / study.nodes
    return _alone_of(row) if name == "alone" else row


def _apart(study: Study, outcome: Outcome, folder: Path) -> dict[str, Any]:
    """Score branches of their own; the accuracy is that of the merged file in onnxruntime."""
    fused, alone_validation = study.apart(outcome.vectors, study.validation)
    _, alone = study.apart(outcome.vectors, study.test)
    accuracy, size = study.real_ensemble(outcome.vectors, folder)
    return {
        "validation": fused,
        "accuracy": accuracy,
        "alone": alone,
        "alone_validation": alone_validation,
        "file_bytes": size,
    }


def _image_bytes(study: Study) -> int:
    """Return what sending all training images would cost, by the mean size of a file."""
    mean = study.archive.image_bytes / len(study.archive.labels)
    return round(mean * sum(len(hand) for hand in study.hands))

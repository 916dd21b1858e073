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
import hashlib
import io
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks._common import append_results, guarded, parser, report, whole
from benchmarks._cotrain import ImageSet, Pictures, accuracy, lenet, load, problem, slices
from benchmarks._readers.sets import SetName
from edge_stl.cotrain import (
    NGC,
    CompNGC,
    FullSharing,
    Graph,
    Ledger,
    LocalSettings,
    NGCSettings,
    Node,
    Seat,
    run_together,
)
from edge_stl.durable import write_durably
from edge_stl.errors import CheckError, DataError


METHODS = ("full", "ngc", "compngc")
RATES = ((0.1, 0.0), (0.03, 0.9), (0.1, 0.9))
"""Learning rate and momentum (Nesterov's where there is any)."""
RATES_FULL = ((0.003, 0.9), (0.01, 0.9), (0.03, 0.0), *RATES)
"""Those of D-PSGD: the same and lower ones, as its steps go along one box's images alone."""
GAMMAS = (0.5, 1.0)
"""Of NGC and CompNGC; D-PSGD has its mixing matrix, which is gamma 1."""
TABLES: tuple[tuple[SetName, int, int], ...] = (
    ("cifar10", 5, 100),
    ("mnist", 5, 50),
    ("cifar10", 10, 100),
    ("mnist", 10, 50),
)
"""Image set, boxes and rounds; each class of the ten is cut for ten boxes, and none for five."""
SLICED = 5
BATCH = 16
IMAGES = 20_000
TUNING_IMAGES = 1_000
TEST_IMAGES = 4_000


@dataclass(frozen=True)
class Run:
    """One training of all boxes."""

    images: SetName
    nodes: int
    rounds: int
    method: str
    rate: float
    momentum: float
    gamma: float
    alpha: float
    seed: int
    pool: int

    @property
    def name(self) -> str:
        """Return a name that no other run has."""
        text = json.dumps(dataclasses.asdict(self) | {"batch": BATCH, "of": IMAGES})
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        return f"{self.images}-{self.nodes}-{self.method}-{self.seed}-{digest}"


def halves(targets: Tensor, nodes: int, *, seed: int) -> list[NDArray[np.int64]]:
    """Cut each class into halves and deal every box halves of two classes; as many as classes."""
    random = np.random.default_rng([seed, 9])
    labels = targets.numpy()
    first = random.permutation(nodes)
    second = random.permutation(nodes)
    while (first == second).any():
        second = random.permutation(nodes)
    cut = [np.array_split(np.flatnonzero(labels == label), 2) for label in range(nodes)]
    return [
        np.sort(np.concatenate([cut[a][0], cut[b][1]])) for a, b in zip(first, second, strict=True)
    ]


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
    tables = []
    for images, nodes, rounds in TABLES:
        if not wanted or f"{images}-{nodes}" in wanted:
            took = 3 if chosen.quick else chosen.rounds or rounds
            tables.append(_table(images, nodes, took, chosen, out))
    document = {"benchmark": "ngc", "tables": tables, "wire": wire()}
    write_durably(out / "ngc.json", json.dumps(document, indent=1).encode())
    lines = [line for table in tables for line in [*_lines(table), ""]] + _wire_lines(wire())
    report(document, lines, as_json=chosen.json)
    if chosen.append:
        append_results("NGC and CompNGC, two classes a box", lines)


def _table(images: SetName, nodes: int, rounds: int, chosen: Any, out: Path) -> dict[str, Any]:
    data = _pooled(load(images, chosen.data, Path("runs") / "cotrain", images=IMAGES), chosen.pool)
    tried: dict[str, list[dict[str, Any]]] = {}
    best: list[Run] = []
    for method in METHODS:
        run = Run(images, nodes, rounds, method, 0.0, 0.0, 1.0, 1.0, 0, chosen.pool)
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
    return {"images": images, "nodes": nodes, "rounds": rounds, "rows": rows, "tried": tried}


def _search(run: Run, data: ImageSet, out: Path, *, quick: bool) -> list[dict[str, Any]]:
    """Return the runs of the grid: every rate at the first gamma, then the others at the best."""
    full = run.method == "full"
    rates, gammas = (RATES_FULL, (1.0,)) if full else (RATES, GAMMAS)
    if quick:
        rates, gammas = rates[1:2], gammas[:1]
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


def _pooled(data: ImageSet, side: int) -> ImageSet:
    """Return the images with every ``side x side`` pixels averaged; test images: some."""

    def pooled(part: Pictures) -> Pictures:
        return Pictures(nn.functional.avg_pool2d(part.inputs, side), part.targets)

    some = np.random.default_rng(1).permutation(len(data.test))[:TEST_IMAGES]
    return ImageSet(
        pooled(data.train),
        pooled(data.validation.take(np.arange(TUNING_IMAGES))),
        pooled(data.test.take(some)),
        data.classes,
    )


def _train(run: Run, data: ImageSet, out: Path) -> tuple[dict[str, Any], Tensor]:
    """Return what a run cost and the models ``(n, P)``; from the disk, if it was done before."""
    kept, facts = out / f"{run.name}.npy", out / f"{run.name}.json"
    if facts.exists():
        models = torch.from_numpy(np.load(io.BytesIO(kept.read_bytes())))
        return json.loads(facts.read_text()), models
    began, cpu = time.monotonic(), time.process_time()
    nodes, ledger = _nodes(run, data.train), Ledger()
    try:
        run_together(nodes, rounds=run.rounds, ledger=ledger)
        diverged = ""
    except (CheckError, DataError) as error:
        diverged = str(error)
    result = {
        "run": dataclasses.asdict(run),
        "diverged": diverged,
        "bytes": ledger.to_json()["total"],
        "seconds": time.monotonic() - began,
        "cpu_seconds": time.process_time() - cpu,
    }
    models = torch.stack([node.vector for node in nodes])
    buffer = io.BytesIO()
    np.save(buffer, models.numpy())
    out.mkdir(parents=True, exist_ok=True)
    write_durably(kept, buffer.getvalue())
    write_durably(facts, json.dumps(result).encode())
    return result, models


def _nodes(run: Run, train: Pictures) -> list[Node]:
    _, channels, side, _ = train.inputs.shape
    module = lenet(channels, side, 10, seed=run.seed)
    parts = (
        slices(train.targets, run.nodes)
        if run.nodes == SLICED
        else halves(train.targets, run.nodes, seed=run.seed)
    )
    local = LocalSettings(
        rate=run.rate, rounds=run.rounds, momentum=run.momentum, nesterov=run.momentum > 0
    )
    settings = NGCSettings(alpha=run.alpha, gamma=run.gamma)
    make: dict[str, Callable[..., Node]] = {"full": FullSharing, "ngc": NGC, "compngc": CompNGC}
    extra = () if run.method == "full" else (settings,)
    nodes = []
    for k, row in enumerate(Graph.make("ring", run.nodes).neighbours):
        learns = problem(module, train.take(parts[k]), batch=BATCH, node=k, seed=run.seed)
        nodes.append(make[run.method](Seat(k, row, run.seed), learns, local, *extra))
    return nodes


def _scores(models: Tensor, part: Pictures) -> tuple[list[float], float]:
    """Return the accuracy of every model and that of their mean."""
    _, channels, side, _ = part.inputs.shape
    module = lenet(channels, side, 10, seed=0)
    shared = problem(module, part, batch=1, node=0, seed=0)
    own = [accuracy(module, shared, model, part) for model in models]
    return own, accuracy(module, shared, models.mean(0), part)


def _tuned(run: Run, data: ImageSet, out: Path) -> dict[str, Any]:
    result, models = _train(run, data, out)
    own, mean = ([0.0], 0.0) if result["diverged"] else _scores(models, data.validation)
    result |= {"validation": float(np.mean(own)), "validation_mean_model": mean}
    print(
        f"{run.name}: rate {run.rate:g}, momentum {run.momentum:g}, gamma {run.gamma:g}: "
        f"validation {result['validation']:.4f}, mean model {mean:.4f}, "
        f"{result['cpu_seconds']:.0f} s {result['diverged']}",
        flush=True,
    )
    return result


def _tested(run: Run, data: ImageSet, out: Path) -> dict[str, Any]:
    result, models = _train(run, data, out)
    own, mean = _scores(models, data.test)
    accuracies = {"test": float(np.mean(own)), "worst": min(own), "mean_model": mean}
    print(f"{run.name}: test {accuracies}", flush=True)
    return result | accuracies


def wire() -> dict[str, dict[str, float]]:
    """Return the bytes of one first- and one second-round message of the five-layer CNN."""
    return {}


def _lines(table: dict[str, Any]) -> list[str]:
    return [json.dumps(table)]


def _wire_lines(found: dict[str, dict[str, float]]) -> list[str]:
    return [json.dumps(found)]


if __name__ == "__main__":
    raise SystemExit(guarded(main))

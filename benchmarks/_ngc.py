"""One training of `benchmarks.ngc`: the split, the nodes, the models it keeps on the disk."""

import dataclasses
import hashlib
import io
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks._cotrain import ImageSet, Pictures, accuracy, lenet, load, problem, slices
from benchmarks._readers.sets import SetName
from edge_stl.cotrain import (
    NGC,
    CompNGC,
    FullSharing,
    Graph,
    Ledger,
    LocalSettings,
    ModuleProblem,
    NGCSettings,
    Node,
    Seat,
    run_together,
)
from edge_stl.durable import write_durably
from edge_stl.errors import CheckError, DataError


SLICED = 5
"""Boxes that get equal slices of the images sorted by label; others get halves of classes."""
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


def images(name: SetName, data: Path, *, pool: int) -> ImageSet:
    """Return the images with every ``pool x pool`` pixels averaged; of the test images, some."""
    found = load(name, data, Path("runs") / "cotrain", images=IMAGES)

    def pooled(part: Pictures) -> Pictures:
        return Pictures(nn.functional.avg_pool2d(part.inputs, pool), part.targets)

    some = np.random.default_rng(1).permutation(len(found.test))[:TEST_IMAGES]
    return ImageSet(
        pooled(found.train),
        pooled(found.validation.take(np.arange(TUNING_IMAGES))),
        pooled(found.test.take(some)),
        found.classes,
    )


def train(run: Run, data: ImageSet, out: Path) -> tuple[dict[str, Any], Tensor]:
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
    nodes: list[Node] = []
    for k, row in enumerate(Graph.make("ring", run.nodes).neighbours):
        learns = problem(module, train.take(parts[k]), batch=BATCH, node=k, seed=run.seed)
        nodes.append(_node(run.method, Seat(k, row, run.seed), learns, local, settings))
    return nodes


def _node(
    method: str, seat: Seat, learns: ModuleProblem, local: LocalSettings, settings: NGCSettings
) -> Node:
    if method == "full":
        return FullSharing(seat, learns, local)
    return (CompNGC if method == "compngc" else NGC)(seat, learns, local, settings)


def scores(
    run: Run, models: Tensor, data: ImageSet, which: str, out: Path
) -> tuple[list[float], float]:
    """Return the accuracy of every model on the validation or test images, and of their mean."""
    kept = out / f"{run.name}.{which}.json"
    if not kept.exists():
        part = data.test if which == "test" else data.validation
        _, channels, side, _ = part.inputs.shape
        module = lenet(channels, side, 10, seed=0)
        shared = problem(module, part, batch=1, node=0, seed=0)
        own = [accuracy(module, shared, model, part) for model in models]
        mean = accuracy(module, shared, models.mean(0), part)
        write_durably(kept, json.dumps({"own": own, "mean": mean}).encode())
    found = json.loads(kept.read_text())
    return found["own"], found["mean"]


def cnn5(*, seed: int) -> nn.Sequential:
    """Return the authors' five-layer CNN for 3 x 32 x 32, with group norm: 76,010 numbers."""

    def block(before: int, after: int) -> list[nn.Module]:
        convolution = nn.Conv2d(before, after, 3, padding=1, bias=False)
        return [convolution, nn.GroupNorm(2, after), nn.ReLU()]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = [*block(3, 32), *block(32, 32), nn.MaxPool2d(2), *block(32, 64), nn.MaxPool2d(2)]
        body += [*block(64, 64), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1024, 10)]
        return nn.Sequential(*body)


def wire() -> dict[str, dict[str, int]]:
    """Return what one round on a ring of five with the five-layer CNN sends, per message."""
    module, found = cnn5(seed=0), {}
    pictures = Pictures(torch.randn(8, 3, 32, 32), torch.arange(8))
    for name, method, alpha in (
        ("full", "full", 1.0),
        ("ngc, alpha 0", "ngc", 0.0),
        ("compngc, alpha 0", "compngc", 0.0),
        ("ngc", "ngc", 1.0),
        ("compngc", "compngc", 1.0),
    ):
        local, ledger = LocalSettings(rate=0.01, rounds=1), Ledger()
        nodes = [
            _node(
                method,
                Seat(k, row),
                problem(module, pictures, batch=2, node=k, seed=0),
                local,
                NGCSettings(alpha=alpha),
            )
            for k, row in enumerate(Graph.make("ring", 5).neighbours)
        ]
        run_together(nodes, rounds=1, ledger=ledger)
        sent = ledger.total
        edges = 10
        found[name] = {"values": sent.values // edges, "headers": sent.headers // edges}
    return found

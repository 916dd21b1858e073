"""Gradients compressed by PCA: accuracy on CIFAR-10 and bytes, beside all-reduce and PowerSGD.

Two and four workers train one network on a part of CIFAR-10 each. The rate of every method is
chosen on validation images with the first seed and two workers; test images are looked at once,
for the chosen rates. The workers are in one process, which tests prove equal to
DistributedDataParallel; torch's PowerSGD hook, at equal bytes, is torch's code over an all-reduce
among threads. The bytes of a step are counted under DistributedDataParallel over gloo. The same
command goes on where it was stopped.
"""

import hashlib
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks._common import commit, guarded, machine, parser, whole
from benchmarks._cotrain import ImageSet, accuracy, evenly, load, problem
from benchmarks._pca_ranks import count_bytes, train_power_sgd
from edge_stl.cotrain import Ledger, LocalSettings, PCASettings, Replicas
from edge_stl.durable import write_durably


WORKERS = (2, 4)
RATES = (0.01, 0.02, 0.05)
MOMENTUM = 0.9
TORCH_RANK = 5  # 27,793 numbers per compressed step; ours 27,695
REFRESH = 100
METHODS: dict[str, PCASettings | int] = {
    "all-reduce": PCASettings(form="none"),
    "PCA, power iteration": PCASettings(),
    "torch's PowerSGD hook": TORCH_RANK,
    "PCA, power iteration, started later": PCASettings(),
    "PCA, shared basis": PCASettings(form="shared", share=0.0285, refresh=REFRESH),
    "PCA, all-gather": PCASettings(form="gather", share=0.029),
}
"""Methods, the shares such that less than 3 % of all numbers travel, vectors included."""


LATER = 0.3
"""Share of the steps that is plain where compression starts later; else a tenth."""


@dataclass(frozen=True)
class Size:
    """How much is computed.

    Attributes:
        images: for training.
        steps: of every run.
        batch: images of a step, over all workers.
    """

    images: int = 10_000
    steps: int = 1000
    batch: int = 64

    def start(self, method: str) -> int:
        """Return how many steps of a method are plain."""
        return max(2, int(self.steps * (LATER if method.endswith("later") else 0.1)))


@dataclass(frozen=True)
class Run:
    """One training."""

    method: str
    workers: int
    rate: float
    seed: int


def network(*, seed: int) -> nn.Sequential:
    """Return 3x3 convolutions of 64, 128, 256 and 256 channels with group norm: 964,170 numbers.

    Images are halved to 16 x 16 first: two cores are slow.
    """

    def block(before: int, after: int, stride: int) -> list[nn.Module]:
        convolution = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        return [convolution, nn.GroupNorm(8, after), nn.ReLU()]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = [*block(3, 64, 2), *block(64, 128, 2), *block(128, 256, 2), *block(256, 256, 1)]
        return nn.Sequential(
            nn.AvgPool2d(2), *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10)
        )


class Bench:
    """Runs that are kept: a benchmark that was stopped goes on.

    Args:
        images: the set.
        size: how much is computed.
        out: folder of results and trained numbers.
    """

    def __init__(self, images: ImageSet, size: Size, out: Path) -> None:
        self.images, self.size, self.out = images, size, out
        self.file = out / "results.json"
        self.known: dict[str, dict[str, Any]] = {}
        if self.file.exists():
            self.known = json.loads(self.file.read_text())

    def validation(self, run: Run) -> float:
        """Return the accuracy on validation images."""
        return float(self._done(run)["validation"])

    def test(self, run: Run) -> float:
        """Return the accuracy on test images, looked at once."""
        found = self._done(run)
        if "test" not in found:
            vector = torch.from_numpy(np.load(self._path(run)))
            module = network(seed=run.seed)
            shared = problem(module, self.images.train, batch=1, node=0, seed=0)
            found["test"] = accuracy(module, shared, vector, self.images.test)
            self._save()
        return float(found["test"])

    def per_step(self, method: str, workers: int) -> list[int]:
        """Return the bytes that a rank hands over in each of a few steps, counted in torch."""
        key = f"bytes {workers}"
        if key not in self.known:
            few = {
                name: s if isinstance(s, int) else replace(s, start=3, refresh=4)
                for name, s in METHODS.items()
            }
            counted = count_bytes(network(seed=0), few, ranks=workers, folder=self.out)
            self.known[key] = dict(counted)
            self._save()
        return list(self.known[key][method])

    def traffic(self, run: Run) -> int:
        """Return the bytes that a worker handed over in a whole run."""
        return int(self._done(run)["payload"])

    def _done(self, run: Run) -> dict[str, Any]:
        key = f"{run.method} {run.workers} {run.rate:g} {run.seed}"
        if key not in self.known:
            began = time.monotonic()
            self.known[key] = asdict(run) | self._train(run)
            self.known[key]["seconds"] = round(time.monotonic() - began, 1)
            self._save()
            print(f"{key}: {100 * self.known[key]['validation']:.2f} % validation", flush=True)
        return self.known[key]

    def _train(self, run: Run) -> dict[str, Any]:
        size, module = self.size, network(seed=run.seed)
        local = LocalSettings(
            rate=run.rate, rounds=size.steps, momentum=MOMENTUM, schedule="cosine"
        )
        parts, each = self._parts(run.workers, run.seed), size.batch // run.workers
        settings = METHODS[run.method]
        problems = [
            problem(module, part, batch=each, node=k, seed=run.seed) for k, part in enumerate(parts)
        ]
        if isinstance(settings, int):
            vector, payload = train_power_sgd(
                problems, local, rank=settings, start=size.start(run.method)
            )
        else:
            settings = replace(settings, start=size.start(run.method), seed=run.seed)
            replicas = Replicas(problems, local, settings)
            replicas.run(rounds=size.steps, ledger=Ledger())
            vector = replicas.vector
            payload = sum(t.payload for t in replicas.compressors[0].traffic.values())
        np.save(self._path(run), vector.numpy())
        return {
            "payload": payload,
            "validation": accuracy(module, problems[0], vector, self.images.validation),
        }

    def _parts(self, workers: int, seed: int) -> list[Any]:
        index = evenly(self.images.train.targets, workers, seed=seed)
        return [self.images.train.take(part) for part in index]

    def _path(self, run: Run) -> Path:
        name = hashlib.sha256(repr(run).encode()).hexdigest()[:16]
        return self.out / f"{name}.npy"

    def _save(self) -> None:
        write_durably(self.file, json.dumps(self.known, indent=1).encode())


def main() -> int:
    """Run everything, print the table."""
    options = parser(__doc__)
    options.add_argument("--quick", action="store_true", help="a few steps: does it run?")
    options.add_argument("--steps", type=whole, default=Size.steps)
    options.add_argument("--images", type=whole, default=Size.images)
    options.add_argument("--methods", type=whole, default=len(METHODS), help="only the first")
    options.set_defaults(seeds=2)
    given = options.parse_args()
    torch.set_num_threads(1)
    size = Size(400, 8, 16) if given.quick else Size(given.images, given.steps)
    out = given.out or Path("runs/pca-quick" if given.quick else "runs/pca")
    out.mkdir(parents=True, exist_ok=True)
    kept = Path("runs/cotrain")
    kept.mkdir(parents=True, exist_ok=True)
    bench = Bench(load("cifar10", given.data, kept, images=size.images), size, out)
    rows = [
        _row(bench, method, workers, given.seeds)
        for method in list(METHODS)[: given.methods]
        for workers in WORKERS
    ]
    for row in rows:
        row["compressed step"] = min(bench.per_step(row["method"], row["workers"]))
    table = {"machine": machine(), "commit": commit(), "size": asdict(size), "rows": rows}
    write_durably(out / "table.json", json.dumps(table, indent=1).encode())
    print(json.dumps(table) if given.json else "\n".join(_lines(bench, rows, table)))
    return 0


def _row(bench: Bench, method: str, workers: int, seeds: int) -> dict[str, Any]:
    validated = {rate: bench.validation(Run(method, WORKERS[0], rate, 0)) for rate in RATES}
    rate = max(validated, key=lambda r: validated[r])
    runs = [Run(method, workers, rate, seed) for seed in range(seeds)]
    tests = [bench.test(run) for run in runs]
    return {
        "method": method,
        "workers": workers,
        "rate": rate,
        "validation": validated,
        "test": tests,
        "run": bench.traffic(runs[0]),
    }


def _lines(bench: Bench, rows: list[dict[str, Any]], table: dict[str, Any]) -> list[str]:
    whole_step = 4 * sum(p.numel() for p in network(seed=0).parameters())
    all_steps = whole_step * bench.size.steps
    lines = [
        f"commit {table['commit']}, {table['machine']}, {table['size']}",
        "",
        "| what | workers | rate | test accuracy % | bytes of a compressed step | of all-reduce | "
        "whole run, of all-reduce |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        test = 100 * np.array(row["test"])
        spread = f" ± {test.std(ddof=1):.2f}" if len(test) > 1 else ""
        lines.append(
            f"| {row['method']} | {row['workers']} | {row['rate']:g} | {test.mean():.2f}{spread} | "
            f"{row['compressed step']:,} | {100 * row['compressed step'] / whole_step:.2f} % | "
            f"{100 * row['run'] / all_steps:.2f} % |"
        )
    return lines


if __name__ == "__main__":
    raise SystemExit(guarded(main))

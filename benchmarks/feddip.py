"""FedAvg and FedDIP: accuracy against the bytes that went down and up.

Ten clients, half of them training in a round, with equal random parts of the images or with uneven
shares of every class (``--split dirichlet:0.3``); the network is the one of `benchmarks._cotrain`.
Rate and penalty of each row are chosen on validation images with seed 0, over the grid below, the
rate first, with the penalty of the authors, then the penalty; the test images are looked at once,
at the end, with the chosen ones.
Every run that is done is kept under ``runs/feddip``, and the command goes on where it was stopped.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import _cotrain as images
from benchmarks._common import append_results, guarded, parser, points, report
from edge_stl.cotrain import (
    SERVER,
    FedClient,
    FedDIPSettings,
    FedServer,
    Ledger,
    LocalSettings,
    run_server,
)
from edge_stl.durable import write_durably
from edge_stl.fleet._split import IID, read_split, split_images


CLIENTS, FRACTION, BATCH, WEIGHT_DECAY, DECAY = 10, 0.5, 32, 5e-4, 0.998
RATES = (0.01, 0.02, 0.05, 0.1, 0.2)
PENALTIES = (1e-3, 1e-4, 1e-2)
"""The first is the authors' and that of all rates."""
ROWS: dict[str, dict[str, Any]] = {
    "FedAvg": {},
    "FedDIP 0.9": {"sparsity": 0.9},
    "FedDIP 0.95": {"sparsity": 0.95},
    "FedDIP 0.95, dense uploads": {"sparsity": 0.95, "upload": "dense"},
    "FedDIP 0.95, regrow": {"sparsity": 0.95, "masks": "regrow"},
}
MAIN = 3
"""How many rows there are without ``--forms``."""
TUNED_AS = {
    "FedDIP 0.95, dense uploads": "FedDIP 0.95",
    "FedDIP 0.95, regrow": "FedDIP 0.95",
}
"""Rows that differ from another in one thing alone and so have its settings."""


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.set_defaults(seeds=2)
    options.add_argument("--set", default="mnist", choices=("mnist", "cifar10"))
    options.add_argument("--shrink", type=int, default=2, help="area averaging of the images")
    options.add_argument("--split", type=read_split, default=IID, help="iid or dirichlet:A")
    options.add_argument("--rounds", type=int, default=40)
    options.add_argument("--steps", type=int, default=10, help="minibatch steps of a client, tau")
    options.add_argument("--every", type=int, default=5, help="rounds between masks, R")
    options.add_argument("--forms", action="store_true", help="dense uploads and regrow as well")
    options.add_argument("--quick", action="store_true", help="a few rounds, to see that it runs")
    options.add_argument("--append", action="store_true", help="append to docs/results.md")
    chosen = options.parse_args()
    if chosen.quick:
        chosen.rounds, chosen.steps, chosen.every, chosen.seeds = 4, 1, 2, 1
    torch.set_num_threads(1)
    out = chosen.out or Path("runs") / "feddip"
    out.mkdir(parents=True, exist_ok=True)
    shared = Path("runs") / "cotrain"
    shared.mkdir(parents=True, exist_ok=True)
    data = _shrunk(images.load(chosen.set, chosen.data, shared), chosen.shrink)
    lab = Lab(data, chosen, out)
    rows = {}
    for name in list(ROWS)[: None if chosen.forms or chosen.quick else MAIN]:
        settings = lab.best(TUNED_AS.get(name, name))
        runs = [lab.run(name, *settings, seed=seed) for seed in range(chosen.seeds)]
        tests = [lab.accuracy(run, seed, data.test) for seed, run in enumerate(runs)]
        rows[name] = {"rate": settings[0], "penalty": settings[1], "test": tests, "runs": runs}
    _print(rows, chosen, out)


def _shrunk(data: images.ImageSet, factor: int) -> images.ImageSet:
    """Return images of a side so many times smaller, as a coarser camera has them."""

    def part(of: images.Pictures) -> images.Pictures:
        return images.Pictures(torch.nn.functional.avg_pool2d(of.inputs, factor), of.targets)

    return images.ImageSet(part(data.train), part(data.validation), part(data.test), data.classes)


class Lab:
    """Runs and their results, kept in a folder.

    Args:
        data: the images.
        chosen: the options.
        out: the folder.
    """

    def __init__(self, data: images.ImageSet, chosen: Any, out: Path) -> None:
        self.data, self.chosen, self.out = data, chosen, out

    def best(self, name: str) -> tuple[float, float]:
        """Return the rate and penalty with the best validation accuracy, of equals the smaller."""
        first, *others = PENALTIES if ROWS[name] else (0.0,)
        tried: dict[tuple[float, float], float] = {}

        def best() -> tuple[float, float]:
            return max(tried, key=lambda pair: (tried[pair], -pair[0], -pair[1]))

        for rate in RATES[:1] if self.chosen.quick else RATES:
            tried[rate, first] = self.run(name, rate, first, seed=0)["validation"]
        rate = best()[0]
        for penalty in others[:1] if self.chosen.quick else others:
            tried[rate, penalty] = self.run(name, rate, penalty, seed=0)["validation"]
        return best()

    def run(self, name: str, rate: float, penalty: float, *, seed: int) -> dict[str, Any]:
        """Train once, or read what was kept of it."""
        c = self.chosen
        dealt = "" if c.split == IID else f"-{c.split}".replace(":", "-")
        kind = f"{c.set}-by{c.shrink}{dealt}-T{c.rounds}-tau{c.steps}-R{c.every}"
        file = f"{kind}-{name.replace(' ', '-').replace(',', '')}-{rate:g}-{penalty:g}-seed{seed}"
        kept = self.out / f"{file}.json"
        done: dict[str, Any]
        if kept.exists():
            done = json.loads(kept.read_text())
            return done
        began = time.monotonic()
        server, ledger, curve = self._train(name, rate, penalty, seed)
        model = self.out / f"{file}.npy"
        with model.open("wb") as stream:
            np.save(stream, server.vector.numpy())
        done = {
            "name": name,
            "rate": rate,
            "penalty": penalty,
            "seed": seed,
            "validation": self._score(server.vector, seed, self.data.validation),
            "curve": curve,
            "zeros": server.sparsity,
            "down": ledger.node(SERVER).total,
            "up": ledger.total.total - ledger.node(SERVER).total,
            "masks": ledger.total.indices,
            "model": model.name,
            "refused": server.refused,
            "seconds": time.monotonic() - began,
        }
        write_durably(kept, json.dumps(done).encode())
        print(
            f"{file}: validation {100 * done['validation']:.2f} %, {done['seconds']:.0f} s",
            flush=True,
        )
        return done

    def accuracy(self, run: dict[str, Any], seed: int, part: images.Pictures) -> float:
        """Return the accuracy, 0..1, of a kept model."""
        return self._score(torch.from_numpy(np.load(self.out / run["model"])), seed, part)

    def _module(self, seed: int) -> torch.nn.Sequential:
        _, channels, side, _ = self.data.train.inputs.shape
        return images.lenet(channels, side, self.data.classes, seed=seed)

    def _score(self, vector: Tensor, seed: int, part: images.Pictures) -> float:
        module = self._module(seed)
        some = images.problem(module, self.data.train, batch=BATCH, node=0, seed=seed)
        return images.accuracy(module, some, vector, part)

    def _train(
        self, name: str, rate: float, penalty: float, seed: int
    ) -> tuple[FedServer, Ledger, list[tuple[int, float, float]]]:
        c, module = self.chosen, self._module(seed)
        local = LocalSettings(rate, c.rounds, steps=c.steps, weight_decay=WEIGHT_DECAY)
        settings = FedDIPSettings.fedavg(fraction=FRACTION, decay=DECAY)
        if ROWS[name]:
            settings = FedDIPSettings(FRACTION, DECAY, every=c.every, penalty=penalty, **ROWS[name])
        targets = self.data.train.targets
        if c.split == IID:
            parts = images.evenly(targets, CLIENTS, seed=seed)
        else:
            parts = split_images(c.split, targets.numpy(), boxes=CLIENTS, seed=seed)
        clients = []
        for k, part in enumerate(parts):
            own = self.data.train.take(part)
            problem = images.problem(module, own, batch=BATCH, node=k, seed=seed)
            clients.append(FedClient(k, problem, local, images=len(own), seed=seed))
        first = images.problem(module, self.data.train, batch=BATCH, node=0, seed=seed)
        server = FedServer(first.start(), first.shapes, local, settings, clients=CLIENTS, seed=seed)
        ledger, curve = Ledger(), []
        few = self.data.validation.take(np.arange(1000))

        def after(number: int, loss: float) -> None:
            if number % 10 == 9:  # noqa: PLR2004
                share = images.accuracy(module, first, server.vector, few)
                curve.append((number + 1, loss, share))

        run_server(server, clients, ledger=ledger, after=after)
        return server, ledger, curve


def _print(rows: dict[str, dict[str, Any]], chosen: Any, out: Path) -> None:
    lines = [
        "| method | rate | penalty | zeros % | test accuracy % | against FedAvg, points | "
        "MB down | MB up | of them masks | bytes against FedAvg % |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    plain = rows["FedAvg"]
    for name, row in rows.items():
        change = [a - b for a, b in zip(row["test"], plain["test"], strict=True)]
        down, up, masks = (np.mean([r[key] for r in row["runs"]]) / 1e6 for key in _BYTES)
        base = np.mean([r["down"] + r["up"] for r in plain["runs"]]) / 1e6
        penalty = f"{row['penalty']:g}" if ROWS[name] else "-"
        lines.append(
            f"| {name} | {row['rate']:g} | {penalty} | "
            f"{100 * np.mean([r['zeros'] for r in row['runs']]):.2f} | {points(row['test'])} | "
            f"{points(change)} | {down:.2f} | {up:.2f} | {masks:.3f} | "
            f"{100 * (down + up) / base:.1f} |"
        )
    both = "FedDIP 0.95", "FedDIP 0.95, dense uploads"
    same = None
    if both[1] in rows:
        pairs = zip(*(rows[name]["runs"] for name in both), strict=True)
        same = all(
            bool(np.array_equal(np.load(out / a["model"]), np.load(out / b["model"])))
            for a, b in pairs
        )
        word = "yes" if same else "NO"
        lines += ["", f"Sparse uploads gave the model of dense uploads bit by bit: {word}."]
    lines += [
        "",
        f"{chosen.set} with a side {chosen.shrink} times smaller, {CLIENTS} clients, split "
        f"{chosen.split}, {FRACTION:g} of them in each of {chosen.rounds} rounds, {chosen.steps} "
        f"steps of {BATCH} images, a mask every {chosen.every} rounds; {chosen.seeds} seeds. "
        f"Chosen on validation images with seed 0: the rate among {_words(RATES)}, FedDIP's "
        f"penalty among {_words(sorted(PENALTIES))}.",
    ]
    report({"benchmark": "feddip", "rows": rows, "same": same}, lines, as_json=chosen.json)
    if chosen.append:
        append_results("FedAvg and FedDIP", lines)


def _words(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)


_BYTES = ("down", "up", "masks")


if __name__ == "__main__":
    guarded(main)

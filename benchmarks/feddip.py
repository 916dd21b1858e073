"""FedAvg and FedDIP: accuracy against the bytes that went down and up.

Ten clients with equal random parts of the images, half of them training in a round; the network is
the one of `benchmarks._cotrain`. Rate and penalty of each row are chosen on validation images with
seed 0, over the grid below, the rate first, with the largest penalty, then the penalty; the test
images are looked at once, at the end, with the chosen ones.
Every run that is done is kept under ``runs/feddip``, and the command goes on where it was stopped.
"""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import _cotrain as images
from benchmarks._common import append_results, guarded, machine, parser, points, report
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


CLIENTS, FRACTION, BATCH, WEIGHT_DECAY, DECAY = 10, 0.5, 32, 5e-4, 0.998
RATES = (0.05, 0.1, 0.2)
PENALTIES = (0.0, 1e-3)
ROWS: dict[str, dict[str, Any]] = {
    "FedAvg": {},
    "FedDIP 0.9": {"sparsity": 0.9},
    "FedDIP 0.95": {"sparsity": 0.95},
    "FedDIP 0.95, dense uploads": {"sparsity": 0.95, "upload": "dense"},
    "FedDIP 0.95, regrow": {"sparsity": 0.95, "masks": "regrow"},
}
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
    options.add_argument("--rounds", type=int, default=40)
    options.add_argument("--steps", type=int, default=10, help="minibatch steps of a client, tau")
    options.add_argument("--every", type=int, default=5, help="rounds between masks, R")
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
    for name in ROWS:
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
        penalties = PENALTIES if ROWS[name] else PENALTIES[:1]
        tried: dict[tuple[float, float], float] = {}

        def best() -> tuple[float, float]:
            return max(tried, key=lambda pair: (tried[pair], -pair[0], -pair[1]))

        for rate in RATES[:1] if self.chosen.quick else RATES:
            pair = rate, penalties[-1]
            tried[pair] = self.run(name, *pair, seed=0)["validation"]
        for penalty in penalties[:-1]:
            pair = best()[0], penalty
            tried[pair] = self.run(name, *pair, seed=0)["validation"]
        return best()

    def run(self, name: str, rate: float, penalty: float, *, seed: int) -> dict[str, Any]:
        """Train once, or read what was kept of it."""
        c = self.chosen
        kind = f"{c.set}-by{c.shrink}-T{c.rounds}-tau{c.steps}-R{c.every}"
        file = f"{kind}-{name.replace(' ', '-').replace(',', '')}-{rate:g}-{penalty:g}-seed{seed}"
        kept = self.out / f"{file}.json"
        if kept.exists():
            found: dict[str, Any] = json.loads(kept.read_text())
            return found
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
        print(  # noqa: T201
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
        parts = images.evenly(self.data.train.targets, CLIENTS, seed=seed)
        clients = []
        for k, part in enumerate(parts):
            own = self.data.train.take(part)
            problem = images.problem(module, own, batch=BATCH, node=k, seed=seed)
            clients.append(FedClient(k, problem, local, images=len(own), seed=seed))
        first = clients[0].problem
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
        "| method | rate | penalty | zeros % | test accuracy % | against FedAvg, points | MB down | "
        "MB up | of them masks | bytes against FedAvg % |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    plain = rows["FedAvg"]
    for name, row in rows.items():
        change = [a - b for a, b in zip(row["test"], plain["test"], strict=True)]
        down, up, masks = (np.mean([r[key] for r in row["runs"]]) / 1e6 for key in _BYTES)
        base = np.mean([r["down"] + r["up"] for r in plain["runs"]]) / 1e6
        lines.append(
            f"| {name} | {row['rate']:g} | {row['penalty']:g} | "
            f"{100 * np.mean([r['zeros'] for r in row['runs']]):.2f} | {points(row['test'])} | "
            f"{points(change)} | {down:.2f} | {up:.2f} | {masks:.3f} | "
            f"{100 * (down + up) / base:.1f} |"
        )
    same = [
        bool(np.array_equal(np.load(out / a["model"]), np.load(out / b["model"])))
        for a, b in zip(
            rows["FedDIP 0.95"]["runs"], rows["FedDIP 0.95, dense uploads"]["runs"], strict=True
        )
    ]
    lines += [
        "",
        f"{chosen.set} with a side {chosen.shrink} times smaller, {CLIENTS} clients with equal random parts, {FRACTION:g} of them in each of "
        f"{chosen.rounds} rounds, {chosen.steps} steps of {BATCH} images, a mask every "
        f"{chosen.every} rounds; {chosen.seeds} seeds. Chosen on {images._VALIDATION} validation "
        f"images with seed 0: rates {', '.join(map('{:g}'.format, RATES))}, penalties "
        f"{', '.join(map('{:g}'.format, PENALTIES))}. Sparse uploads gave the model of dense "
        f"uploads bit by bit: {'yes' if all(same) else 'NO'}. {machine()}.",
    ]
    report({"benchmark": "feddip", "rows": rows, "same": same}, lines, as_json=chosen.json)
    if chosen.append:
        append_results("FedAvg and FedDIP", lines)


_BYTES = ("down", "up", "masks")


if __name__ == "__main__":
    guarded(main)

"""What a low budget costs: full sharing, JWINS, random sampling and CHOCO-SGD.

16 nodes on CIFAR-10, each with four shards of images sorted by label (four to eight of the ten
classes), on a random graph where everybody has three neighbours; three steps of eight images a
round, the network and the split of the JWINS authors' tutorial. Every method has its rate, and
CHOCO-SGD its consensus step, chosen on validation images over the grid printed below the table: all
settings run a quarter of the rounds, the best two half of them, the better one all. Then the other
of the two and, where the best lies at the edge of the grid, the next one beyond it run all rounds
as well, until none is better. That run is seed 0's; other seeds deal images, graph, network and
draws anew. Accuracy is that on test images of the nodes' own models, averaged, and of the mean of
the models. Bytes are those of the ledger: everything that leaves a node, once per receiver. What is
measured is kept in ``--out`` and not measured again.
"""

import argparse
import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import _cotrain as data
from benchmarks._common import COMMIT, guarded, parser, report, whole
from edge_stl.cotrain import (
    Choco,
    ChocoSettings,
    FullSharing,
    Graph,
    Jwins,
    JwinsSettings,
    Ledger,
    LocalSettings,
    Node,
    RandomSampling,
    RandomSettings,
    Seat,
    run_together,
)
from edge_stl.durable import make_folder, write_durably
from edge_stl.errors import CheckError, DataError


NODES, GRAPH, SHARDS, BATCH, STEPS = 16, "regular:3", 4, 8, 3
RATES = (0.003, 0.01, 0.03)
GAMMAS = (0.2, 0.4, 0.8)
BEYOND_RATES, BEYOND_GAMMAS = (0.001, 0.1), (0.1, 1.0)
ROUNDS = 80

Settings = JwinsSettings | RandomSettings | ChocoSettings | None


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: what it says.
        kind: of node.
        settings: of the method, without the consensus step.
        gammas: consensus steps to try.
    """

    name: str
    kind: type[Node]
    settings: Settings = None
    gammas: tuple[float | None, ...] = (None,)


def _low(share: float, *, full: float | None = None) -> JwinsSettings:
    often = share if full is None else full
    return JwinsSettings(shares=(share, 1.0), probabilities=(1 - often, often))


_EIGHT = (0.05, 0.08, 0.11, 0.14, 0.17, 0.2, 0.23, 0.45)  # the published list, about halved


# the shares of the baselines are such that bytes, with CHOCO's indices, are those of JWINS
ROWS = (
    Row("full sharing", FullSharing),
    Row("JWINS, published cut-offs", Jwins, JwinsSettings()),
    Row("JWINS, 20 %", Jwins, _low(0.1)),
    Row("JWINS, 20 %, full models more often", Jwins, _low(0.03, full=0.17)),
    Row("JWINS, 20 %, eight cut-offs", Jwins, JwinsSettings(shares=_EIGHT)),
    Row("random sampling, 20 %", RandomSampling, RandomSettings(0.206)),
    Row("CHOCO-SGD, 20 %", Choco, ChocoSettings(0.18), GAMMAS),
    Row("JWINS, 10 %", Jwins, _low(0.05)),
    Row("random sampling, 10 %", RandomSampling, RandomSettings(0.109)),
    Row("CHOCO-SGD, 10 %", Choco, ChocoSettings(0.092), GAMMAS),
)


@dataclass(frozen=True)
class Choice:
    """Settings that are tuned."""

    rate: float
    gamma: float | None = None


class Fleet:
    """All nodes of a run, which can be taken further.

    Args:
        row: the method.
        choice: its tuned settings.
        images: of the set.
        seed: of everything.
        rounds: of the whole run.
    """

    def __init__(
        self, row: Row, choice: Choice, images: data.ImageSet, *, seed: int, rounds: int
    ) -> None:
        channels, side = images.train.inputs.shape[1:3]
        module = data.lenet(channels, side, images.classes, seed=seed)
        self.module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        local = LocalSettings(rate=choice.rate, rounds=rounds, steps=STEPS)
        graph = Graph.make(GRAPH, NODES, seed=seed)
        parts = data.shards(images.train.targets, NODES, per_node=SHARDS, seed=seed)
        given: dict[str, Any] = {}
        if row.settings is not None:
            changed = {} if choice.gamma is None else {"gamma": choice.gamma}
            given["settings"] = type(row.settings)(**(asdict(row.settings) | changed))
        self.problems = [
            data.problem(self.module, images.train.take(part), batch=BATCH, node=k, seed=seed)
            for k, part in enumerate(parts)
        ]
        self.nodes = [
            row.kind(Seat(k, graph.neighbours[k], seed), self.problems[k], local, **given)
            for k in range(NODES)
        ]
        self.ledger, self.done = Ledger(), 0

    def advance(self, rounds: int) -> None:
        """Go on until so many rounds are over.

        Raises:
            CheckError, DataError: training diverged.
        """
        run_together(self.nodes, rounds=rounds, start=self.done, ledger=self.ledger)
        self.done = rounds

    def own(self, part: data.Pictures) -> list[float]:
        """Return the accuracy of every node's model."""
        return [self.accuracy(node.vector, part) for node in self.nodes]

    def mean(self, part: data.Pictures) -> float:
        """Return the accuracy of the mean of all models."""
        return self.accuracy(torch.stack([node.vector for node in self.nodes]).mean(0), part)

    def accuracy(self, vector: Tensor, part: data.Pictures) -> float:
        """Return the accuracy of a model."""
        return data.accuracy(self.module, self.problems[0], vector, part)


def tune(
    row: Row, images: data.ImageSet, *, rounds: int, validation: data.Pictures
) -> tuple[Choice, Fleet, list[dict[str, Any]]]:
    """Return the best settings of a row on validation images, its run, and what all of them gave.

    Raises:
        CheckError: all of them diverged.
    """
    grid = [Choice(rate, gamma) for rate in RATES for gamma in row.gammas]
    fleets = {c: Fleet(row, c, images, seed=0, rounds=rounds) for c in grid}
    tried: list[dict[str, Any]] = []
    for upto, keep in ((rounds // 4, 2), (rounds // 2, 1), (rounds, 1)):
        scores: dict[Choice, float] = {}
        for choice, fleet in fleets.items():
            try:
                fleet.advance(upto)
                scores[choice] = statistics.mean(fleet.own(validation))
            except (CheckError, DataError):
                scores[choice] = 0.0
            tried.append(asdict(choice) | {"rounds": upto, "accuracy": scores[choice]})
        best = sorted(scores, key=lambda c: -scores[c])[:keep]
        fleets = {c: fleets[c] for c in best if scores[c]}
        if not fleets:
            raise CheckError(f"{row.name}: every setting of the grid diverged. Lower the rates")
    ((choice, fleet),) = fleets.items()
    return choice, fleet, tried


def refine(
    row: Row,
    found: dict[str, Any],
    images: data.ImageSet,
    *,
    rounds: int,
    validation: data.Pictures,
) -> Fleet | None:
    """Try what `tune` may have left out at full length, and enter it into a row.

    Returns:
        The run of the best settings, if they are new ones.
    """
    tried: list[dict[str, Any]] = found["tried"]
    half = [t for t in tried if t["rounds"] == rounds // 2]
    waiting = [Choice(t["rate"], t["gamma"]) for t in half]
    best = Choice(**found["choice"])
    (score,) = (t["accuracy"] for t in tried if t["rounds"] == rounds)
    known, winner = {best}, None
    while waiting := [c for c in (*waiting, *_beyond(best)) if c not in known]:
        choice = waiting[0]
        known.add(choice)
        fleet = Fleet(row, choice, images, seed=0, rounds=rounds)
        try:
            fleet.advance(rounds)
            accuracy = statistics.mean(fleet.own(validation))
        except (CheckError, DataError):
            accuracy = 0.0
        tried.append(asdict(choice) | {"rounds": rounds, "accuracy": accuracy})
        if accuracy > score:
            best, score, winner = choice, accuracy, fleet
    found["choice"] = asdict(best)
    return winner


def _beyond(choice: Choice) -> list[Choice]:
    """Return the settings beyond the edges of the grid that a choice lies at."""
    found = []
    for edge, rate in zip((min(RATES), max(RATES)), BEYOND_RATES, strict=True):
        if choice.rate == edge:
            found.append(replace(choice, rate=rate))
    for edge, gamma in zip((min(GAMMAS), max(GAMMAS)), BEYOND_GAMMAS, strict=True):
        if choice.gamma == edge:
            found.append(replace(choice, gamma=gamma))
    return found


def measured(fleet: Fleet, test: data.Pictures) -> dict[str, Any]:
    """Return what a finished run showed: accuracies and bytes."""
    stack = torch.stack([node.vector for node in fleet.nodes])
    total = fleet.ledger.total
    own = fleet.own(test)
    return {
        "own": statistics.mean(own),
        "worst": min(own),
        "mean_model": fleet.mean(test),
        "apart": float((stack - stack.mean(0)).norm(dim=1).mean()),
        "bytes": total.total,
        **asdict(total),
    }


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.set_defaults(seeds=2)
    options.add_argument("--rounds", type=whole, default=ROUNDS, help="default %(default)s")
    options.add_argument("--test", type=whole, default=1000, help="images (default %(default)s)")
    options.add_argument(
        "--validation", type=whole, default=250, help="images (default %(default)s)"
    )
    options.add_argument("--quick", action="store_true", help="8 rounds, 200 images, one seed")
    chosen = options.parse_args()
    if chosen.quick:
        chosen.rounds, chosen.test, chosen.validation, chosen.seeds = 8, 200, 200, 1
    torch.set_num_threads(1)
    out = chosen.out or Path("runs") / "jwins"
    make_folder(out)
    kept = Path("runs") / "cotrain"  # the decoded images, which all benchmarks of co-training use
    make_folder(kept)
    images = data.load("cifar10", chosen.data, kept)
    file = out / f"{chosen.rounds}-rounds-{chosen.test}-{chosen.validation}.json"
    document: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {"rows": {}}
    for seed in range(chosen.seeds):
        for row in ROWS:
            _measure(row, images, seed, chosen, document["rows"].setdefault(row.name, {}))
            document |= {"benchmark": "jwins", "commit": COMMIT, "rounds": chosen.rounds}
            write_durably(file, json.dumps(document, indent=1).encode())
    report(document, table(document["rows"], chosen), as_json=chosen.json)


def _measure(
    row: Row, images: data.ImageSet, seed: int, chosen: argparse.Namespace, found: dict[str, Any]
) -> None:
    # the test images lie in order of their classes
    test = images.test.take(np.random.default_rng(0).permutation(len(images.test))[: chosen.test])
    runs: dict[str, Any] = found.setdefault("seeds", {})
    if seed == 0 and not found.get("refined"):
        validation = images.validation.take(np.arange(chosen.validation))
        options: dict[str, Any] = {"rounds": chosen.rounds, "validation": validation}
        fleet: Fleet | None = None
        if "choice" not in found:
            choice, fleet, tried = tune(row, images, **options)
            found |= {"choice": asdict(choice), "tried": tried}
        fleet = refine(row, found, images, **options) or fleet
        found["refined"] = True
        if fleet is not None:
            runs.clear()  # of other settings
            runs["0"] = measured(fleet, test)
    elif str(seed) in runs:
        return
    else:
        fleet = Fleet(row, Choice(**found["choice"]), images, seed=seed, rounds=chosen.rounds)
        fleet.advance(chosen.rounds)
        runs[str(seed)] = measured(fleet, test)
    if not chosen.json:
        print(f"seed {seed}, {row.name}: {found['choice']} {runs[str(seed)]}", flush=True)


def table(rows: Mapping[str, Any], chosen: argparse.Namespace) -> list[str]:
    """Return the lines for ``docs/results.md``."""
    seeds = [str(seed) for seed in range(chosen.seeds)]
    full = rows[ROWS[0].name]["seeds"]
    lines = [
        "| method | own models % | worst node % | mean model % | less than full sharing, points | "
        "bytes of full sharing's % | indices % | rate, gamma |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        runs = row["seeds"]
        own = [100 * runs[s]["own"] for s in seeds]
        less = [100 * (full[s]["own"] - runs[s]["own"]) for s in seeds]
        share = [100 * runs[s]["bytes"] / full[s]["bytes"] for s in seeds]
        indices = [100 * runs[s]["indices"] / runs[s]["bytes"] for s in seeds]
        worst = [100 * runs[s]["worst"] for s in seeds]
        mean = [100 * runs[s]["mean_model"] for s in seeds]
        tuned = ", ".join(f"{v:g}" for v in row["choice"].values() if v is not None)
        lines.append(
            f"| {name} | {_spread(own)} | {_spread(worst)} | {_spread(mean)} | {_spread(less)} | "
            f"{statistics.mean(share):.1f} | {statistics.mean(indices):.1f} | {tuned} |"
        )
    bytes_of_one = full["0"]["bytes"] / full["0"]["messages"]
    return [
        *lines,
        "",
        f"{len(seeds)} seeds, {chosen.rounds} rounds of {STEPS} steps of {BATCH} images, {NODES} "
        f"nodes, {GRAPH}, {SHARDS} shards a node; {chosen.test} test images, {chosen.validation} "
        f"validation images; a full message is {bytes_of_one:,.0f} bytes. Rates tried: "
        f"{', '.join(map(str, RATES))}, beyond {', '.join(map(str, BEYOND_RATES))}; gamma: "
        f"{', '.join(map(str, GAMMAS))}, beyond {', '.join(map(str, BEYOND_GAMMAS))}.",
    ]


def _spread(values: list[float]) -> str:
    mean = statistics.mean(values)
    return f"{mean:.1f} ± {statistics.stdev(values):.1f}" if len(values) > 1 else f"{mean:.1f}"


if __name__ == "__main__":
    raise SystemExit(guarded(main))

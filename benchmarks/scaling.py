"""How bytes, time and memory of the gossip methods grow with the number of nodes.

    python -m benchmarks.scaling

Random regular graphs of degree 4 in one process, the JWINS authors' network on CIFAR-10, three
minibatches of 8 a round. What is told for 96 nodes was not run: it is the line through the
measured points, which is right as far as that is straight (the residual stands beside it).
"""

import resource
import time
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks import _cotrain as data
from benchmarks._common import guarded, parser, report, whole
from edge_stl.cotrain import (
    NGC,
    Choco,
    CompNGC,
    FullSharing,
    Graph,
    Jwins,
    Ledger,
    LocalSettings,
    NGCSettings,
    Node,
    Problem,
    RandomSampling,
    Seat,
    run_together,
)


_NODES, _FAR, _DEGREE = (4, 8, 16, 32), 96, 4
_BATCH, _STEPS = 8, 3
_METHODS = ("full", "random", "choco", "jwins", "ngc", "compngc")


def _arguments() -> ArgumentParser:
    out = parser(__doc__)
    out.add_argument("--rounds", type=whole, default=7, help="of which the median is told")
    return out


def _node(method: str, seat: Seat, problem: Problem, local: LocalSettings) -> Node:
    if method in {"ngc", "compngc"}:
        return (NGC if method == "ngc" else CompNGC)(seat, problem, local, NGCSettings())
    plain: dict[str, Callable[[Seat, Problem, LocalSettings], Node]] = {
        "full": FullSharing,
        "random": RandomSampling,
        "choco": Choco,
        "jwins": Jwins,
    }
    return plain[method](seat, problem, local)


def _measure(
    method: str, count: int, images: data.ImageSet, module: torch.nn.Module, rounds: int
) -> tuple[float, float]:
    """Return the bytes that a node sends in a round, and the median seconds of all nodes."""
    kind = "full" if count <= _DEGREE else f"regular:{_DEGREE}"
    graph = Graph.make(kind, count)
    parts = data.evenly(images.train.targets, count, seed=0)
    local = LocalSettings(rate=0.01, rounds=rounds, steps=_STEPS)
    nodes = [
        _node(
            method,
            Seat(k, graph.neighbours[k]),
            data.problem(module, images.train.take(part), batch=_BATCH, node=k, seed=0),
            local,
        )
        for k, part in enumerate(parts)
    ]
    ledger, times = Ledger(), [time.monotonic()]
    run_together(
        nodes,
        rounds=rounds,
        ledger=ledger,
        after=lambda _number, _loss: times.append(time.monotonic()),
    )
    degree = 2 * graph.edges / count
    sent = ledger.total.total / (rounds * count) * _DEGREE / degree  # as with four neighbours
    return sent, float(np.median(np.diff(times)))


def main(argv: Sequence[str] | None = None) -> None:
    """Run it."""
    given = _arguments().parse_args(argv)
    torch.set_num_threads(1)
    images = data.load("cifar10", given.data, given.out or Path("runs") / "cotrain", images=6_400)
    module = data.lenet(3, 32, images.classes, seed=0)
    rows, lines = (
        [],
        [
            "| method | "
            + " | ".join(f"{n} nodes" for n in _NODES)
            + f" | {_FAR} nodes, by the line |"
            " MB a node and round |",
            "|---" * (len(_NODES) + 3) + "|",
        ],
    )
    for method in _METHODS:
        sent, seconds = zip(
            *(_measure(method, n, images, module, given.rounds) for n in _NODES), strict=True
        )
        slope, base = np.polyfit(_NODES, seconds, 1)
        off = max(abs(base + slope * n - s) / s for n, s in zip(_NODES, seconds, strict=True))
        far = base + slope * _FAR
        rows.append(
            {
                "method": method,
                "nodes": list(_NODES),
                "seconds_per_round": list(seconds),
                "bytes_per_node_and_round": list(sent),
                "far_seconds": far,
                "residual": off,
            }
        )
        cells = " | ".join(f"{s:.2f} s" for s in seconds)
        spread = f"{min(sent) / 1e6:.2f} to {max(sent) / 1e6:.2f}"
        lines.append(f"| {method} | {cells} | {far:.1f} s (residual {off:.0%}) | {spread} |")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    lines.append(f"\nSeconds are medians of {given.rounds} rounds; peak memory {peak:.0f} MB.")
    report({"rows": rows, "peak_mb": peak}, lines, as_json=given.json)


if __name__ == "__main__":
    raise SystemExit(guarded(main))

"""The methods of a comparison: what each runs, its settings to choose from, and what it costs."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from device_agent.cotrain._tables import method_settings
from edge_stl.cotrain import (
    NGC,
    Bytes,
    Choco,
    CompNGC,
    FedClient,
    FedDIPSettings,
    FedServer,
    FullSharing,
    Graph,
    Jwins,
    Ledger,
    LocalSettings,
    LocalSGD,
    Message,
    Node,
    PCASettings,
    Problem,
    RandomSampling,
    Replicas,
    Seat,
    pack_floats,
    run_server,
    run_together,
)
from edge_stl.fleet._study import Study


Chosen = Mapping[str, float]
"""Settings that were chosen on validation images: the rate, and what else a method has."""
Tables = Mapping[str, Mapping[str, Any]]
"""Settings of methods as a file has them, by method."""


@dataclass(frozen=True)
class Effort:
    """What every method of a comparison gets.

    Attributes:
        graph: who is whose neighbour.
        rounds: exchanges of a decentralised method, T.
        steps: minibatches of every box between two of them, tau.
        schedule: of the learning rate.
        momentum: of the local steps.
        kept: share of a model that the partial methods send, 0..1.
        tables: settings of methods, by method, that are not to be the defaults.
    """

    graph: Graph
    rounds: int
    steps: int = 1
    schedule: str = "constant"
    momentum: float = 0.0
    kept: float = 0.2
    tables: Tables = field(default_factory=dict)

    def settings(self, method: str, **given: float) -> Any:
        """Return a method's settings: those of its table, else what is given, else the defaults."""
        table = {**given, **self.tables.get(method, {})}
        return method_settings(method, table, where="--settings")

    def local(self, chosen: Chosen, *, rounds: int | None = None) -> LocalSettings:
        """Return the local settings of a method."""
        return LocalSettings(
            rate=chosen["rate"],
            rounds=rounds or self.rounds,
            steps=self.steps,
            momentum=self.momentum,
            schedule=self.schedule,
        )


@dataclass(frozen=True)
class Outcome:
    """What a run left.

    Attributes:
        vectors: a model ``(P,)`` per box where each has its own branch; one model where all
            trained one.
        ledger: bytes sent in training, and for the last mean.
        gradients: minibatch gradients that a box computed.
        seconds: of the whole run on one machine.
        apart: whether the models stay branches of their own.
    """

    vectors: tuple[Tensor, ...]
    ledger: Ledger
    gradients: float
    seconds: float = 0.0
    apart: bool = False


Run = Callable[[Study, Effort, Chosen], Outcome]


@dataclass(frozen=True)
class Contestant:
    """A method.

    Attributes:
        title: for the table.
        run: trains.
        grid: what is chosen from beside the rate.
        moved: what leaves the boxes beside messages: ``files``, a branch file of each box;
            ``file``, one for all; ``images``; ``nothing``.
    """

    title: str
    run: Run
    grid: Mapping[str, Sequence[float]] = field(default_factory=dict)
    moved: str = "file"


class _Counting:
    """A problem that counts its gradients."""

    def __init__(self, problem: Problem, count: list[int]) -> None:
        self._problem, self._count = problem, count
        self.shapes, self.start, self.batch = problem.shapes, problem.start, problem.batch

    def gradient(self, vector: Tensor, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, float]:
        self._count[0] += 1
        return self._problem.gradient(vector, batch)


def timed(run: Run) -> Run:
    """Return a run that notes its seconds."""

    def wrapped(study: Study, effort: Effort, chosen: Chosen) -> Outcome:
        began = time.monotonic()
        made = run(study, effort, chosen)
        return Outcome(
            made.vectors, made.ledger, made.gradients, time.monotonic() - began, made.apart
        )

    return wrapped


def mean_of(vectors: Sequence[Tensor], ledger: Ledger, number: int) -> Tensor:
    """Return the mean model, billed: all send theirs to the first, and get the mean back."""
    cost = Bytes.of(Message(number, values=pack_floats(vectors[0])))
    for node in range(1, len(vectors)):
        ledger.add(node, number, cost)
        ledger.add(0, number, cost)
    return torch.stack(tuple(vectors)).mean(dim=0)


def gossip(make: Callable[[Seat, Problem, LocalSettings, Effort, Chosen], Node]) -> Run:
    """Return the run of a decentralised method."""

    def run(study: Study, effort: Effort, chosen: Chosen) -> Outcome:
        count, ledger = [0], Ledger()
        local = effort.local(chosen)
        nodes = [
            make(
                Seat(k, effort.graph.neighbours[k], study.seed),
                _Counting(study.problem(box), count),
                local,
                effort,
                chosen,
            )
            for k, box in enumerate(study.boxes)
        ]
        run_together(nodes, rounds=effort.rounds, ledger=ledger)
        mean = mean_of([node.vector for node in nodes], ledger, effort.rounds)
        return Outcome((mean,), ledger, count[0] / study.nodes)

    return timed(run)


def _apart(study: Study, effort: Effort, chosen: Chosen) -> Outcome:
    """Train every box by itself: no message at all."""
    local, vectors = effort.local(chosen), []
    for box in study.boxes:
        problem = study.problem(box)
        trainer, vector = LocalSGD(problem, local), problem.start()
        for number in range(effort.rounds):
            vector, _ = trainer.run(vector, number)
        vectors.append(vector)
    return Outcome(tuple(vectors), Ledger(), effort.rounds * effort.steps, apart=True)


def _centralized(study: Study, effort: Effort, chosen: Chosen) -> Outcome:
    """Train one network on the images of all boxes, as many gradients as all boxes together."""
    rounds = effort.rounds * study.nodes
    problem = study.problem(study.together)
    trainer, vector = LocalSGD(problem, effort.local(chosen, rounds=rounds)), problem.start()
    for number in range(rounds):
        vector, _ = trainer.run(vector, number)
    return Outcome((vector,), Ledger(), rounds * effort.steps / study.nodes)


def _pca(study: Study, effort: Effort, chosen: Chosen) -> Outcome:
    """Average every gradient over all boxes, compressed: what a DDP hook does over a network."""
    count, ledger = [0], Ledger()
    problems = [_Counting(study.problem(box), count) for box in study.boxes]
    start = PCASettings.for_steps(effort.rounds * effort.steps).start
    settings = effort.settings("pca", start=start)
    replicas = Replicas(problems, effort.local(chosen), settings)
    replicas.run(rounds=effort.rounds, ledger=ledger)
    return Outcome((replicas.vector,), ledger, count[0] / study.nodes)


def _federated(settings: Callable[[Effort], FedDIPSettings]) -> Run:
    """Return the run of a server and its clients; the server stands beside the boxes."""

    def run(study: Study, effort: Effort, chosen: Chosen) -> Outcome:
        count, ledger, local = [0], Ledger(), effort.local(chosen)
        clients = [
            FedClient(
                k,
                _Counting(study.problem(box), count),
                local,
                images=sum(box.train_counts),
                seed=study.seed,
            )
            for k, box in enumerate(study.boxes)
        ]
        shapes = clients[0].problem.shapes
        server = FedServer(
            study.start, shapes, local, settings(effort), clients=study.nodes, seed=study.seed
        )
        run_server(server, clients, ledger=ledger)
        return Outcome((server.vector,), ledger, count[0] / study.nodes)

    return timed(run)


def _feddip(effort: Effort) -> FedDIPSettings:
    """Return FedDIP's settings: twenty masks in a run, or one a round in a short one."""
    settings: FedDIPSettings = effort.settings("feddip", every=max(1, effort.rounds // 20))
    return settings


def beside_rate(chosen: Chosen) -> dict[str, float]:
    """Return what was chosen for the method itself."""
    return {key: value for key, value in chosen.items() if key != "rate"}


CONTESTANTS: dict[str, Contestant] = {
    "ensemble": Contestant("ensemble, no training traffic", timed(_apart), moved="files"),
    "alone": Contestant("boxes alone (mean)", timed(_apart), moved="nothing"),
    "full": Contestant(
        "full sharing (D-PSGD)",
        gossip(lambda seat, problem, local, _effort, _chosen: FullSharing(seat, problem, local)),
    ),
    "random": Contestant(
        "random sampling",
        gossip(
            lambda seat, problem, local, effort, _chosen: RandomSampling(
                seat, problem, local, effort.settings("random", share=effort.kept)
            )
        ),
    ),
    "choco": Contestant(
        "CHOCO-SGD",
        gossip(
            lambda seat, problem, local, effort, chosen: Choco(
                seat,
                problem,
                local,
                effort.settings("choco", share=effort.kept, **beside_rate(chosen)),
            )
        ),
        grid={"gamma": (0.2, 0.4, 0.8, 1.0)},
    ),
    "jwins": Contestant(
        "JWINS",
        gossip(
            lambda seat, problem, local, effort, _chosen: Jwins(
                seat, problem, local, effort.settings("jwins")
            )
        ),
    ),
    "ngc": Contestant(
        "NGC",
        gossip(
            lambda seat, problem, local, effort, chosen: NGC(
                seat, problem, local, effort.settings("ngc", **beside_rate(chosen))
            )
        ),
        grid={"gamma": (0.1, 0.5, 1.0)},
    ),
    "compngc": Contestant(
        "CompNGC",
        gossip(
            lambda seat, problem, local, effort, chosen: CompNGC(
                seat, problem, local, effort.settings("compngc", **beside_rate(chosen))
            )
        ),
        grid={"gamma": (0.1, 0.5, 1.0)},
    ),
    "pca": Contestant("PCA of gradients", timed(_pca)),
    "fedavg": Contestant("FedAvg", _federated(lambda effort: effort.settings("fedavg").full())),
    "feddip": Contestant("FedDIP", _federated(_feddip)),
    "centralized": Contestant("all images in one place", timed(_centralized), moved="images"),
}
"""By name; the order is that of the table."""

SAME_RUN = {"alone": "ensemble"}
"""Whose runs a method shares: the boxes of the ensemble, asked one at a time."""

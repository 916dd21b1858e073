"""Methods with a middle, over gloo: the same model as in one process, and a middle that is lost."""

import dataclasses
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from device_agent.cotrain._forecast import federated_bytes, pca_bytes
from device_agent.cotrain._methods import STARS
from device_agent.cotrain._star import FedAvgSettings, Federated, PCAWorker
from edge_stl.cotrain import (
    FedClient,
    FedDIPSettings,
    FedServer,
    Ledger,
    LocalSettings,
    Message,
    PCASettings,
    Replicas,
    pack_floats,
    run_server,
)
from edge_stl.errors import CheckError, Interrupted, UsageError
from tests.cotrain.toy import not_finite, toy_problem
from tests.cotrain_engine.hall import NAMES, Hall, together


LOCAL = LocalSettings(rate=0.1, rounds=6, steps=2)


@pytest.mark.parametrize("form", ["power", "shared", "gather", "none"])
def test_pca_over_gloo_has_the_bits_of_replicas_in_one_process(form: str):
    hall, problems = Hall(3), [toy_problem(rank) for rank in range(3)]
    settings = PCASettings(form=form, rank=1, start=2, min_rate=1.0, refresh=4)
    workers: list[PCAWorker] = []

    def box(rank: int) -> Any:
        exchange = hall.exchange(rank)
        worker = PCAWorker(problems[rank], LOCAL, settings, exchange, "cam01")
        workers.append(worker)
        for number in range(LOCAL.rounds):
            worker.round(number)
        exchange.close()
        return worker.vector

    ran = together(3, box)
    replicas = Replicas([toy_problem(rank) for rank in range(3)], LOCAL, settings)
    replicas.run(rounds=LOCAL.rounds, ledger=Ledger())

    assert all(torch.equal(vector, replicas.vector) for vector in ran)
    told = pca_bytes(settings, problems[0].shapes, workers=3, steps=LOCAL.rounds * LOCAL.steps)
    assert [hall.ledgers[rank].node(rank) for rank in range(3)] == told
    if form == "none":
        # The hub sends and takes N - 1 times what a worker does: as many bytes as in a ring.
        parameters = len(replicas.vector)
        sent = sum(ledger.total.values for ledger in hall.ledgers.values())
        assert sent == LOCAL.rounds * LOCAL.steps * 2 * 2 * 4 * parameters


@pytest.mark.parametrize(
    "settings",
    [
        FedDIPSettings.fedavg(),
        FedDIPSettings(sparsity=0.8, every=2, fraction=0.7),
        FedDIPSettings(sparsity=0.8, every=3),
        FedDIPSettings(sparsity=0.8, every=2, masks="regrow"),
    ],
)
def test_a_federation_over_gloo_has_the_bits_of_one_in_one_process(settings: FedDIPSettings):
    hall, problems = Hall(3), [toy_problem(rank) for rank in range(3)]

    def box(rank: int) -> Any:
        exchange = hall.exchange(rank)
        engine = Federated(
            problems[rank], LOCAL, settings, exchange, names=NAMES[:3], images=10 + rank, seed=5
        )
        losses: list[float] = []
        for number in range(LOCAL.rounds):
            if number == 3:  # as after a restart
                engine.restore(engine.state())
            losses.append(engine.round(number))
        exchange.close()
        return engine.vector, losses

    ran = together(3, box)
    clients = [FedClient(k, toy_problem(k), LOCAL, images=10 + k, seed=5) for k in range(3)]
    start = clients[0].problem
    server = FedServer(start.start(), start.shapes, LOCAL, settings, clients=3, seed=5)
    ledger = Ledger()
    run_server(server, clients, ledger=ledger)

    assert torch.equal(ran[0][0], server.vector)
    assert ran[1][1][-1] == clients[1].loss > 0  # a client knows its own
    if settings.fraction == 1:
        told = federated_bytes(settings, start.shapes, workers=3, rounds=LOCAL.rounds)
        assert [hall.ledgers[rank].node(rank) for rank in range(3)] == told
    for rank in (1, 2):  # what the first box says to itself leaves no box
        assert hall.ledgers[rank].node(rank).values == ledger.node(rank).values
        assert hall.ledgers[rank].node(rank).indices == ledger.node(rank).indices


@pytest.mark.parametrize("method", ["pca", "fedavg"])
def test_a_middle_that_is_lost_ends_the_run_and_another_box_does_not(method: str):
    hall, problems = Hall(3), [toy_problem(rank) for rank in range(3)]

    def make(rank: int, exchange: Any) -> Any:
        if method == "pca":
            return PCAWorker(problems[rank], LOCAL, PCASettings(), exchange, "cam01")
        settings = FedAvgSettings().full()
        return Federated(
            problems[rank], LOCAL, settings, exchange, names=NAMES[:3], images=1, seed=0
        )

    def box(rank: int) -> Any:
        exchange = hall.exchange(rank)
        engine, stays = make(rank, exchange), {0: 4, 1: 6, 2: 2}[rank]
        try:
            for number in range(stays):
                engine.round(number)
        except Interrupted as stopped:
            return str(stopped)
        finally:
            exchange.close()
        return exchange.lost

    ran = together(3, box)

    assert list(ran[0]) == [2]
    assert "cam01, which" in ran[1]
    assert "is lost" in ran[1]


def _spoiled(exchange: Any, change: Callable[[Message], Message], *, since: int) -> None:
    """Let a box send changed messages from a round on."""
    send = exchange.send

    def spoil(rank: int, message: Message, number: int, cost: Any = None) -> None:
        send(rank, change(message) if number >= since else message, number, cost)

    exchange.send = spoil


def _ending_in_nan(message: Message) -> Message:
    values = message.values[:-4] + pack_floats(torch.tensor([torch.nan]))
    return dataclasses.replace(message, values=values)


def _of_another(message: Message) -> Message:
    return dataclasses.replace(message, values=bytes([1]) + message.values[1:])


def _cut(message: Message) -> Message:
    return dataclasses.replace(message, values=message.values[:-1])


def _run_spoiled(make: Callable[[int, Any], Any], bad: int, change: Any) -> tuple[Hall, list[Any]]:
    """Run boxes one of which sends what cannot be used from round 2 on."""
    hall = Hall(3)

    def box(rank: int) -> Any:
        exchange = hall.exchange(rank)
        engine = make(rank, exchange)
        if rank == bad:
            _spoiled(exchange, change, since=2)
        try:
            for number in range(LOCAL.rounds):
                engine.round(number)
        except Interrupted as stopped:
            return str(stopped)
        finally:
            exchange.close()
        return engine.vector

    return hall, together(3, box)


@pytest.mark.parametrize("form", ["power", "gather"])
def test_a_worker_whose_numbers_cannot_be_used_is_lost_and_missing_from_the_means(form: str):
    problems = [toy_problem(rank) for rank in range(3)]
    settings = PCASettings(form=form, rank=1, start=2, min_rate=1.0, refresh=4)

    def make(rank: int, exchange: Any) -> PCAWorker:
        return PCAWorker(problems[rank], LOCAL, settings, exchange, "cam01")

    hall, ran = _run_spoiled(make, 2, not_finite)
    replicas = Replicas([toy_problem(rank) for rank in range(3)], LOCAL, settings)
    replicas.run(
        rounds=LOCAL.rounds, ledger=Ledger(), gone=lambda number: (2,) if number >= 2 else ()
    )

    (line,) = [line for line in hall.told if "not finite" in line]
    assert line.startswith("cam03: lost, it sent values that are not finite")
    assert torch.equal(ran[0], replicas.vector)
    assert torch.equal(ran[1], replicas.vector)
    assert ran[2] == "cam01, which sums up, is lost"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_ending_in_nan, "values that are not finite"),
        (_of_another, "an answer of client 2 that says it is of client 1"),
    ],
)
@pytest.mark.parametrize("settings", [FedAvgSettings().full(), FedDIPSettings(sparsity=0.8)])
def test_a_client_whose_answer_cannot_be_used_is_lost_and_missing_from_the_mean(
    settings: FedDIPSettings, change: Any, said: str
):
    problems = [toy_problem(rank) for rank in range(3)]

    def make(rank: int, exchange: Any) -> Federated:
        return Federated(
            problems[rank], LOCAL, settings, exchange, names=NAMES[:3], images=10 + rank, seed=5
        )

    hall, ran = _run_spoiled(make, 2, change)
    clients = [FedClient(k, toy_problem(k), LOCAL, images=10 + k, seed=5) for k in range(3)]
    start = clients[0].problem
    server = FedServer(start.start(), start.shapes, LOCAL, settings, clients=3, seed=5)
    run_server(server, clients, ledger=Ledger(), gone=lambda number: (2,) if number >= 2 else ())

    (line,) = [line for line in hall.told if said in line]
    assert line.startswith("cam03: lost, it sent ")
    assert torch.equal(ran[0], server.vector)
    assert ran[2] == "cam01, which holds the server, is lost"


@pytest.mark.parametrize("method", ["pca", "fedavg"])
@pytest.mark.parametrize("change", [_ending_in_nan, _cut])
def test_a_middle_that_sends_what_cannot_be_used_is_named_and_ends_the_run(
    method: str, change: Any
):
    problems = [toy_problem(rank) for rank in range(3)]

    def make(rank: int, exchange: Any) -> Any:
        if method == "pca":
            return PCAWorker(
                problems[rank], LOCAL, PCASettings(form="gather", start=2), exchange, "cam01"
            )
        return Federated(
            problems[rank], LOCAL, FedAvgSettings().full(), exchange, names=NAMES[:3], images=1,
            seed=0,
        )  # fmt: skip

    hall, ran = _run_spoiled(make, 0, change)

    assert sum(line.startswith("cam01: lost, it sent values") for line in hall.told) == 2
    assert all(re.match("cam01, which .* is lost$", said) for said in ran[1:])


@pytest.mark.parametrize("rank", [0, 1])
def test_a_worker_whose_own_gradient_is_not_finite_says_so_itself(rank: int):
    hall, problems = Hall(2), [toy_problem(k) for k in range(2)]
    start, both = problems[rank].start(), threading.Barrier(2)
    problems[rank].start = lambda: torch.full_like(start, 3e38)  # type: ignore[method-assign]

    def box(k: int) -> Any:
        exchange = hall.exchange(k)
        worker = PCAWorker(problems[k], LOCAL, PCASettings(), exchange, "cam01")
        if k == rank:
            with pytest.raises(CheckError, match="round 0: a gradient is not finite"):
                worker.round(0)
            both.wait(60)
        else:
            both.wait(60)
        exchange.close()
        return list(exchange.lost)

    assert together(2, box)[rank] == []


def test_every_star_has_settings_and_they_are_checked():
    assert set(STARS) == {"pca", "fedavg", "feddip"}
    with pytest.raises(UsageError, match=r"fraction = 2\.0: out of range"):
        FedAvgSettings(fraction=2.0)


def test_a_worker_goes_on_from_its_state_with_the_same_bits():
    def run(cut: bool) -> list[Any]:
        hall, problems = Hall(2), [toy_problem(rank) for rank in range(2)]
        local = LocalSettings(rate=0.1, rounds=6, momentum=0.9)
        settings = PCASettings(rank=1, start=1, min_rate=1.0)

        def box(rank: int) -> Any:
            exchange = hall.exchange(rank)
            worker = PCAWorker(problems[rank], local, settings, exchange, "cam01")
            for number in range(6):
                if cut and number == 3:
                    state = worker.state()
                    worker = PCAWorker(problems[rank], local, settings, exchange, "cam01")
                    worker.restore(state)
                worker.round(number)
            exchange.close()
            return worker.vector

        return together(2, box)

    assert torch.equal(run(cut=True)[0], run(cut=False)[0])

"""Methods with a middle, over gloo: the same model as in one process, and a middle that is lost."""

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
    PCASettings,
    Replicas,
    run_server,
)
from edge_stl.errors import DataError, Interrupted, UsageError
from tests.cotrain.toy import toy_problem
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


def test_an_answer_for_another_box_is_told_with_the_name_of_its_sender():
    hall, problems = Hall(3), [toy_problem(rank) for rank in range(3)]

    def box(rank: int) -> str:
        exchange = hall.exchange(rank)
        engine = Federated(
            problems[rank], LOCAL, FedDIPSettings.fedavg(), exchange,
            names=NAMES[:3], images=1, seed=0,
        )  # fmt: skip
        if rank == 2:
            engine._client.index = 1
        try:
            engine.round(0)
        except DataError as error:
            return str(error)
        finally:
            exchange.close()
        return ""

    assert together(3, box)[0].startswith(
        "cam03: an answer of client 2 that says it is of client 1"
    )


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

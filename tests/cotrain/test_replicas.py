"""Data-parallel training of several nodes in one process."""

from typing import Any

import pytest
import torch

from edge_stl.cotrain import Ledger, LocalSettings, PCASettings, Replicas
from edge_stl.cotrain._collective import Collective
from edge_stl.cotrain._replicas import together
from edge_stl.testing import assert_parity
from tests.cotrain.toy import toy_accuracy, toy_problem


LOCAL = LocalSettings(rate=0.2, rounds=40, steps=2, momentum=0.5)


def _replicas(count: int = 4, local: LocalSettings = LOCAL, **changes: Any) -> Replicas:
    settings = PCASettings(**{"rank": 1, "min_rate": 0} | changes)
    return Replicas([toy_problem(k) for k in range(count)], local, settings)


@pytest.mark.parametrize("form", ["none", "power", "shared", "gather"])
def test_replicas_learn(form: str):
    replicas = _replicas(form=form, refresh=10)
    losses: list[float] = []
    replicas.run(rounds=40, ledger=Ledger(), after=lambda _k, loss: losses.append(loss))

    assert toy_accuracy(replicas.vector) > 0.9
    assert losses[-1] < 0.5 * losses[0]


def test_plain_averaging_is_a_step_on_the_mean_gradient():
    local = LocalSettings(rate=0.2, rounds=1)
    replicas = _replicas(3, local, form="none")
    start = replicas.vector.clone()
    gradients = [p.gradient(start, p.batch(0))[0] for p in replicas.problems]
    replicas.run(rounds=1, ledger=Ledger())

    assert_parity(replicas.vector, start - 0.2 * torch.stack(gradients).mean(0), kind="branches")


def test_the_ledger_has_what_leaves_a_node_of_a_ring():
    replicas, ledger = _replicas(form="none"), Ledger()
    replicas.run(rounds=3, ledger=ledger)
    numbers = len(replicas.vector)

    assert ledger.node(2).values == 3 * 2 * (2 * 3 * 4 * numbers // 4)
    assert ledger.total.values == 4 * ledger.node(2).values
    assert ledger.total.values == sum(
        t.wire for c in replicas.compressors for t in c.traffic.values()
    )


def test_a_node_that_is_lost_is_no_longer_averaged():
    replicas, ledger = _replicas(3, form="power"), Ledger()
    replicas.run(rounds=6, ledger=ledger, gone=lambda number: (0,) if number >= 2 else ())

    assert len(ledger.sent[0]) == 2
    assert len(ledger.sent[1]) == 6
    assert torch.isfinite(replicas.vector).all()


def test_restored_replicas_go_on_with_the_same_bits():
    whole, cut, new = (_replicas(form="power") for _ in range(3))
    whole.run(rounds=6, ledger=Ledger())
    cut.run(rounds=3, ledger=Ledger())
    new.restore(cut.state())
    new.run(rounds=6, start=3, ledger=Ledger())

    assert torch.equal(new.vector, whole.vector)


def test_workers_that_ask_for_different_things_are_an_error():
    with pytest.raises(ValueError, match="different collectives"):
        together([Collective("mean", torch.zeros(2)), Collective("gather", torch.zeros(2))])

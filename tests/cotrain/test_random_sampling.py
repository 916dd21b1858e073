"""Random sampling: a seed instead of indices."""

import struct
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st

from edge_stl.cotrain import (
    FullSharing,
    Graph,
    Ledger,
    LocalSettings,
    Message,
    Node,
    RandomSampling,
    RandomSettings,
    Seat,
    run_together,
)
from edge_stl.cotrain._random import draw_seed, mask, pack_sample, unpack_sample
from edge_stl.errors import DataError, UsageError
from edge_stl.testing import assert_parity
from tests.cotrain.toy import patient, toy_accuracy, toy_nodes


RING = Graph.make("ring", 5).neighbours


def _run(share: float, *, rounds: int = 3, **changes: Any) -> tuple[list[Node], Ledger]:
    local = LocalSettings(rate=0.2, rounds=rounds, steps=2)
    nodes = toy_nodes(RandomSampling, RING, local, settings=RandomSettings(share))
    ledger = Ledger()
    run_together(nodes, rounds=rounds, ledger=ledger, **changes)
    return nodes, ledger


def _models(nodes: list[Node]) -> torch.Tensor:
    return torch.stack([node.vector for node in nodes])


def test_a_share_of_one_is_full_sharing():
    nodes, _ = _run(1.0)
    full = toy_nodes(FullSharing, RING, LocalSettings(rate=0.2, rounds=3, steps=2))
    run_together(full, rounds=3, ledger=Ledger())

    assert_parity(_models(nodes), _models(full), kind="same_input")


@patient
@given(st.integers(0, 2**64 - 1), st.sampled_from([0.05, 0.206, 1.0]), st.integers(1, 400))
def test_a_sample_is_found_again_by_its_seed(seed: int, share: float, size: int):
    vector = torch.arange(float(size))
    message = pack_sample(vector, seed, share, 3, degree=2)
    heard = unpack_sample(Message.from_bytes(message.to_bytes()), size)

    assert len(message.indices) == 16
    assert torch.equal(heard.values, vector[heard.indices])
    assert torch.equal(heard.indices, mask(seed, share, size))


def test_a_mask_keeps_its_places_and_its_share():
    assert mask(7, 0.2, 30).tolist() == [6, 21, 23, 24]
    assert len(mask(1, 0.206, 100_000)) == pytest.approx(20_600, abs=500)
    assert len(mask(1, 1.0, 1000)) == 1000


def test_every_node_and_round_has_a_mask_of_its_own():
    seeds = {draw_seed(Seat(k, (), s), n) for k in range(9) for n in range(9) for s in range(3)}

    assert len(seeds) == 9 * 9 * 3


def test_only_values_and_a_seed_are_billed():
    _, ledger = _run(0.5)

    assert ledger.total.indices == 30 * 16
    assert ledger.total.values < 0.6 * 30 * 4 * 60


def test_nodes_learn():
    nodes, _ = _run(0.3, rounds=40)

    assert min(toy_accuracy(node.vector) for node in nodes) > 0.9


def test_a_restored_node_goes_on_with_the_same_bits():
    local = LocalSettings(rate=0.2, rounds=4, momentum=0.9)
    whole, cut, new = (toy_nodes(RandomSampling, RING, local) for _ in range(3))
    run_together(whole, rounds=4, ledger=Ledger())
    run_together(cut, rounds=2, ledger=Ledger())
    for node, old in zip(new, cut, strict=True):
        node.restore(old.state())
    run_together(new, rounds=4, start=2, ledger=Ledger())

    assert torch.equal(_models(new), _models(whole))


def test_a_node_whose_neighbour_is_gone_goes_on():
    nodes, _ = _run(0.3, rounds=5, gone=lambda number: (4,) if number >= 2 else ())

    assert torch.equal(nodes[4].vector, _run(0.3, rounds=2)[0][4].vector)
    assert all(torch.isfinite(node.vector).all() for node in nodes)


@pytest.mark.parametrize(
    ("indices", "values", "said"),
    [
        (b"", bytes(400), "a seed of 0 bytes; expected 16"),
        (bytes(17), bytes(400), "a seed of 17 bytes; expected 16"),
        (struct.pack("<Qd", 1, 0.0), b"", "a share of 0.0; expected above 0 to 1"),
        (struct.pack("<Qd", 1, float("nan")), b"", "a share of nan"),
        (struct.pack("<Qd", 1, 2.0), bytes(400), "a share of 2.0"),
        (struct.pack("<Qd", 1, 0.2), bytes(400), "400 bytes; expected"),
    ],
)
def test_a_message_that_cannot_be_is_refused(indices: bytes, values: bytes, said: str):
    with pytest.raises(DataError, match=said):
        unpack_sample(Message(0, indices=indices, values=values), 100)


@pytest.mark.parametrize("share", [0.0, 1.5, float("nan")])
def test_a_share_out_of_range_is_refused(share: float):
    with pytest.raises(UsageError, match=r"share = .*: out of range; expected above 0 to 1"):
        RandomSettings(share)

"""Some numbers of a vector, and messages that hold them."""

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from edge_stl.cotrain import Message, Sparse, largest, metropolis, pack_floats
from edge_stl.cotrain._sparse import pulled
from edge_stl.errors import DataError
from edge_stl.testing import assert_parity
from tests.cotrain.toy import patient


def _vector(size: int, *, seed: int = 0) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


@patient
@given(st.integers(1, 300), st.floats(0, 1))
def test_the_largest_are_those_and_ascend(size: int, share: float):
    vector, count = _vector(size), round(share * size)
    chosen = largest(vector, count)

    assert len(chosen) == count
    assert (torch.diff(chosen) > 0).all()
    assert set(chosen.tolist()) == set(torch.topk(vector.abs(), count).indices.tolist())


def test_of_equal_magnitudes_the_first_are_taken():
    assert largest(torch.tensor([1.0, -2.0, 2.0, 1.0, -2.0]), 2).tolist() == [1, 2]
    assert largest(torch.zeros(9), 4).tolist() == [0, 1, 2, 3]


@patient
@given(st.integers(1, 300), st.floats(0, 1))
def test_numbers_travel_with_their_places(size: int, share: float):
    vector = _vector(size)
    sent = Sparse.of(vector, largest(vector, round(share * size)))
    message = sent.message(3, degree=2)
    heard = Sparse.read(Message.from_bytes(message.to_bytes()), size)

    assert torch.equal(heard.values, sent.values)
    assert torch.equal(heard.indices, sent.indices)
    assert (message.round, message.degree) == (3, 2)


def test_a_whole_vector_travels_without_indices():
    message = Sparse.of(_vector(50), None).message(0, degree=1)

    assert message.indices == b""
    assert len(message.values) == 200
    assert torch.equal(Sparse.read(message, 50).values, _vector(50))


def test_what_is_missing_is_filled_with_ones_own():
    own, theirs = _vector(8), _vector(8, seed=1)
    heard = {4: Sparse.of(theirs, torch.tensor([1, 6]))}
    filled = own.clone()
    filled[[1, 6]] = theirs[[1, 6]]

    assert_parity(own + pulled(own, heard, {4: 0.25}), 0.75 * own + 0.25 * filled, kind="float32")


@patient
@given(st.integers(1, 4), st.integers(0, 50))
def test_every_mixed_number_lies_between_those_it_came_from(neighbours: int, seed: int):
    own, size = _vector(40, seed=seed), 40
    vectors = {j: _vector(size, seed=100 * seed + j + 1) for j in range(neighbours)}
    heard = {j: Sparse.of(v, largest(v, 10 + 9 * j)) for j, v in vectors.items()}
    filled = [own]
    for j, some in heard.items():
        filled.append(own.clone())
        filled[-1][some.indices] = vectors[j][some.indices]
    mixed = own + pulled(own, heard, metropolis(neighbours, dict.fromkeys(heard, 2)))

    assert (mixed <= torch.stack(filled).amax(0) + 1e-6).all()
    assert (mixed >= torch.stack(filled).amin(0) - 1e-6).all()


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (Message(7, flag=2), "round 7: flag 2 and 0 numbers; expected 0 or 1"),
        (Message(7, flag=1, values=bytes(44)), "11 numbers; expected 0 or 1, and at most 10"),
        (Message(7, flag=0, indices=b"x", values=bytes(40)), "1 bytes of indices; expected none"),
        (Message(7, flag=0, values=bytes(36)), "36 bytes; expected 40"),
        (Message(7, flag=1, indices=bytes(16), values=bytes(5)), "5 bytes; expected 4"),
        (Message(7, flag=1, indices=bytes(16), values=bytes(8)), "not whole codes"),
        (
            Message(7, flag=1, indices=bytes(16), values=pack_floats(torch.tensor([torch.nan]))),
            "not finite",
        ),
    ],
)
def test_a_message_that_cannot_be_is_refused(message: Message, said: str):
    with pytest.raises(DataError, match=said):
        Sparse.read(message, 10)


@patient
@given(st.integers(0, 3), st.binary(max_size=40), st.binary(max_size=40))
def test_any_message_is_read_or_refused_in_one_sentence(flag: int, indices: bytes, values: bytes):
    try:
        heard = Sparse.read(Message(0, flag=flag, indices=indices, values=values), 9)
    except DataError as error:
        said = str(error)
    else:
        places = np.arange(9) if heard.indices is None else heard.indices.numpy()
        assert len(heard.values) == len(places) <= 9
        return
    assert "\n" not in said

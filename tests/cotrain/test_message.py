"""Messages as bytes."""

import pytest
import torch
from hypothesis import given, strategies as st

from edge_stl.cotrain import HEADER_BYTES, Message, pack_floats, unpack_floats
from edge_stl.errors import DataError


@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 255),
    st.integers(0, 65535),
    st.binary(max_size=40),
    st.binary(max_size=40),
)
def test_a_message_is_read_as_it_was_written(
    number: int, kind: int, degree: int, indices: bytes, values: bytes
):
    message = Message(number, kind, degree, indices=indices, values=values)
    data = message.to_bytes()

    assert Message.from_bytes(data) == message
    assert len(data) == len(message) == HEADER_BYTES + len(indices) + len(values)


@given(st.binary(max_size=80))
def test_bytes_that_are_no_message_are_refused_in_one_sentence(data: bytes):
    with pytest.raises(DataError, match=r"\A[^\n]+\Z"):
        Message.from_bytes(data)


def test_a_message_that_was_cut_is_refused():
    data = Message(7, values=b"12345678").to_bytes()

    with pytest.raises(DataError, match="its header says"):
        Message.from_bytes(data[:-1])


def test_numbers_travel_bit_by_bit():
    vector = torch.randn(100) * 1e-20

    assert torch.equal(unpack_floats(pack_floats(vector), 100), vector)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(bad: float):
    with pytest.raises(DataError, match="not finite"):
        unpack_floats(pack_floats(torch.tensor([1.0, bad])), 2)


def test_too_few_numbers_are_refused():
    with pytest.raises(DataError, match="expected 12 for 3 numbers"):
        unpack_floats(bytes(8), 3)

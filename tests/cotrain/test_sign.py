"""Scaled signs: one bit for each number, and an error memory that loses nothing."""

import struct
from hashlib import sha256

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from edge_stl.cotrain import (
    Flat,
    Message,
    compress_signs,
    pack_signs,
    scaled_signs,
    sign_bytes,
    unpack_signs,
)
from edge_stl.errors import DataError
from edge_stl.testing import assert_parity


CNN5 = Flat(
    tuple(
        torch.Size(shape)
        for shape in (
            *((32, 3, 3, 3), (32,), (32,), (32, 32, 3, 3), (32,), (32,)),
            *((64, 32, 3, 3), (64,), (64,), (64, 64, 3, 3), (64,), (64,)),
            *((10, 1024), (10,)),
        )
    )
)
"""The authors' five-layer CNN: 14 tensors, 76,010 numbers."""

shapes = st.lists(
    st.lists(st.integers(1, 5), min_size=1, max_size=3).map(torch.Size),
    min_size=1,
    max_size=4,
)


def _random(flat: Flat, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(flat.size, generator=generator)


@given(shapes, st.integers(0, 99))
def test_packed_signs_are_read_as_what_the_sender_counts_with(some: list[torch.Size], seed: int):
    flat = Flat(tuple(some))
    vector = _random(flat, seed)
    data = pack_signs(vector, flat)

    assert torch.equal(unpack_signs(data, flat), scaled_signs(vector, flat))
    assert len(data) == sign_bytes(flat) == sum(-(-s.numel() // 8) + 4 for s in some)


@given(shapes, st.integers(0, 99))
def test_all_numbers_of_a_tensor_are_its_mean_size_with_their_sign(
    some: list[torch.Size], seed: int
):
    flat = Flat(tuple(some))
    vector = _random(flat, seed)

    for whole, sent in zip(flat.views(vector), flat.views(scaled_signs(vector, flat)), strict=True):
        assert len(sent.abs().unique()) == 1
        assert_parity(sent.abs().sum() / sent.numel(), whole.abs().mean(), kind="same_input")
        assert torch.equal(sent >= 0, whole >= 0)


@given(shapes, st.integers(0, 99))
def test_what_is_sent_and_what_stays_are_the_gradient_and_what_stayed_before(
    some: list[torch.Size], seed: int
):
    flat = Flat(tuple(some))
    gradient, error = _random(flat, seed), _random(flat, seed + 1000)
    sent, stays, corrected = compress_signs(gradient, error, flat)

    assert_parity(sent + stays, error + gradient, kind="same_input")
    assert torch.equal(corrected, error + gradient)
    assert torch.equal(sent, scaled_signs(corrected, flat))
    for c, e in zip(flat.views(corrected), flat.views(stays), strict=True):
        left = c.square().sum() - c.abs().sum().square() / c.numel()
        assert_parity(e.square().sum() / c.square().sum(), left / c.square().sum(), kind="float32")
        assert float(e.square().sum()) <= float(c.square().sum()) * (1 + 1e-6)


def test_over_time_the_gradients_are_sent_but_for_the_last_error():
    flat = Flat((torch.Size((4, 3)), torch.Size((5,))))
    error, sent, true = None, torch.zeros(flat.size), torch.zeros(flat.size)
    for step in range(50):
        gradient = _random(flat, step)
        part, error, _ = compress_signs(gradient, error, flat)
        sent, true = sent + part, true + gradient

    assert error is not None
    assert float(error.abs().max()) > 0.1
    assert_parity(sent, true - error, kind="float32")


def test_the_memory_starts_at_zero_and_an_input_is_left_as_it_is():
    flat = Flat((torch.Size((3,)),))
    gradient = torch.tensor([1.0, -2.0, 3.0])
    sent, stays, _ = compress_signs(gradient, None, flat)

    assert sent.tolist() == [2.0, -2.0, 2.0]
    assert stays.tolist() == [-1.0, 0.0, 1.0]
    assert gradient.tolist() == [1.0, -2.0, 3.0]


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_the_sign_of_zero_is_plus(zero: float):
    flat = Flat((torch.Size((2,)),))
    vector = torch.tensor([zero, -4.0])

    assert scaled_signs(vector, flat).tolist() == [2.0, -2.0]
    assert unpack_signs(pack_signs(vector, flat), flat).tolist() == [2.0, -2.0]


def test_a_tensor_of_zeros_stays_zero():
    flat = Flat((torch.Size((9,)),))

    assert unpack_signs(pack_signs(torch.zeros(9), flat), flat).tolist() == [0.0] * 9


def test_the_bytes_of_packed_signs_are_these():
    flat = Flat((torch.Size((3, 3)), torch.Size((2,))))
    vector = torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0, -1.0, -1.0, 1.0, -1.0, 0.0, -0.5])
    signs = pack_signs(vector, flat)
    message = Message(3, 2, 2, values=signs).to_bytes()

    assert signs.hex() == "0000803f" + "b100" + "0000803e" + "80"
    assert message.hex() == (
        "45534331" + "02" + "00" + "0200" + "03000000" + "00" * 8 + "0b" + "00" * 7 + signs.hex()
    )


def test_a_whole_network_packs_to_the_same_bytes_everywhere():
    numbers = (np.arange(CNN5.size, dtype=np.int64) * 7919 % 2003 - 1001).astype(np.float32)
    data = pack_signs(torch.from_numpy(numbers), CNN5)

    assert CNN5.size == 76_010
    assert len(CNN5.shapes) == 14
    assert len(data) == 9_558
    assert sha256(data).hexdigest() == (
        "0a9764da2c79695ae6d2fca15b4070480960f3c84f67606debfd42c011da0bf7"
    )


@settings(max_examples=300)
@given(st.binary(max_size=12))
def test_any_bytes_are_read_soundly_or_refused_in_one_sentence(data: bytes):
    flat = Flat((torch.Size((11,)), torch.Size((3,))))
    try:
        vector = unpack_signs(data, flat)
    except DataError as error:
        said = str(error)
    else:
        said = ""
        assert torch.isfinite(vector).all()
        assert pack_signs(vector, flat) == data or 0 in vector
    assert "\n" not in said


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "packed signs of 0 bytes; expected 6 for 9 numbers in 1 tensors"),
        (struct.pack("<f", 1) + b"\xff", "of 5 bytes; expected 6"),
        (struct.pack("<f", 1) + b"\xff\x80\x00", "of 7 bytes; expected 6"),
        (struct.pack("<f", float("nan")) + b"\xff\x80", "the scale of tensor 0 is nan"),
        (struct.pack("<f", float("inf")) + b"\xff\x80", "the scale of tensor 0 is inf"),
        (struct.pack("<f", -1) + b"\xff\x80", "the scale of tensor 0 is -1.0"),
        (struct.pack("<f", -0.0) + b"\xff\x80", "the scale of tensor 0 is -0.0"),
        (struct.pack("<f", 1) + b"\xff\xc0", "bits after the last of the 9 numbers of tensor 0"),
        (struct.pack("<f", 1) + b"\xff\x01", "bits after the last"),
    ],
)
def test_hostile_signs_are_refused(data: bytes, said: str):
    with pytest.raises(DataError, match=said):
        unpack_signs(data, Flat((torch.Size((9,)),)))

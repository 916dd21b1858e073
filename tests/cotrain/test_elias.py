"""Elias gamma codes of sorted indices."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from edge_stl.cotrain import pack_indices, unpack_indices
from edge_stl.errors import DataError
from tests.cotrain.toy import patient


GOLDEN = "02000000000000001000000000000000a28e"
"""Indices 2, 3, 5, 10, 24: the gaps 1, 2, 5, 14 are 1 010 00101 0001110, 16 bits."""


def _ascending(size: int, count: int, *, seed: int = 0) -> np.ndarray:
    chosen = np.random.default_rng(seed).choice(size, count, replace=False)
    return np.sort(chosen).astype(np.int64)


def _by_the_book(indices: list[int]) -> bytes:
    """Return the block as the definition spells it, bit by bit."""
    gaps = [b - a for a, b in pairwise(indices)]
    bits = "".join("0" * (g.bit_length() - 1) + f"{g:b}" for g in gaps)
    filled = bits.ljust(-(-len(bits) // 8) * 8, "0")
    packed = bytes(int(filled[k : k + 8], 2) for k in range(0, len(filled), 8))
    return indices[0].to_bytes(8, "little") + len(bits).to_bytes(8, "little") + packed


@patient
@given(st.sets(st.integers(0, 5000), min_size=1), st.integers(1, 10**6))
def test_indices_are_read_as_they_were_written(chosen: set[int], stretch: int):
    indices = np.array(sorted(chosen), np.int64) * stretch
    block = pack_indices(indices)

    assert block == _by_the_book(indices.tolist())
    size = int(indices[-1]) + 1
    if len(block) <= 16 + 2 * size // 8:
        assert np.array_equal(unpack_indices(block, count=len(indices), size=size), indices)


@pytest.mark.parametrize(("size", "count"), [(5, 5), (89_843, 4_500), (89_843, 45_000), (2**40, 9)])
def test_a_block_is_as_long_as_the_formula_says(size: int, count: int):
    indices = np.unique(np.random.default_rng(1).integers(0, size, count))
    block = pack_indices(indices)
    bits = sum(2 * math.floor(math.log2(gap)) + 1 for gap in np.diff(indices))

    assert len(block) == 16 + math.ceil(bits / 8)
    if size < 2**20:
        assert np.array_equal(unpack_indices(block, count=len(indices), size=size), indices)


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.05, 7.46), (0.1, 5.71), (0.15, 4.76), (0.2, 4.12), (0.25, 3.64), (0.3, 3.26), (0.4, 2.69)],
)
def test_a_random_support_costs_the_bits_that_theory_says(share: float, expected: float):
    count = round(share * 89_843)

    bits = 8 * (len(pack_indices(_ascending(89_843, count))) - 16) / count

    assert bits == pytest.approx(expected, abs=0.04)


def test_a_block_keeps_its_bytes():
    indices = np.array([2, 3, 5, 10, 24], np.int64)

    assert pack_indices(indices).hex() == GOLDEN
    assert unpack_indices(bytes.fromhex(GOLDEN), count=5, size=25).tolist() == [2, 3, 5, 10, 24]


def test_no_index_and_one_index_have_a_block():
    assert pack_indices(np.zeros(0, np.int64)) == b""
    assert unpack_indices(b"", count=0, size=9).tolist() == []
    one = pack_indices(np.array([8], np.int64))
    assert len(one) == 16
    assert unpack_indices(one, count=1, size=9).tolist() == [8]


def test_packing_leaves_the_indices_as_they_are():
    indices = _ascending(1000, 90)
    before = indices.copy()

    pack_indices(indices)

    assert np.array_equal(indices, before)


@pytest.mark.parametrize("indices", [[3, 3], [5, 4], [-1, 4]])
def test_indices_that_do_not_ascend_are_refused(indices: list[int]):
    with pytest.raises(ValueError, match="do not ascend strictly"):
        pack_indices(np.array(indices, np.int64))


@patient
@given(st.binary(max_size=60), st.integers(0, 40), st.integers(1, 200))
def test_any_bytes_are_a_block_or_refused_in_one_sentence(data: bytes, count: int, size: int):
    try:
        indices = unpack_indices(data, count=count, size=size)
    except DataError as error:
        said = str(error)
    else:
        assert pack_indices(indices) == data
        assert len(indices) == count
        assert not count or indices[-1] < size
        return
    assert "\n" not in said


@patient
@given(st.data())
def test_a_block_with_one_damaged_byte_is_other_indices_or_refused(data: Any):
    block = bytearray(pack_indices(_ascending(400, 40)))
    place = data.draw(st.integers(0, len(block) - 1))
    block[place] ^= data.draw(st.integers(1, 255))

    try:
        indices = unpack_indices(bytes(block), count=40, size=400)
    except DataError:
        return
    assert pack_indices(indices) == bytes(block)


def _block(first: int, bits: str, *, length: int | None = None) -> bytes:
    filled = bits.ljust(-(-len(bits) // 8) * 8, "0")
    packed = bytes(int(filled[k : k + 8], 2) for k in range(0, len(filled), 8))
    announced = len(bits) if length is None else length
    return first.to_bytes(8, "little") + announced.to_bytes(8, "little") + packed


@pytest.mark.parametrize(
    ("block", "count", "said"),
    [
        (b"x", 0, "1 bytes for no index; expected no byte"),
        (b"", 1, "0 bytes; expected 16 to 42"),
        (bytes(15), 1, "15 bytes; expected 16 to 42"),
        (bytes(2**20), 3, "1048576 bytes; expected 16 to 42"),
        (_block(0, "1", length=2**63), 2, "those of the 9223372036854775808 bits"),
        (_block(0, "1", length=9), 2, "those of the 9 bits"),
        (_block(0, "11", length=1), 2, "bits after its end; expected zeros"),
        (_block(0, "11"), 2, "not whole codes; expected 1 of them"),
        (_block(0, "1"), 3, "not whole codes; expected 2 of them"),
        (_block(0, "001"), 2, "not whole codes"),
        (_block(0, "0000"), 2, "not whole codes"),
        (_block(0, ""), 2, "not whole codes"),
        (_block(100, ""), 1, "an index beyond the model; expected indices below 100"),
        (_block(2**64 - 1, "1"), 2, "an index beyond the model"),
        (_block(99, "1"), 2, "an index beyond the model"),
        (_block(0, "0" * 80 + "1" + "0" * 80), 2, "an index beyond the model"),
        (_block(0, "1" * 100), 101, "101 indices; expected at most 100"),
        (b"", 2**60, "1152921504606846976 indices; expected at most 100"),
    ],
)
def test_a_forged_block_is_refused(block: bytes, count: int, said: str):
    with pytest.raises(DataError, match=said):
        unpack_indices(block, count=count, size=100)

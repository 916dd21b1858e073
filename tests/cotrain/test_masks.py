"""Masks: densities, magnitudes, bits."""

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from edge_stl.cotrain._masks import (
    Prunable,
    erk_densities,
    erk_mask,
    magnitude_mask,
    pack_bits,
    unpack_bits,
)
from edge_stl.errors import DataError


LENET5 = [
    torch.Size(shape)
    for shape in (
        (6, 1, 5, 5), (6,), (16, 6, 5, 5), (16,), (120, 256), (120,), (84, 120), (84,), (10, 84),
        (10,),
    )
]  # fmt: skip
LENET5_400 = [torch.Size((120, 400)) if tuple(s) == (120, 256) else s for s in LENET5]


def test_erk_gives_the_densities_that_the_authors_code_gives():
    densities = erk_densities(LENET5_400, 0.5)
    sparse = [1 - d for d, shape in zip(densities, LENET5_400, strict=True) if len(shape) > 1]

    assert np.abs(np.array(sparse) - [0, 0.475, 0.574, 0.204, 0]).max() < 1e-3
    assert [d for d, s in zip(densities, LENET5_400, strict=True) if len(s) == 1] == [1.0] * 5


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.9, 0.999])
def test_a_random_mask_has_its_sparsity_and_keeps_every_bias(sparsity: float):
    prunable = Prunable(LENET5)
    mask = erk_mask(LENET5, sparsity, np.random.default_rng(0))

    assert abs(prunable.sparsity(mask) - sparsity) <= 5 / prunable.count  # a rounding per layer
    assert mask[~prunable.where].all()
    assert prunable.count == sum(s.numel() for s in LENET5 if len(s) > 1)


@given(st.integers(0, 2**31), st.floats(0, 0.999), st.floats(0, 0.999))
def test_magnitude_removes_the_smallest_and_nests(seed: int, one: float, other: float):
    shapes = [torch.Size((7, 3)), torch.Size((7,)), torch.Size((2, 7))]
    prunable, few = Prunable(shapes), min(one, other)
    vector = torch.from_numpy(np.random.default_rng(seed).integers(-3, 4, 42).astype(np.float32))
    loose = magnitude_mask(vector, prunable, few)
    tight = magnitude_mask(vector, prunable, max(one, other), within=loose)

    for mask, sparsity in ((loose, few), (tight, max(one, other))):
        assert abs(prunable.sparsity(mask) - sparsity) <= 1 / prunable.count
        assert mask[~prunable.where].all()
    assert not (tight & ~loose).any()
    kept, gone = vector.abs()[loose & prunable.where], vector.abs()[~loose]
    assert not len(gone) or not len(kept) or gone.max() <= kept.min()


def test_magnitude_looks_at_all_layers_together():
    prunable = Prunable([torch.Size((2, 2)), torch.Size((2, 2))])
    vector = torch.tensor([1.0, 2.0, 3.0, 4.0, 0.1, -0.2, 0.3, -9.0])

    assert magnitude_mask(vector, prunable, 0.5).tolist() == [
        False, True, True, True, False, False, False, True
    ]  # fmt: skip


@given(st.lists(st.booleans(), max_size=70))
def test_bits_are_read_as_they_were_written(bits: list[bool]):
    data = pack_bits(torch.tensor(bits, dtype=torch.bool))

    assert len(data) == (len(bits) + 7) // 8
    assert unpack_bits(data, len(bits)).tolist() == bits


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"", "a mask of 0 bytes; expected 2"), (b"\xff\xff", "bits after its end are set")],
)
def test_a_mask_that_does_not_fit_is_refused(data: bytes, said: str):
    with pytest.raises(DataError, match=said):
        unpack_bits(data, 12)

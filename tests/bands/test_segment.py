"""The three segmentations of the paper, by definition and back."""

import numpy as np
import pytest
import scipy.fft
from hypothesis import given, strategies as st

from edge_stl.bands import Transform, assemble, bank, segment
from edge_stl.bands._segment import Segmentation
from edge_stl.testing import assert_parity


KINDS = st.sampled_from(["polyphase", "block", "row"])


@given(KINDS, st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.sampled_from("fu"))
def test_parts_go_together_to_the_image_they_came_from(
    kind: Segmentation, size: int, h: int, w: int, dtype: str
) -> None:
    shape = (2, 3, h * size, w * size)
    images = (
        np.arange(np.prod(shape)).reshape(shape).astype({"f": np.float32, "u": np.uint8}[dtype])
    )
    parts = segment(images, kind, size)
    assert parts.dtype == images.dtype
    np.testing.assert_array_equal(assemble(parts, kind, size), images)
    assert not np.shares_memory(parts, images)


@given(st.integers(1, 4), st.integers(1, 3))
def test_polyphase_takes_every_bth_pixel_row_major(size: int, h: int) -> None:
    x = np.random.default_rng(0).random((h * size, h * size))
    parts = segment(x, "polyphase", size)
    for i in range(size):
        for j in range(size):
            np.testing.assert_array_equal(parts[size * i + j], x[i::size, j::size])


def test_blocks_are_tiles_row_major_and_rows_are_strips() -> None:
    x = np.arange(16).reshape(4, 4)
    np.testing.assert_array_equal(segment(x, "block", 2)[1], [[2, 3], [6, 7]])
    np.testing.assert_array_equal(segment(x, "block", 2)[2], [[8, 9], [12, 13]])
    np.testing.assert_array_equal(segment(x, "row", 2)[1], x[2:])


@pytest.mark.parametrize("size", [2, 4, 6])
def test_stl_dct_is_the_dct_along_the_polyphase_axis(size: int) -> None:
    x = np.random.default_rng(1).random((3, 2 * size, 3 * size))
    bands = bank(Transform("stl-dct", 0, side=size)).analyze(x)
    expected = scipy.fft.dct(segment(x, "polyphase", size), axis=-3, norm="ortho") / size
    for index, values in enumerate(bands.values()):
        assert_parity(values, expected[..., index, :, :], kind="float64")


def test_an_unknown_kind_or_an_odd_side_is_refused() -> None:
    with pytest.raises(ValueError, match="'tiles' is no segmentation; expected polyphase, block"):
        segment(np.zeros((4, 4)), "tiles", 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="4 x 5 does not divide into block parts of size 2"):
        segment(np.zeros((4, 5)), "block", 2)
    with pytest.raises(ValueError, match="4 x 4 does not divide into polyphase parts of size 0"):
        segment(np.zeros((4, 4)), "polyphase", 0)
    with pytest.raises(ValueError, match="3 parts; polyphase of size 2 has 4"):
        assemble(np.zeros((3, 4, 4)), "polyphase", 2)

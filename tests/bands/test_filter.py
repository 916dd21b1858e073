"""Filters on a circle: composition, folding, padding."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from edge_stl.bands import Filter
from edge_stl.testing import assert_parity


TAPS = st.lists(st.floats(-2, 2), min_size=1, max_size=40).map(tuple)
FILTERS = st.builds(Filter, taps=TAPS, stride=st.sampled_from([1, 2, 4]), offset=st.integers(0, 45))


def by_definition(filter_: Filter, x: np.ndarray) -> np.ndarray:
    size = len(x)
    return np.array(
        [
            sum(
                tap * x[(filter_.stride * n + k - filter_.offset) % size]
                for k, tap in enumerate(filter_.taps)
            )
            for n in range(size // filter_.stride)
        ]
    )


def signal(size: int) -> np.ndarray:
    return np.random.default_rng(size).random(size)


@given(FILTERS, st.sampled_from([4, 8, 12]))
def test_the_matrix_is_the_strided_circular_correlation(filter_: Filter, size: int):
    x = signal(size)

    assert_parity(filter_.matrix(size) @ x, by_definition(filter_, x), kind="float64")


@given(FILTERS, FILTERS)
def test_then_equals_applying_one_filter_after_the_other(first: Filter, second: Filter):
    x = signal(32)

    once = by_definition(first.then(second), x)

    assert_parity(once, by_definition(second, by_definition(first, x)), kind="float64")


@given(FILTERS, st.sampled_from([4, 8, 16]))
def test_folding_changes_no_output_and_leaves_at_most_size_taps(filter_: Filter, size: int):
    folded = filter_.folded(size)

    assert_parity(folded.matrix(size), filter_.matrix(size), kind="float64")
    assert len(folded.taps) <= size
    assert 0 <= folded.offset < size


def test_a_filter_much_longer_than_the_signal_folds_to_the_signal():
    long = Filter(tuple(np.random.default_rng(0).random(203).tolist()), 2, 101)

    folded = long.folded(4)

    assert len(folded.taps) == 4
    assert_parity(folded.matrix(4), long.matrix(4), kind="float64")


@given(FILTERS, st.sampled_from([4, 8, 16]))
def test_one_copy_before_and_one_after_are_padding_enough_for_a_folded_filter(
    filter_: Filter, size: int
):
    folded = filter_.folded(size)
    before, after = folded.padding(size)
    x = signal(size)

    assert 0 <= before <= size
    assert after <= size
    padded = np.concatenate([x[size - before :], x, x[: max(0, after)]])
    used = len(padded) + min(0, after)
    windows = [
        padded[i : i + len(folded.taps)]
        for i in range(0, used - len(folded.taps) + 1, folded.stride)
    ]
    outputs = [window @ np.array(folded.taps) for window in windows]
    assert_parity(outputs, by_definition(filter_, x), kind="float64")


@pytest.mark.parametrize(
    ("taps", "stride", "offset", "size", "padding"),
    [
        (2, 2, 0, 8, (0, 0)),  # haar touches nothing outside
        (4, 2, 1, 8, (1, 1)),  # db2 looks one sample back and one ahead
        (8, 2, 3, 16, (3, 3)),
        (1, 2, 0, 8, (0, -1)),  # the last sample stays unused
    ],
)
def test_padding_is_what_the_first_and_the_last_window_reach_beyond_the_signal(
    taps: int, stride: int, offset: int, size: int, padding: tuple[int, int]
):
    assert Filter((1.0,) * taps, stride, offset).padding(size) == padding


def test_scaled_multiplies_every_tap():
    assert Filter((1.0, -2.0), 2, 1).scaled(0.5) == Filter((0.5, -1.0), 2, 1)


@pytest.mark.parametrize("size", [3, 5])
def test_a_size_that_is_no_multiple_of_the_stride_is_refused(size: int):
    filter_ = Filter((1.0, 1.0), 2, 0)

    with pytest.raises(ValueError, match=f"size {size} is not a multiple of the stride 2"):
        filter_.matrix(size)
    with pytest.raises(ValueError, match=f"size {size} is not a multiple of the stride 2"):
        filter_.folded(size)

"""How sure a mean of evidence is taken to be."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from edge_stl.fusion import Member, calibration_scale, fuse, softmax, uniform_weights
from edge_stl.testing import assert_parity


@pytest.mark.parametrize(
    ("weights", "scale"),
    [
        ([[1.0, 1.0]], 0.7),
        ([[1 / 16, 1 / 16]] * 16, 1.4),
        ([[0.0, 0.0]], 1.0),
        # who weighs nothing counts nothing
        ([[1.0, 1.0], [0.0, 0.0]], 0.7),
        # 0.75 and 0.25 are as good as 1.6 files
        ([[0.75], [0.25]], 0.7 * 1.6**0.25),
        # one file of the first class, four of the second, nobody for the third: 2.5 on average
        ([[1.0, 0.25, 0.0], *[[0.0, 0.25, 0.0]] * 3], 0.7 * 2.5**0.25),
    ],
)
def test_the_scale_worked_out_by_hand(weights: list[list[float]], scale: float) -> None:
    assert_parity(calibration_scale(np.array(weights)), scale, kind="float64")


@given(st.integers(1, 200))
def test_the_more_files_speak_the_surer_is_their_mean(files: int) -> None:
    more, less = (np.full((n, 3), 1 / n) for n in (files + 1, files))

    assert calibration_scale(more) > calibration_scale(less)


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=20))
def test_unequal_files_count_as_fewer_and_never_as_less_than_one(raw: list[float]) -> None:
    weights = (np.array(raw) / sum(raw))[:, None]

    assert 0.7 - 1e-12 <= calibration_scale(weights) <= 0.7 * len(raw) ** 0.25 + 1e-12


def test_weights_in_single_precision_give_the_same() -> None:
    weights = np.full((3, 2), 1 / 3)

    assert_parity(
        calibration_scale(weights.astype(np.float32)), calibration_scale(weights), kind="float32"
    )


@given(st.lists(st.floats(-4, 4), min_size=2, max_size=2))
def test_half_of_what_a_single_file_says_of_two_classes_is_exactly_its_own_answer(
    z: list[float],
) -> None:
    """For one class and against the other it says the same twice."""
    who = Member("b", "x", (5, 5), 1.0, 0.5)
    weights = uniform_weights([who])

    fused, _ = fuse([np.array([z])], [who], weights, scale=0.5, clip=1e-6)

    assert_parity(fused, softmax(np.array([z])), kind="float64")

"""The one comparison of numbers can fail, in every way it should."""

import numpy as np
import pytest

from edge_stl.testing import TOLERANCES, assert_parity


Kind = pytest.mark.parametrize("kind", TOLERANCES)


def test_the_tolerances_are_these():
    assert TOLERANCES == {
        "float64": 1e-10,
        "float32": 1e-5,
        "same_input": 1e-6,
        "branches": 1e-6,
        "probabilities": 1e-5,
    }


@Kind
def test_zeros_do_not_pass_for_ones(kind: str):
    with pytest.raises(AssertionError, match=r"differ by 1\.000e"):
        assert_parity(np.zeros(3), np.ones(3), kind=kind)


@Kind
def test_one_element_too_far_off_fails_and_one_near_enough_passes(kind: str):
    exact = np.linspace(0, 1, 100).reshape(10, 10)
    near, far = exact.copy(), exact.copy()
    near[3, 4] += 0.9 * TOLERANCES[kind]
    far[3, 4] -= 1.1 * TOLERANCES[kind]

    assert_parity(near, exact, kind=kind)
    with pytest.raises(AssertionError, match=rf"allowed .* \({kind}\)"):
        assert_parity(far, exact, kind=kind)


@pytest.mark.parametrize(
    ("actual", "expected", "sentence"),
    [
        (np.zeros(3), np.zeros((3, 1)), r"shapes differ: \(3,\) and \(3, 1\)"),
        (0.0, np.zeros(3), r"shapes differ: \(\) and \(3,\)"),
        (np.zeros(0), np.zeros(0), "nothing to compare: both arrays are empty"),
        (np.array([np.nan]), np.array([np.nan]), "numbers that are not finite"),
        (np.array([np.inf]), np.array([np.inf]), "numbers that are not finite"),
        (np.array([1.0]), np.array([np.nan]), "numbers that are not finite"),
    ],
)
def test_what_cannot_be_compared_fails(actual: object, expected: object, sentence: str):
    with pytest.raises(AssertionError, match=sentence):
        assert_parity(actual, expected, kind="float32")


def test_a_tolerance_that_the_table_has_not_is_refused():
    with pytest.raises(KeyError, match="loose"):
        assert_parity([1.0], [1.0], kind="loose")

"""The tolerances of this project, each with its reason, and the one way to compare numbers.

Tests may tighten a tolerance, never loosen it.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


TOLERANCES = {
    "float64": 1e-10,  # analysis and reconstruction in double precision: rounding only
    "float32": 1e-5,  # the same in single precision, sums of a few hundred terms
    "same_input": 1e-6,  # a branch's input in the box and in the ensemble, unrounded images
    "branches": 1e-6,  # float32, a network whole and apart: sums of other order, per largest value
    "probabilities": 1e-5,  # onnxruntime against torch and the numpy oracle
}


def assert_parity(actual: ArrayLike, expected: ArrayLike, *, kind: str) -> None:
    """Assert that two arrays agree in shape and, absolutely, in every element.

    Args:
        actual: what was computed.
        expected: the oracle's answer.
        kind: a key of `TOLERANCES`.

    Raises:
        AssertionError: shapes differ, something is not finite, or the largest difference is
            above the tolerance; the sentence says which and by how much.
    """
    a: NDArray[Any] = np.asarray(actual, dtype=np.float64)
    b: NDArray[Any] = np.asarray(expected, dtype=np.float64)
    if a.shape != b.shape:
        raise AssertionError(f"shapes differ: {a.shape} and {b.shape}")
    if not a.size:
        raise AssertionError("nothing to compare: both arrays are empty")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise AssertionError("numbers that are not finite")
    worst = float(np.abs(a - b).max())
    if not worst <= TOLERANCES[kind]:
        raise AssertionError(f"differ by {worst:.3e}, allowed {TOLERANCES[kind]:.0e} ({kind})")

"""Ask an ensemble the question whose answer it carries: does this machine compute what was merged?

The question is one image, ``(R, R, C)`` uint8, of the top bytes of PCG64's raw stream of seed 0;
the answer is under ``edge_stl.test_vector`` in the metadata, one probability per class.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_stl.errors import CheckError, DataError
from edge_stl.gate import RECORD_CAPS, strict_json


TOLERANCE = 1e-4
"""By how much float32 in any onnxruntime may differ from the vector."""

KEY = "edge_stl.test_vector"


def vector_in(properties: dict[str, str], classes: int) -> NDArray[np.float64] | None:
    """Return the answer ``(K,)`` that an ensemble's metadata holds, none where it has none.

    Raises:
        ValueError: it is no list of one share per class.
    """
    if KEY not in properties:
        return None
    shares = strict_json(properties[KEY], RECORD_CAPS)
    if (
        not isinstance(shares, list)
        or len(shares) != classes
        or any(type(p) not in (int, float) or not 0 <= p <= 1 for p in shares)
    ):
        raise ValueError(f"a test vector that is no list of {classes} shares")
    return np.array(shares, np.float64)


def question(side: int, channels: int) -> NDArray[np.uint8]:
    """Return the image ``(1, R, R, C)`` that the vector answers."""
    noise = np.random.PCG64(0).random_raw(side * side * channels) >> np.uint64(56)
    return noise.astype(np.uint8).reshape(1, side, side, channels)


def need_answer(model: Any) -> float:
    """Ask an `Ensemble` its question.

    Returns:
        by how much the answer differs from the vector, at most `TOLERANCE`.

    Raises:
        CheckError: it has no vector, or answers something else, or no probabilities.
        DataError: onnxruntime cannot run it.
    """
    if model.vector is None:
        raise CheckError(
            "has no test vector: it was merged by an earlier version of edge-stl. Merge its branch "
            "files again"
        )
    # 1: a cascade asks every branch
    probabilities = need_probabilities(model, question(model.resolution, model.channels), 1.0)
    difference = float(np.abs(probabilities[0] - model.vector).max())
    if difference > TOLERANCE:
        raise CheckError(
            f"answers its test vector with a difference of {difference:.1e}; expected at most "
            f"{TOLERANCE:.0e}. Copy it again, or try another onnxruntime"
        )
    return difference


def need_probabilities(
    model: Any, images: NDArray[np.uint8], threshold: float | None = None
) -> NDArray[np.float32]:
    """Return what an `Ensemble` answers to prepared images: ``(N, K)``, if they are probabilities.

    Args:
        model: the ensemble.
        images: ``(N, R, R, C)`` uint8.
        threshold: of a cascade, in place of its own.

    Raises:
        CheckError: an answer has another shape, is NaN or no share, or does not sum to 1.
        DataError: onnxruntime cannot run it.
    """
    own = model.threshold
    try:
        if model.stages and threshold is not None:
            model.threshold = threshold
        answer, rows = model.run(images)
    except Exception as error:  # noqa: BLE001  (onnxruntime raises types of its own)
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"onnxruntime cannot run it: {first[:200]}. Merge it again") from None
    finally:
        model.threshold = own
    shape = (len(images), len(model.classes))
    if answer.shape != shape or rows.shape != (shape[0], len(model.branches), shape[1]):
        raise CheckError(
            f"answers with arrays of shape {answer.shape} and {rows.shape}; expected {shape} and "
            f"{(shape[0], len(model.branches), shape[1])}, as its record says. Merge it again"
        )
    if not np.isfinite(answer).all() or answer.min() < 0:
        raise CheckError(
            f"answers {answer.flat[int(np.argmin(answer))]} where a probability belongs; expected "
            "numbers from 0 to 1. Merge it again"
        )
    off = float(np.abs(answer.sum(axis=1) - 1).max())
    if off > TOLERANCE:
        raise CheckError(
            f"its probabilities miss the sum of 1 by {off:.1e}; expected at most {TOLERANCE:.0e}. "
            "Merge it again"
        )
    return np.asarray(answer)

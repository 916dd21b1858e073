"""The test vector of an ensemble: one seeded image, and what the formulas answer to it.

A machine that is to run the file asks it this question first (`edge_stl.predict.answers_itself`).
The answer is computed in float64, by ONNX's reference implementation for the branches and by
`edge_stl.fusion` for the rest, and rounded to six digits: so it is the same on every desk, where
onnxruntime's float32 differs in the last bits from one processor to the next, and merging the same
branch files elsewhere still gives the same bytes. The graph of a network of the user's own is asked
in a limited child process.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_stl.errors import CheckError
from edge_stl.fusion import fuse, fuse_median
from exporter import names
from exporter._reference import reference_logits
from exporter._session import run
from exporter.ensemble import Fitted, Vector, Weights, class_prior
from exporter.options import Options
from exporter.own_judge import limited_reference_logits
from exporter.prove import native_bands, proof_images
from exporter.read import BranchFile
from exporter.split import branch_bytes


_DIGITS = 6
TOLERANCE = 1e-4
"""By how much float32 in any onnxruntime may differ from the vector."""


def reference_vector(
    files: Sequence[BranchFile],
    weights: Weights,
    *,
    options: Options,
    scale: float,
    fitted: Fitted | None,
) -> Vector:
    """Return what an ensemble of these files answers to `vector_image`, every branch asked.

    Args:
        files: the branch files in it, in order.
        weights: K per file; a robust rule reads none.
        options: resolution and robust rule count.
        scale: a of the fusion.
        fitted: its biases count; without it they are 0.

    Returns:
        K probabilities of six digits.
    """
    plan = files[0].plan
    image = vector_image(files[0], options)
    logits = [_logits(file, image) for file in files]
    members = [file.manifest.member() for file in files]
    prior = np.array(class_prior(plan))
    if options.robust is None:
        bias = np.array(fitted.bias) if fitted else None
        answer, _ = fuse(logits, members, weights, prior=prior, bias=bias, scale=scale)
    else:
        answer, _ = fuse_median(logits, members, prior=prior)
    return tuple(round(float(p), _DIGITS) for p in answer[0])


def vector_image(file: BranchFile, options: Options) -> NDArray[np.uint8]:
    """Return the image ``(1, side, side, C)``: the first of those that a graph is proved on."""
    return proof_images(file.plan, options)[:1]


def answer_difference(
    model: Any, vector: Vector, image: NDArray[np.uint8], options: Options, *, cascade: bool
) -> float:
    """Return the largest difference of an ensemble's answer and its vector; NaN is infinitely far.

    Args:
        model: the ensemble, as bytes or as a session.
        vector: K probabilities.
        image: of `vector_image`.
        options: the layout counts.
        cascade: whether the graph takes a threshold; 1 makes it ask every branch.
    """
    given: dict[str, NDArray[Any]] = {names.ENSEMBLE_INPUT: image}
    if options.layout == "nchw":
        given[names.ENSEMBLE_INPUT] = np.ascontiguousarray(image.transpose(0, 3, 1, 2))
    if cascade:
        given[names.THRESHOLD] = np.array(1, np.float32)
    difference = float(np.abs(run(model, given)[0][0] - np.array(vector)).max())
    return difference if math.isfinite(difference) else math.inf


def prove_answer(
    model: Any, vector: Vector, image: NDArray[np.uint8], options: Options, *, cascade: bool
) -> None:
    """Compare the built graph with the vector that goes into it; as `answer_difference`.

    Raises:
        CheckError: the two differ.
    """
    worst = answer_difference(model, vector, image, options, cascade=cascade)
    if not worst <= TOLERANCE:
        raise CheckError(
            f"ensemble: differs by {worst:.1e} from its own test vector; expected at most "
            f"{TOLERANCE:.0e}. This is a defect of edge-stl: please report it"
        )


def _logits(file: BranchFile, image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return a branch's logits ``(1, K)``, computed in float64.

    Raises:
        CheckError: a graph of the user's own comes to no answer.
    """
    data, bands = branch_bytes(file), native_bands(file, image)
    if file.own is None:
        return reference_logits(data, bands)
    return limited_reference_logits(data, bands, where=file.name)

"""Proofs that a merge runs before it hands out a file: test vectors, and the graph's formulas."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_stl.bands import bank, resampling
from edge_stl.errors import CheckError
from edge_stl.fusion import fuse
from exporter import names
from exporter._session import run
from exporter.branch import VECTOR_TOLERANCE, vector_difference
from exporter.ensemble import Fitted, Options, class_prior
from exporter.read import BranchFile
from exporter.split import branch_bytes


_PROOF_TOLERANCE = 1e-4
_PROOF_IMAGES = 3


def verify_vectors(files: Sequence[BranchFile]) -> None:
    """Run every branch on its own test vector: damaged arithmetic shows here, not in the field.

    Raises:
        CheckError: a branch says something else than its box recorded.
    """
    for file in files:
        model = branch_bytes(file)
        difference = vector_difference(file.manifest, file.plan, model)
        if difference > VECTOR_TOLERANCE:
            raise CheckError(
                f"{file.name}: differs by {difference:.1e} from the logits its box recorded; "
                f"expected at most {VECTOR_TOLERANCE:.0e}. Train the branch again"
            )


def prove(
    model: bytes,
    files: Sequence[BranchFile],
    weights: Sequence[float],
    *,
    options: Options,
    scale: float,
    fitted: Fitted | None,
) -> None:
    """Compare the built graph with the numpy oracle on seeded noise before anyone relies on it.

    Args:
        model: bytes of the ensemble.
        files: the branch files in it, in order.
        weights: one per file.
        options: its layout counts.
        scale: a of the fusion.
        fitted: its biases count; without it they are 0.

    Raises:
        CheckError: the two differ.
    """
    plan = files[0].plan
    side, channels = plan.input.resolution, plan.input.channels
    noise = np.random.PCG64(0).random_raw(_PROOF_IMAGES * side * side * channels) >> np.uint64(56)
    images = noise.astype(np.uint8).reshape(_PROOF_IMAGES, side, side, channels)
    given = images if options.layout == "nhwc" else images.transpose(0, 3, 1, 2).copy()
    got, rows = run(model, {names.ENSEMBLE_INPUT: given})
    logits = [branch_logits(file, images) for file in files]
    members = [f.manifest.member() for f in files]
    expected, expected_rows = fuse(
        logits,
        members,
        weights,
        prior=np.array(class_prior(plan)),
        bias=np.array(fitted.bias) if fitted else None,
        scale=scale,
    )
    worst = max(float(np.abs(got - expected).max()), float(np.abs(rows - expected_rows).max()))
    if not worst <= _PROOF_TOLERANCE:
        raise CheckError(
            f"ensemble: the graph and the formulas differ by {worst:.1e}; expected at most "
            f"{_PROOF_TOLERANCE:.0e}. This is a defect of edge-stl: please report it"
        )


def branch_logits(file: BranchFile, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return what a branch file says to images, by the numpy reference and the branch's own graph.

    Args:
        file: the branch file.
        images: ``(N, R, R, C)`` uint8 at the plan's resolution.

    Returns:
        logits ``(N, K)`` float32.
    """
    model = branch_bytes(file)
    bands = native_bands(file, images)
    return run(model, {names.BRANCH_INPUT: bands})[0].astype(np.float32)


def native_bands(file: BranchFile, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the bands ``(N, C * B, h, w)`` float32 that a branch reads, by the numpy reference."""
    plan, manifest = file.plan, file.manifest
    branch = plan.branch(manifest.branch)
    planes = images.astype(np.float64).transpose(0, 3, 1, 2) / 255
    r = manifest.native_resolution
    matrix = resampling(file.kernel, fine=planes.shape[-1], coarse=r)
    native = matrix @ planes @ matrix.T
    filters = bank(plan.bank, native_level=plan.native_level(r), bands=branch.bands)
    split = filters.analyze(native)
    stacked = np.concatenate([split[band] for band in branch.bands], axis=1)
    return np.asarray(stacked, dtype=np.float32)

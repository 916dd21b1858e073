"""Proofs that a merge runs before it hands out a file: test vectors, and the graph's formulas."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_stl.bands import bank, resampling
from edge_stl.errors import CheckError
from edge_stl.fusion import fuse, fuse_median
from edge_stl.plan import Plan
from exporter import names
from exporter._cascade import stages_of
from exporter._prove_cascade import cascade_difference, difference
from exporter._session import run, session
from exporter.branch import VECTOR_TOLERANCE, vector_difference
from exporter.ensemble import Fitted, Weights, class_prior
from exporter.options import Cascade, Options
from exporter.read import BranchFile
from exporter.split import branch_bytes


_PROOF_TOLERANCE = 1e-4
_PROOF_IMAGES = 3


def verify_vectors(files: Sequence[BranchFile], options: Options) -> list[NDArray[np.float32]]:
    """Run every branch on its own test vector: damaged arithmetic shows here, not in the field.

    Args:
        files: of one plan.
        options: of the ensemble to be; its resolution counts.

    Returns:
        per file, its logits ``(N, K)`` for the images of `prove`, from the same session.

    Raises:
        CheckError: a branch says something else than its box recorded.
    """
    images = proof_images(files[0].plan, options)
    found = []
    for file in files:
        running = session(branch_bytes(file))
        difference = vector_difference(file.manifest, file.plan, running)
        if difference > VECTOR_TOLERANCE:
            raise CheckError(
                f"{file.name}: differs by {difference:.1e} from the logits its box recorded; "
                f"expected at most {VECTOR_TOLERANCE:.0e}. Train the branch again"
            )
        found.append(branch_logits(file, images, running))
    return found


def proof_images(plan: Plan, options: Options) -> NDArray[np.uint8]:
    """Return the seeded noise ``(N, side, side, C)`` that a graph is proved on."""
    side, channels = options.side(plan), plan.input.channels
    noise = np.random.PCG64(0).random_raw(_PROOF_IMAGES * side * side * channels) >> np.uint64(56)
    return noise.astype(np.uint8).reshape(_PROOF_IMAGES, side, side, channels)


def prove(
    model: Any,
    files: Sequence[BranchFile],
    weights: Weights,
    *,
    logits: Sequence[NDArray[np.float32]],
    options: Options,
    scale: float,
    fitted: Fitted | None,
    cascade: Cascade | None = None,
) -> None:
    """Compare the built graph with the numpy oracle on seeded noise before anyone relies on it.

    Args:
        model: the ensemble, as bytes or as a session.
        files: the branch files in it, in order.
        weights: K per file; a robust rule reads none.
        logits: what every branch says of `proof_images`, one ``(N, K)`` per file.
        options: layout, resolution and robust rule count.
        scale: a of the fusion.
        fitted: its biases count; without it they are 0.
        cascade: its threshold counts, and every other that makes the graph stop elsewhere.

    Raises:
        CheckError: the two differ.
    """
    plan = files[0].plan
    images = proof_images(plan, options)
    given = images if options.layout == "nhwc" else images.transpose(0, 3, 1, 2).copy()
    members = [f.manifest.member() for f in files]
    fusion: dict[str, Any] = {
        "prior": np.array(class_prior(plan)),
        "bias": np.array(fitted.bias) if fitted else None,
        "scale": scale,
    }
    if cascade:
        stages, w = stages_of(files), np.array(weights)
        worst = cascade_difference(
            model, given, logits, members, w, stages, cascade.threshold, fusion
        )
    else:
        expected = (
            fuse(logits, members, weights, **fusion)
            if options.robust is None
            else fuse_median(logits, members, prior=fusion["prior"])
        )
        worst = difference(run(model, {names.ENSEMBLE_INPUT: given}), expected)
    if not worst <= _PROOF_TOLERANCE:
        raise CheckError(
            f"ensemble: the graph and the formulas differ by {worst:.1e}; expected at most "
            f"{_PROOF_TOLERANCE:.0e}. This is a defect of edge-stl: please report it"
        )


def branch_logits(
    file: BranchFile, images: NDArray[np.uint8], running: Any = None
) -> NDArray[np.float32]:
    """Return what a branch file says to images, by the numpy reference and the branch's own graph.

    Args:
        file: the branch file.
        images: ``(N, side, side, C)`` uint8 as the ensemble takes them.
        running: a session of that graph, if there is one already.

    Returns:
        logits ``(N, K)`` float32.
    """
    model = branch_bytes(file) if running is None else running
    bands = native_bands(file, images)
    return run(model, {names.BRANCH_INPUT: bands})[0].astype(np.float32)


def native_bands(file: BranchFile, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the bands ``(N, C * B, h, w)`` float32 that a branch reads, by the numpy reference.

    Of images finer than its box had, what the box had; of coarser ones, the bands at theirs.
    """
    plan, manifest = file.plan, file.manifest
    branch = plan.branch(manifest.branch)
    planes = images.astype(np.float64).transpose(0, 3, 1, 2) / 255
    side = planes.shape[-1]
    r = min(side, manifest.native_resolution)
    matrix = resampling(file.kernel if r < side else "area", fine=side, coarse=r)
    native = matrix @ planes @ matrix.T
    filters = bank(plan.bank, native_level=plan.native_level(r), bands=branch.bands)
    split = filters.analyze(native)
    stacked = np.concatenate([split[band] for band in branch.bands], axis=1)
    return np.asarray(stacked, dtype=np.float32)

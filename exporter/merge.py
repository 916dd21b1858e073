"""Branch files to one ensemble file: read, agree, weigh, build, prove."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_stl.errors import CheckError, MergeRefused, UsageError
from edge_stl.fusion import DATA_FREE, fuse, largest_change, plan_weights
from exporter import names
from exporter._session import check_model, run
from exporter.agree import Agreement, Refusal, agree, read_all
from exporter.branch import VECTOR_TOLERANCE, vector_difference
from exporter.ensemble import Options, build_ensemble, class_prior
from exporter.manifest import sha256
from exporter.read import BranchFile
from exporter.split import branch_bytes, members_of


SCALE = 1.0
"""a of the fusion: 1 until a measurement says better."""

_PROOF_TOLERANCE = 1e-4
_PROOF_IMAGES = 3


@dataclass(frozen=True)
class Merged:
    """An ensemble and how it came to be.

    Attributes:
        model: bytes of the ensemble file.
        sha256: of these bytes.
        options: rule and layout.
        files: the branch files in it, in order.
        weights: one per file.
        refused: files that were left out, with every reason.
    """

    model: bytes
    sha256: str
    options: Options
    files: tuple[BranchFile, ...]
    weights: tuple[float, ...]
    refused: tuple[Refusal, ...]

    def largest_change(self, index: int) -> float:
        """Return by how much file ``index`` can move any probability."""
        return largest_change(self.weights[index], scale=SCALE)


def merge_paths(paths: Sequence[Path], *, options: Options, skip_refused: bool = False) -> Merged:
    """Merge branch files from disk.

    Args:
        paths: branch files, in any order.
        options: weight rule and layout.
        skip_refused: go on without the files that may not be merged.

    Raises:
        MergeRefused: files may not be merged and ``skip_refused`` is off, or none is left.
        UsageError: the weight rule cannot be used.
    """
    files, refused = read_all(paths)
    return merge_files(files, options=options, refused=refused, skip_refused=skip_refused)


def merge_files(
    files: Sequence[BranchFile],
    *,
    options: Options,
    refused: Sequence[Refusal] = (),
    skip_refused: bool = False,
) -> Merged:
    """Merge branch files that were already read; as `merge_paths`."""
    agreement = agree(files)
    agreement = replace(
        agreement,
        refused=tuple(sorted((*refused, *agreement.refused), key=lambda r: (r.file, r.reasons))),
    )
    _refuse(agreement, skip_refused=skip_refused)
    weights = tuple(float(w) for w in _weights(agreement.files, options))
    _verify_vectors(agreement.files)
    model = build_ensemble(agreement.files, weights, options=options, scale=SCALE)
    check_model(model, "ensemble")
    _prove(model, agreement.files, weights, options)
    return Merged(model, sha256(model), options, agreement.files, weights, agreement.refused)


def change_ensemble(
    ensemble: bytes,
    *,
    name: str,
    remove: Sequence[str] = (),
    add: Sequence[Path] = (),
    options: Options | None = None,
    skip_refused: bool = False,
) -> Merged:
    """Take branches out of an ensemble and put others in, with the options it was made with.

    The result is the same, byte for byte, as merging the remaining files anew.

    Args:
        ensemble: bytes of the ensemble file.
        name: what it is called in messages.
        remove: box ids or ``branch.box`` ids.
        add: branch files.
        options: other options than those it was made with.
        skip_refused: go on without added files that may not be merged.

    Raises:
        UsageError: an id names nothing in the ensemble, or nothing would be left.
        IntegrityError: the ensemble does not give back the files it was made of.
        MergeRefused: as `merge_paths`.
    """
    content = members_of(ensemble, name=name)
    keep = list(content.files)
    for identity in remove:
        gone = [f for f in content.files if identity in (f.manifest.box, f.manifest.id)]
        if not gone:
            known = sorted({f.manifest.box for f in content.files})
            ids = sorted(f.manifest.id for f in content.files)
            raise UsageError(
                f"--remove {identity}: neither a box nor a branch of {name}; it has boxes "
                f"{', '.join(known)} and branches {', '.join(ids)}"
            )
        keep = [f for f in keep if f not in gone]
    added, refused = read_all(add)
    if not keep and not added:
        raise UsageError(
            f"{name}: removing {', '.join(remove)} leaves no branch; delete the file instead"
        )
    return merge_files(
        [*keep, *added],
        options=options or content.options,
        refused=refused,
        skip_refused=skip_refused,
    )


def _refuse(agreement: Agreement, *, skip_refused: bool) -> None:
    if not agreement.refused and agreement.files:
        return
    reasons = "; ".join(f"[{i}] {r}" for i, r in enumerate(agreement.refused, start=1))
    if not agreement.files:
        raise MergeRefused(f"merge: no file may be merged: {reasons}")
    if not skip_refused:
        total = len(agreement.files) + len(agreement.refused)
        raise MergeRefused(
            f"merge: {len(agreement.refused)} of {total} files refused: {reasons}. Mend them, or "
            f"merge the other {len(agreement.files)} with --skip-refused"
        )


def _weights(files: Sequence[BranchFile], options: Options) -> NDArray[np.float64]:
    members = [f.manifest.member() for f in files]
    if options.weights == "plan":
        declared = files[0].plan.fusion.weights
        if declared is None:
            raise UsageError(
                "--weights plan: the plan declares no weights; it needs [fusion] weights = "
                "{ branch = number }. Choose another rule"
            )
        try:
            return plan_weights(members, declared)
        except ValueError as error:
            raise UsageError(f"--weights plan: {error}") from None
    return DATA_FREE[options.weights](members)


def _verify_vectors(files: Sequence[BranchFile]) -> None:
    """Run every branch on its own test vector: damaged arithmetic shows here, not in the field."""
    for file in files:
        model = branch_bytes(file)
        difference = vector_difference(file.manifest, file.plan, model)
        if difference > VECTOR_TOLERANCE:
            raise CheckError(
                f"{file.name}: differs by {difference:.1e} from the logits its box recorded; "
                f"expected at most {VECTOR_TOLERANCE:.0e}. Train the branch again"
            )


def _prove(
    model: bytes, files: Sequence[BranchFile], weights: Sequence[float], options: Options
) -> None:
    """Compare the built graph with the numpy oracle on seeded noise before anyone relies on it."""
    plan = files[0].plan
    side, channels = plan.input.resolution, plan.input.channels
    noise = np.random.PCG64(0).random_raw(_PROOF_IMAGES * side * side * channels) >> np.uint64(56)
    images = noise.astype(np.uint8).reshape(_PROOF_IMAGES, side, side, channels)
    given = images if options.layout == "nhwc" else images.transpose(0, 3, 1, 2).copy()
    got, rows = run(model, {names.ENSEMBLE_INPUT: given})
    logits = [branch_logits(file, images) for file in files]
    members = [f.manifest.member() for f in files]
    expected, expected_rows = fuse(
        logits, members, weights, prior=np.array(class_prior(plan)), scale=SCALE
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
    from edge_stl.bands import bank  # keeps PyWavelets out of a plain import

    plan, manifest = file.plan, file.manifest
    branch = plan.branch(manifest.branch)
    planes = images.astype(np.float64).transpose(0, 3, 1, 2) / 255
    n, c, side, _ = planes.shape
    r = manifest.native_resolution
    native = planes.reshape(n, c, r, side // r, r, side // r).mean(axis=(3, 5))
    filters = bank(plan.bank, native_level=plan.native_level(r), bands=branch.bands)
    split = filters.analyze(native)
    stacked = np.concatenate([split[band] for band in branch.bands], axis=1)
    return np.asarray(stacked, dtype=np.float32)

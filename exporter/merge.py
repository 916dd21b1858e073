"""Branch files to one ensemble file: read, agree, weigh, build, prove."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_stl.bands import Sharpness
from edge_stl.errors import MergeRefused, UsageError
from edge_stl.fusion import DATA_FREE, largest_change, plan_weights
from exporter import names
from exporter._session import check_model
from exporter.agree import Agreement, Refusal, agree, read_all
from exporter.cameras import CameraFinding, desk_sharpness, match_cameras
from exporter.ensemble import Fitted, Options, build_ensemble
from exporter.fitting import Holdout, Progress, fit_on_holdout
from exporter.manifest import sha256
from exporter.prove import prove, verify_vectors
from exporter.read import BranchFile
from exporter.split import Content, members_of


SCALE = 1.0
"""a of the fusion: 1 until a measurement says better."""


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
        fitted: biases and what else came from a holdout; none with weights that need no data.
        holdout: what that is worth on images that the fit did not see; none likewise.
        cameras: what was found of every coarse camera that could be compared.
    """

    model: bytes
    sha256: str
    options: Options
    files: tuple[BranchFile, ...]
    weights: tuple[float, ...]
    refused: tuple[Refusal, ...]
    fitted: Fitted | None = None
    holdout: Holdout | None = None
    cameras: tuple[CameraFinding, ...] = ()

    def largest_change(self, index: int) -> float:
        """Return by how much file ``index`` can move any probability."""
        return largest_change(self.weights[index], scale=SCALE)


def merge_paths(
    paths: Sequence[Path],
    *,
    options: Options,
    skip_refused: bool = False,
    holdout: Path | None = None,
    progress: Progress | None = None,
) -> Merged:
    """Merge branch files from disk.

    Args:
        paths: branch files, in any order.
        options: weight rule and layout.
        skip_refused: go on without the files that may not be merged.
        holdout: folder of labelled images, for the rule ``fitted`` and no other.
        progress: called with images of the holdout done and images in all.

    Raises:
        MergeRefused: files may not be merged and ``skip_refused`` is off, or none is left.
        UsageError: the weight rule cannot be used, or not with or without a holdout.
        DataError: the holdout cannot be used.
    """
    files, refused = read_all(paths)
    return merge_files(
        files,
        options=options,
        refused=refused,
        skip_refused=skip_refused,
        holdout=holdout,
        progress=progress,
    )


def merge_files(
    files: Sequence[BranchFile],
    *,
    options: Options,
    refused: Sequence[Refusal] = (),
    skip_refused: bool = False,
    holdout: Path | None = None,
    progress: Progress | None = None,
) -> Merged:
    """Merge branch files that were already read; as `merge_paths`."""
    _need_both(options, holdout)
    agreement = agree(files)
    agreement = replace(
        agreement,
        refused=tuple(sorted((*refused, *agreement.refused), key=lambda r: (r.file, r.reasons))),
    )
    _refuse(agreement, skip_refused=skip_refused)
    kept, cameras = match_cameras(agreement.files, desk=_desk(agreement.files, holdout))
    fitted, report = None, None
    if holdout is None:
        weights = tuple(float(w) for w in weigh(kept, options))
        verify_vectors(kept)
    else:
        verify_vectors(kept)
        fit = fit_on_holdout(kept, holdout, scale=SCALE, progress=progress)
        weights, fitted, report = fit.weights, fit.fitted, fit.report
    model = build_ensemble(kept, weights, options=options, scale=SCALE, fitted=fitted)
    check_model(model, "ensemble")
    prove(model, kept, weights, options=options, scale=SCALE, fitted=fitted)
    return Merged(
        model, sha256(model), options, kept, weights, agreement.refused, fitted, report, cameras
    )


def change_ensemble(
    ensemble: bytes,
    *,
    name: str,
    remove: Sequence[str] = (),
    add: Sequence[Path] = (),
    options: Options | None = None,
    skip_refused: bool = False,
    holdout: Path | None = None,
    progress: Progress | None = None,
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
        holdout: as `merge_paths`; weights that came from one need one again.
        progress: as `merge_paths`.

    Raises:
        UsageError: an id names nothing in the ensemble, nothing would be left, or its weights came
            from a holdout and there is neither one now nor a rule that needs none.
        IntegrityError: the ensemble does not give back the files it was made of.
        MergeRefused: as `merge_paths`.
    """
    content = members_of(ensemble, name=name)
    wanted = options or content.options
    _need_holdout_again(content, wanted, holdout, name)
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
        options=wanted,
        refused=refused,
        skip_refused=skip_refused,
        holdout=holdout,
        progress=progress,
    )


def _need_both(options: Options, holdout: Path | None) -> None:
    """Refuse fitted weights without a holdout, and a holdout that nothing would be fitted on."""
    if options.weights == names.FITTED and holdout is None:
        raise UsageError(
            "--weights fitted: there is nothing to fit on; expected --holdout IMAGES, a folder of "
            "labelled images. Name one, or choose another rule"
        )
    if options.weights != names.FITTED and holdout is not None:
        raise UsageError(
            f"--holdout: the rule {options.weights} needs no images; expected --weights fitted "
            "beside it. Add that, or leave --holdout out"
        )


def _need_holdout_again(content: Content, wanted: Options, holdout: Path | None, name: str) -> None:
    """Refuse to carry weights over to other branches than those they were fitted with."""
    if content.fitted is None or wanted.weights != names.FITTED or holdout is not None:
        return
    others = ", ".join(rule for rule in names.WEIGHT_RULES if rule != names.FITTED)
    raise UsageError(
        f"{name}: its weights were fitted on a holdout of {content.fitted.images} images, and "
        "other branches need other weights; expected --holdout IMAGES, or --weights with a rule "
        f"that needs no images ({others}). Name one of both"
    )


def _desk(files: Sequence[BranchFile], holdout: Path | None) -> Sharpness | None:
    """Return how sharp the desk's own fine images are, where it has some and they are needed."""
    if holdout is None or not any(f.manifest.camera for f in files):
        return None
    return desk_sharpness(holdout, files[0].plan)


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


def weigh(files: Sequence[BranchFile], options: Options) -> NDArray[np.float64]:
    """Return the weights ``(files,)`` that a rule without a holdout gives.

    Raises:
        UsageError: the plan's weights were asked for, and it has none for these files.
    """
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

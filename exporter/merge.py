"""Branch files to one ensemble file: read, agree, weigh, build, prove."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_stl.bands import Sharpness
from edge_stl.errors import IntegrityError, MergeRefused, UsageError
from edge_stl.fusion import largest_change
from exporter import groups, names
from exporter._memory import hold_once
from exporter._session import check_model
from exporter.agree import Agreement, Refusal, agree, read_all
from exporter.audit import Audit, Verdicts, audit_boxes, concluded, need_boxes, without
from exporter.cameras import CameraFinding, desk_sharpness, match_cameras
from exporter.cascade_threshold import (
    CascadeReport,
    cascade_of,
    need_stages,
    need_threshold_again,
)
from exporter.copies import Copy, find_copies
from exporter.ensemble import Fitted, build_ensemble
from exporter.fitting import Holdout, Progress, answer_holdout, fit_on_holdout, need_scipy
from exporter.gate import Gate
from exporter.manifest import sha256
from exporter.options import (
    DEFAULT_WEIGHTS,
    Options,
    need_compatible,
    need_resolution,
    split_by_resolution,
    warnings_of,
)
from exporter.plausible import notes_of
from exporter.prove import prove, verify_vectors
from exporter.read import BranchFile, parse_model
from exporter.split import Content, ensemble_record, members_of
from exporter.vector import prove_answer, reference_vector, vector_image
from exporter.weighing import weigh


if TYPE_CHECKING:
    from edge_stl.fusion.audit import Trial


@dataclass(frozen=True)
class Merged:
    """An ensemble and how it came to be.

    Attributes:
        model: bytes of the ensemble file.
        sha256: of these bytes.
        options: rule and layout.
        files: the branch files in it, in order.
        weights: K per file; 0 under a robust rule, which weighs nothing.
        scale: a of the fusion.
        refused: files that may not be merged, with every reason.
        left_out: files whose bands do not exist at the ensemble's resolution.
        fitted: biases and what else came from a holdout; none with weights that need no data.
        holdout: what that is worth on images that the fit did not see; none likewise.
        cascade: threshold, stages and what they save; none unless it is a cascade.
        cameras: what was found of every coarse camera that could be compared.
        audit: what a holdout says of every box; none without one.
        copies: files of several boxes that are one network.
    """

    model: bytes
    sha256: str
    options: Options
    files: tuple[BranchFile, ...]
    weights: tuple[tuple[float, ...], ...]
    scale: float
    refused: tuple[Refusal, ...]
    fitted: Fitted | None = None
    holdout: Holdout | None = None
    left_out: tuple[BranchFile, ...] = ()
    cascade: CascadeReport | None = None
    cameras: tuple[CameraFinding, ...] = ()
    audit: Audit | None = None
    copies: tuple[Copy, ...] = ()

    def largest_change(self, index: int) -> float | None:
        """Return by how much file ``index`` can move any probability; none where no bound holds.

        Under ``--robust median`` what a box can do depends on the others: it moves the median of
        a class to a neighbouring value at most, however far that is.
        """
        if self.options.robust is not None:
            return None
        return largest_change(self.weights[index], scale=self.scale)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return what the options do not give for these files, a sentence each."""
        copied = tuple(copy.warning for copy in self.copies)
        return (*warnings_of(self.files, self.options), *notes_of(self.files), *copied)


def merge_paths(
    paths: Sequence[Path],
    *,
    options: Options,
    skip_refused: bool = False,
    holdout: Path | None = None,
    keep: Sequence[str] = (),
    progress: Progress | None = None,
    gate: Gate | None = None,
) -> Merged:
    """Merge branch files from disk.

    Args:
        paths: branch files, in any order.
        options: weight rule, layout, resolution, robust rule.
        skip_refused: go on without the files that may not be merged.
        holdout: folder of labelled images: boxes that they speak against are left out, and the
            rule ``fitted`` and the threshold of a cascade come from them.
        keep: boxes that answer whatever the holdout says of them; that is recorded.
        progress: called with images of the holdout done and images in all.
        gate: lets through what is signed by whom it trusts; `Gate.remember` is for the caller, once
            the ensemble is written.

    Raises:
        MergeRefused: files may not be merged and ``skip_refused`` is off, or none is left.
        IntegrityError: the same, and all of them for their signature.
        UsageError: the options do not fit each other, the plan, or a holdout given or not.
        DataError: the holdout cannot be used.
    """
    files, refused = read_all(paths, gate=gate)
    return merge_files(
        files,
        options=options,
        refused=refused,
        skip_refused=skip_refused,
        holdout=holdout,
        keep=keep,
        progress=progress,
    )


def merge_files(
    files: Sequence[BranchFile],
    *,
    options: Options,
    refused: Sequence[Refusal] = (),
    skip_refused: bool = False,
    holdout: Path | None = None,
    keep: Sequence[str] = (),
    progress: Progress | None = None,
) -> Merged:
    """Merge branch files that were already read; as `merge_paths`."""
    need_compatible(options, holdout, keep)
    agreement = agree(files)
    agreement = replace(
        agreement,
        refused=tuple(sorted((*refused, *agreement.refused), key=lambda r: (r.file, r.reasons))),
    )
    _refuse(agreement, skip_refused=skip_refused)
    need_resolution(options, agreement.files[0].plan)
    # Before files are left out: finer boxes are what coarse cameras are compared with.
    desk = None if options.resolution is not None else _desk(agreement.files, holdout)
    matched, cameras = match_cameras(agreement.files, desk=desk)
    kept, left_out = split_by_resolution(matched, options)
    fitted, report, seen = None, None, None
    need_boxes(kept, keep)
    logits = verify_vectors(kept, options)
    trials: tuple[Trial, ...] = ()
    verdicts = Verdicts()
    if holdout is not None:
        seen = answer_holdout(kept, holdout, resolution=options.resolution, progress=progress)
        everyone = kept
        trials, verdicts = audit_boxes(kept, seen, options, keep)
        kept, seen = without(kept, seen, verdicts)
        logits = [z for z, f in zip(logits, everyone, strict=True) if f in kept]
    if options.cascade:
        need_stages(kept)
    if options.weights == names.FITTED:
        need_scipy()
        weighing = weigh(kept, replace(options, weights=DEFAULT_WEIGHTS))
    else:
        weighing = weigh(kept, options)
    if options.weights == names.FITTED and seen is not None:
        fit = fit_on_holdout(kept, seen, start=weighing)
        weighing, fitted, report = fit.weighing, fit.fitted, fit.report
    cascade, saved = None, None
    if options.cascade:
        cascade, saved = cascade_of(kept, weighing, options, seen, fitted)
    how: dict[str, Any] = {
        "options": options,
        "scale": weighing.scale,
        "fitted": fitted,
        "cascade": cascade,
    }
    recorded = verdicts.to_document() if verdicts else None
    vector = reference_vector(
        kept, weighing.weights, options=options, scale=weighing.scale, fitted=fitted
    )
    image = vector_image(kept[0], options)
    model = build_ensemble(kept, weighing.weights, audit=recorded, vector=vector, **how)
    if saved is not None:
        record = ensemble_record(parse_model(model), name="ensemble")
        saved = replace(saved, stages=tuple(record["cascade"]["stages"]))
    hold_once([file.parameters for file in kept], model)
    running = check_model(model, "ensemble")
    prove(running, kept, weighing.weights, logits=logits, **how)
    prove_answer(running, vector, image, options, cascade=cascade is not None)
    return Merged(
        model=model,
        sha256=sha256(model),
        options=options,
        files=kept,
        weights=weighing.weights,
        scale=weighing.scale,
        refused=agreement.refused,
        fitted=fitted,
        holdout=report,
        left_out=left_out,
        cascade=saved,
        cameras=cameras,
        audit=(
            concluded(trials, verdicts, kept, seen, weighing, options, fitted) if seen else None
        ),
        copies=find_copies(kept),
    )


def change_ensemble(
    ensemble: bytes | Content,
    *,
    name: str,
    remove: Sequence[str] = (),
    force: bool = False,
    add: Sequence[Path] = (),
    options: Options | None = None,
    skip_refused: bool = False,
    holdout: Path | None = None,
    keep: Sequence[str] = (),
    progress: Progress | None = None,
    gate: Gate | None = None,
) -> Merged:
    """Take branches out of an ensemble and put others in, with the options it was made with.

    The result is the same, byte for byte, as merging the remaining files anew.

    Args:
        ensemble: bytes of the ensemble file, or what is in it.
        name: what it is called in messages.
        remove: box ids or ``branch.box`` ids.
        force: a removed box takes the files with it that it trained together with others.
        add: branch files.
        options: other options than those it was made with.
        skip_refused: go on without added files that may not be merged.
        holdout: as `merge_paths`; weights and thresholds that came from one need one again.
        keep: as `merge_paths`.
        progress: as `merge_paths`.
        gate: as `merge_paths`; the ensemble's own signature is for the caller to verify.

    Raises:
        UsageError: an id names nothing in the ensemble, or a box that trained files together with
            others and ``force`` is off; nothing would be left; or its weights or threshold came
            from a holdout and there is neither one now nor what needs none.
        IntegrityError: the ensemble does not give back the files it was made of, or the gate does
            not trust a box that stays in it.
        MergeRefused: as `merge_paths`.
    """
    content = members_of(ensemble, name=name) if isinstance(ensemble, bytes) else ensemble
    wanted = options or content.options
    _need_holdout_again(content, wanted, holdout, name)
    left = groups.without(content.files, remove, name=name, force=force)
    if gate is None:  # nobody verified what the record says of signatures
        left = [replace(f, signed=None) for f in left]
    else:
        gate.need_members(left, name=name)
    added, refused = read_all(add, gate=gate)
    if not left and not added:
        raise UsageError(
            f"{name}: removing {', '.join(remove)} leaves no branch; delete the file instead"
        )
    return merge_files(
        [*left, *added],
        options=wanted,
        refused=refused,
        skip_refused=skip_refused,
        holdout=holdout,
        keep=keep,
        progress=progress,
    )


def _need_holdout_again(content: Content, wanted: Options, holdout: Path | None, name: str) -> None:
    """Refuse to carry over to other branches what was fitted with these."""
    need_threshold_again(content.options, content.cascade, wanted, holdout, name)
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
    # What only signatures keep out is a matter of trust; what does not fit would not with any.
    kind = IntegrityError if all(r.signature for r in agreement.refused) else MergeRefused
    if not agreement.files:
        raise kind(f"merge: no file may be merged: {reasons}")
    if not skip_refused:
        total = len(agreement.files) + len(agreement.refused)
        raise kind(
            f"merge: {len(agreement.refused)} of {total} files refused: {reasons}. Mend them, or "
            f"merge the other {len(agreement.files)} with --skip-refused"
        )

"""How branch files become an ensemble, as its record keeps it; and what an option rules out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edge_stl.errors import MergeRefused, UsageError
from edge_stl.fusion import voters
from edge_stl.plan import Plan
from exporter import names
from exporter.read import BranchFile


Layout = Literal["nhwc", "nchw"]
DEFAULT_WEIGHTS = "reliability"

FEWEST_BOXES = 5
"""A median over fewer is allowed, with a warning: a fleet may shrink, and a merge goes on."""

ALONE = 3
"""Boxes at which the median lies between two that agree, whatever the third says."""


@dataclass(frozen=True)
class Options:
    """How branch files become an ensemble; stored in it, so that `--remove` can do it again.

    Attributes:
        weights: the rule; stays the default where `robust` weighs nothing.
        layout: order of the input's axes.
        resolution: r, rows and columns of the input; none is the plan's R.
        robust: ``median``, or none for the weighted sum of evidence.
        threshold: of a cascade, 0..1, where it was named.
        cascade_loss: accuracy that a cascade may lose on the holdout, 0..1, where its threshold
            comes from there. With neither there is no cascade; both together cannot be.
    """

    weights: str = DEFAULT_WEIGHTS
    layout: Layout = "nhwc"
    resolution: int | None = None
    robust: str | None = None
    threshold: float | None = None
    cascade_loss: float | None = None

    @property
    def cascade(self) -> bool:
        """Return whether the ensemble is a cascade."""
        return self.threshold is not None or self.cascade_loss is not None

    def to_document(self) -> dict[str, Any]:
        """Return plain JSON values; what is not used is absent, so that old bytes stay valid."""
        document: dict[str, Any] = {"layout": self.layout}
        if self.robust is None:
            document["weights"] = self.weights
        else:
            document["robust"] = self.robust
        if self.resolution is not None:
            document["resolution"] = self.resolution
        if self.threshold is not None:
            document["threshold"] = self.threshold
        if self.cascade_loss is not None:
            document["cascade_loss"] = self.cascade_loss
        return document

    def side(self, plan: Plan) -> int:
        """Return rows and columns of the input."""
        return self.resolution or plan.input.resolution

    def problem(self, plan: Plan) -> str | None:
        """Return why no merge under this plan has these options, or None."""
        if self.weights not in names.WEIGHT_RULES:
            return f"weights {self.weights!r}"
        if self.layout not in names.LAYOUTS:
            return f"layout {self.layout!r}"
        if self.robust is not None and (
            self.robust not in names.ROBUST_RULES or self.weights != DEFAULT_WEIGHTS
        ):
            return f"robust {self.robust!r} beside weights {self.weights!r}"
        if self.resolution is not None and self.resolution not in plan.resolutions[1:]:
            return f"resolution {self.resolution!r}"
        if self.cascade and (
            self.robust is not None
            or None not in (self.threshold, self.cascade_loss)
            or not all(0 <= x <= 1 for x in (self.threshold, self.cascade_loss) if x is not None)
        ):
            return f"threshold {self.threshold!r} and cascade loss {self.cascade_loss!r}"
        return None


@dataclass(frozen=True)
class Cascade:
    """What a cascade keeps of how its threshold came to be.

    Attributes:
        threshold: above which a coarse answer is sure enough, 0..1.
        images: of the holdout that it was chosen on; none where it was named.
    """

    threshold: float
    images: int | None = None

    def to_document(self) -> dict[str, Any]:
        """Return plain JSON values."""
        document: dict[str, Any] = {"threshold": self.threshold}
        if self.images is not None:
            document["images"] = self.images
        return document


def cascade_in(record: dict[str, Any], options: Options) -> Cascade | None:
    """Return what an ensemble's record keeps of its cascade.

    Raises:
        KeyError: there is nothing, and the options ask for a cascade.
        TypeError: a number is none.
        ValueError: it is there without such options, or its numbers cannot be.
    """
    if not options.cascade:
        if "cascade" in record:
            raise ValueError("a cascade, but no option that asks for one")
        return None
    kept = record["cascade"]
    threshold, images = kept["threshold"], kept.get("images")
    if type(threshold) not in (int, float) or type(images) not in (int, type(None)):
        raise TypeError(f"a cascade with threshold {threshold!r:.40}, from {images!r:.40} images")
    threshold = float(threshold)
    chosen = options.cascade_loss is not None
    sound = math.isfinite(threshold) and 0 <= threshold <= 1
    named = chosen or threshold == options.threshold
    if not sound or not named or chosen != (images is not None and images > 0):
        raise ValueError(f"a cascade with threshold {threshold}, from {images} images")
    return Cascade(threshold, images)


def options_in(record: dict[str, Any]) -> Options:
    """Return the options that an ensemble's record keeps; `Options.problem` judges their values.

    Raises:
        KeyError: there are none.
        TypeError: one is unknown, or of another type.
    """
    options = Options(**record["options"])
    for value, kinds in (
        (options.weights, (str,)),
        (options.layout, (str,)),
        (options.resolution, (int, type(None))),
        (options.robust, (str, type(None))),
        (options.threshold, (int, float, type(None))),
        (options.cascade_loss, (int, float, type(None))),
    ):
        if type(value) not in kinds:  # a bool is no int here
            raise TypeError(f"option {value!r:.40}")
    return options


def need_compatible(options: Options, holdout: Path | None, keep: Sequence[str] = ()) -> None:
    """Refuse fitted weights and verdicts without a holdout, and rules that exclude each other.

    Raises:
        UsageError: with the option that is missing or too much.
    """
    need_cascade(options, holdout)
    if options.robust is not None and options.weights != DEFAULT_WEIGHTS:
        raise UsageError(
            f"--weights {options.weights}: --robust {options.robust} weighs nothing, every box "
            "speaks once; expected one of the two. Leave one out"
        )
    if options.weights == names.FITTED and holdout is None:
        raise UsageError(
            "--weights fitted: there is nothing to fit on; expected --holdout IMAGES, a folder of "
            "labelled images. Name one, or choose another rule"
        )
    if keep and holdout is None:
        raise UsageError(
            f"--keep {keep[0]}: nothing speaks against any box; expected --holdout IMAGES beside "
            "it. Leave --keep out, or name labelled images"
        )


def need_cascade(options: Options, holdout: Path | None) -> None:
    """Refuse a cascade without a threshold or anything to choose one on, and numbers out of range.

    Raises:
        UsageError: with what is wrong.
    """
    for option, number in (
        ("--threshold", options.threshold),
        ("--cascade-loss", options.cascade_loss),
    ):
        if number is not None and not 0 <= number <= 1:
            raise UsageError(f"{option} {number}: is no share; expected a number from 0 to 1")
    if options.cascade and options.robust is not None:
        raise UsageError(
            f"--cascade: under --robust {options.robust} no few boxes can answer for all, for a "
            "median needs most of them; expected one of the two. Leave one out"
        )
    if options.threshold is not None and options.cascade_loss is not None:
        raise UsageError(
            "--threshold and --cascade-loss: the one names the threshold, the other chooses it; "
            "expected one of both. Leave one out"
        )
    if options.cascade_loss is not None and holdout is None:
        raise UsageError(
            "--cascade: nothing says how sure a coarse answer must be; expected --holdout IMAGES, "
            "labelled images to choose the threshold on, or --threshold X with X from 0 (coarse "
            "branches only) to 1 (always all). Name one of both"
        )


def warnings_of(files: Sequence[BranchFile], options: Options) -> tuple[str, ...]:
    """Return where a median protects nobody: too few boxes, in all or of a class."""
    if options.robust is None:
        return ()
    plan = files[0].plan
    speaks = voters([f.manifest.member() for f in files])
    found = []
    if len(speaks) < FEWEST_BOXES:
        found.append(
            f"--robust {options.robust}: {len(speaks)} boxes that saw two classes or more; the "
            f"median is meant for {FEWEST_BOXES} or more, and with fewer than {ALONE} one box "
            "decides. Add boxes, or use --weights"
        )
    seen = sum(
        (own.any(axis=0).astype(int) for own in speaks.values()), np.zeros(len(plan.classes))
    )
    thin = [name for name, count in zip(plan.classes, seen, strict=True) if 0 < count < ALONE]
    if thin and len(speaks) >= ALONE:
        found.append(
            f"--robust {options.robust}: fewer than {ALONE} boxes saw {', '.join(thin)}; there one "
            "box can move the median as it likes. Train these classes on more boxes"
        )
    nobody = [name for name, count in zip(plan.classes, seen, strict=True) if not count]
    if nobody:
        found.append(
            f"--robust {options.robust}: no box tells {', '.join(nobody)} from other classes; "
            f"they get 1/{len(plan.classes)} before the probabilities are normalized"
        )
    return tuple(found)


def need_resolution(options: Options, plan: Plan) -> None:
    """Refuse a resolution that no coarser box of this plan has.

    Raises:
        UsageError: naming those that there are.
    """
    coarser = plan.resolutions[1:]
    if options.resolution is None or options.resolution in coarser:
        return
    if not coarser:
        raise UsageError(
            f"--resolution {options.resolution}: boxes of this plan have "
            f"{plan.input.resolution} px and no other resolution. Leave --resolution out"
        )
    raise UsageError(
        f"--resolution {options.resolution}: an ensemble for coarser cameras takes a resolution of "
        f"the plan below {plan.input.resolution}; expected one of "
        f"{', '.join(map(str, coarser))}. Choose one"
    )


def native_in(file: BranchFile, options: Options) -> int:
    """Return the resolution at which a branch's bands are computed in the ensemble.

    That of its box; the ensemble's own where the box had finer images. For haar that makes the
    same bands. For longer filters it does not, and costs a point or a few: `docs/merge.md`.
    """
    native = file.manifest.native_resolution
    return native if options.resolution is None else min(native, options.resolution)


def split_by_resolution(
    files: Sequence[BranchFile], options: Options
) -> tuple[tuple[BranchFile, ...], tuple[BranchFile, ...]]:
    """Return the files whose bands exist at the ensemble's resolution, and the others.

    Args:
        files: of one plan, in order.
        options: its resolution counts.

    Raises:
        MergeRefused: no file's bands exist there.
    """
    if not files or options.resolution is None:
        return tuple(files), ()
    plan = files[0].plan
    needs = {f.manifest.id: plan.required_resolution(plan.branch(f.manifest.branch)) for f in files}
    kept = tuple(f for f in files if needs[f.manifest.id] <= options.resolution)
    if not kept:
        coarsest = min(needs.values())
        choose = (
            "Leave --resolution out"
            if coarsest == plan.input.resolution
            else f"Choose --resolution {coarsest}"
        )
        raise MergeRefused(
            f"merge --resolution {options.resolution}: none of the {len(files)} branch files has "
            f"bands that exist at {options.resolution} px; the coarsest bands need {coarsest}. "
            f"{choose}, or add branch files of coarser bands"
        )
    return kept, tuple(f for f in files if needs[f.manifest.id] > options.resolution)

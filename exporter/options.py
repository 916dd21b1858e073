"""How branch files become an ensemble, as its record keeps it; and what an option rules out."""

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
    """

    weights: str = DEFAULT_WEIGHTS
    layout: Layout = "nhwc"
    resolution: int | None = None
    robust: str | None = None

    def to_document(self) -> dict[str, Any]:
        """Return plain JSON values; what is not used is absent, so that old bytes stay valid."""
        document: dict[str, Any] = {"layout": self.layout}
        if self.robust is None:
            document["weights"] = self.weights
        else:
            document["robust"] = self.robust
        if self.resolution is not None:
            document["resolution"] = self.resolution
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
        return None


def need_compatible(options: Options, holdout: Path | None) -> None:
    """Refuse fitted weights without a holdout, and what no rule would use.

    Raises:
        UsageError: with the option that is missing or too much.
    """
    if options.robust is not None and options.weights != DEFAULT_WEIGHTS:
        raise UsageError(
            f"--weights {options.weights}: --robust {options.robust} weighs nothing, every box "
            "speaks once; expected one of the two. Leave one out"
        )
    if options.robust is not None and holdout is not None:
        raise UsageError(
            f"--holdout: --robust {options.robust} weighs nothing and needs no images; expected "
            "--weights fitted beside it. Leave --robust or --holdout out"
        )
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

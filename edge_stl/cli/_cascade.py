"""The options of ``merge --cascade``, and what merge, inspect and evaluate tell of a cascade."""

from typing import TYPE_CHECKING, Any

import typer

from edge_stl.cli._output import percent, print_line, print_table


if TYPE_CHECKING:
    from exporter.merge import Merged
    from exporter.options import Options


def cascade_options(
    before: "Options", cascade: bool | None, threshold: float | None, loss: float | None
) -> dict[str, float | None]:
    """Return ``threshold`` and ``cascade_loss`` of the options that were asked for.

    Args:
        before: those of the ensemble that is changed, else the defaults.
        cascade: ``--cascade``, ``--no-cascade`` or neither.
        threshold: ``--threshold``.
        loss: ``--cascade-loss``.

    Raises:
        UsageError: a number for a cascade, and no cascade.
    """
    from edge_stl.errors import UsageError
    from exporter.cascade_threshold import CASCADE_LOSS

    wanted = before.cascade if cascade is None else cascade
    named = "--threshold" if threshold is not None else "--cascade-loss"
    given = threshold is not None or loss is not None
    if given and not wanted:
        raise UsageError(f"{named}: is for a cascade; expected --cascade beside it. Add that")
    if not wanted:
        return {"threshold": None, "cascade_loss": None}
    if given:
        return {"threshold": threshold, "cascade_loss": loss}
    if before.cascade:
        return {"threshold": before.threshold, "cascade_loss": before.cascade_loss}
    return {"threshold": None, "cascade_loss": CASCADE_LOSS}


def cascade_document(merged: "Merged") -> dict[str, Any] | None:
    """Return ``cascade`` of ``merge --json``; none unless it is one."""
    told = merged.cascade
    if told is None:
        return None
    document: dict[str, Any] = {
        "threshold": told.threshold,
        "stages": list(told.stages),
        "holdout": None,
    }
    if told.holdout is not None:
        document["holdout"] = {
            "images": told.holdout.images,
            "accuracy_full": told.holdout.accuracy_full,
            "accuracy": told.holdout.accuracy,
            "stopped": list(told.holdout.stopped),
            "multiply_adds": mean_work(told.stages, told.holdout.stopped),
            "left_out": told.holdout.left_out,
        }
    return document


def print_cascade(merged: "Merged", *, holdout_told: bool) -> None:
    """Print stages and savings to stdout, and to stderr what a person should know.

    Args:
        merged: what was merged.
        holdout_told: whether the files left out of the holdout were named already.
    """
    told = merged.cascade
    if told is None:
        return
    held = told.holdout
    print_stages(told.stages, held.stopped if held else None)
    print_line(f"confidence threshold {told.threshold:g}")
    if held is None:
        return
    full = sum(s["multiply_adds"] for s in told.stages)
    share = mean_work(told.stages, held.stopped) / full
    print_line(
        f"{held.images} holdout images, none seen by its choice: accuracy "
        f"{percent(held.accuracy)} instead of {percent(held.accuracy_full)} at {percent(share)} of "
        "the multiply-adds"
    )
    if held.left_out and not holdout_told:
        counts = ", ".join(f"{n} {reason}" for reason, n in held.left_out.items())
        typer.echo(f"left out of the holdout: {counts}", err=True)
    if told.threshold >= 1:
        typer.echo(
            "warning: no threshold below 1 keeps the accuracy that was asked for, so all branches "
            "always answer; allow more with --cascade-loss, or use more images",
            err=True,
        )


def print_stages(stages: Any, stopped: Any = None) -> None:
    """Print one row per stage; ``stopped`` adds the share of images that it answers."""
    print_table(
        "",
        ("stage", "branches", "multiply-adds", *(("answers",) if stopped else ())),
        [
            (
                f"{stage['resolution']} px",
                " ".join(stage["branches"]),
                f"{stage['multiply_adds']:,}",
                *((percent(stopped[i]),) if stopped else ()),
            )
            for i, stage in enumerate(stages)
        ],
        left=2,
    )


def mean_work(stages: Any, stopped: Any) -> float:
    """Return the mean multiply-adds of an image, from the shares that each stage answers."""
    reached = 0.0
    total = 0.0
    for stage, share in zip(stages, stopped, strict=True):
        total += (1 - reached) * stage["multiply_adds"]
        reached += share
    return total

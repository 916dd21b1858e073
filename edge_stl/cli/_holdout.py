"""What ``merge --weights fitted`` tells of its holdout."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from edge_stl.cli._output import percent, print_line, print_table


if TYPE_CHECKING:
    from exporter.fitting import Holdout


def holdout_document(holdout: "Holdout | None") -> dict[str, Any] | None:
    """Return ``holdout`` of ``merge --json``; none with weights that need no data."""
    return None if holdout is None else asdict(holdout)


def print_holdout(holdout: "Holdout") -> None:
    """Print what the fit bought to stdout; what a person should know before using it to stderr."""
    print_table(
        "",
        (f"{holdout.images} holdout images, none seen by its fit", "accuracy", "log-loss"),
        [
            (
                "reliability weights",
                percent(holdout.accuracy_before),
                f"{holdout.log_loss_before:.4f}",
            ),
            ("fitted", percent(holdout.accuracy_after), f"{holdout.log_loss_after:.4f}"),
        ],
    )
    if holdout.left_out:
        counts = ", ".join(f"{n} {reason}" for reason, n in holdout.left_out.items())
        typer.echo(f"left out of the holdout: {counts}", err=True)
    if holdout.classes_without_images:
        typer.echo(
            f"warning: the holdout has no image of {', '.join(holdout.classes_without_images)}; "
            "no bias is fitted there",
            err=True,
        )
    if holdout.log_loss_after >= holdout.log_loss_before:
        typer.echo(
            "warning: on images that it did not see the fit is no better than reliability weights; "
            "use those, or more images",
            err=True,
        )
    for harm in holdout.harmful:
        print_line(
            f"box {harm.box} harms: with reliability weights, leaving it out changes the log-loss "
            f"of unseen images by {harm.log_loss_change:.4f} (standard error "
            f"{harm.standard_error:.4f}); the fit took its weight from "
            f"{harm.weight_before:.4f} to {harm.weight_after:.4f}"
        )

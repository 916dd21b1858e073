"""What ``merge --holdout`` tells of the boxes."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from edge_stl.cli._output import percent, print_line, print_table


if TYPE_CHECKING:
    from exporter.audit import Audit

NO_BACK_DOORS = "Back doors that were trained in cannot be excluded by any of this."


def audit_document(audit: "Audit | None") -> dict[str, Any] | None:
    """Return ``audit`` of ``merge --json``; none without a holdout."""
    if audit is None:
        return None
    return {
        "images": audit.images,
        "accuracy": audit.accuracy,
        "certified": audit.certified,
        "boxes": [asdict(trial) for trial in audit.trials],
        **audit.verdicts.to_document(),
    }


def print_audit(audit: "Audit") -> None:
    """Print the evidence on every box to stdout; who is in quarantine to stderr as well."""
    if audit.trials:
        print_table(
            "",
            (
                "box",
                f"images of its classes, of {audit.images}",
                "right alone",
                "right only without it",
                "only with it",
                "p",
            ),
            [
                (t.box, t.images, percent(t.accuracy), t.mended, t.spoiled, f"{t.p_harm:.3f}")
                for t in audit.trials
            ],
        )
    for box in audit.verdicts.quarantined:
        typer.echo(
            f"quarantine: box {box.box} does not answer: {box.reason}. Its files are as they were; "
            f"--keep {box.box} lets it answer, and that is recorded",
            err=True,
        )
    for box in audit.verdicts.kept:
        typer.echo(f"kept in spite of the holdout: box {box.box}: {box.reason}", err=True)
    print_line(
        f"{percent(audit.accuracy)} of the holdout are right; {percent(audit.certified)} are right "
        "and stay so whatever any one box says at its weight"
    )
    print_line(NO_BACK_DOORS)

"""What the service is asked."""

from dataclasses import dataclass
from pathlib import Path

from edge_stl.service._hours import Hours


@dataclass(frozen=True)
class Settings:
    """What ``agent watch`` is asked.

    Attributes:
        plan_file: the plan; read again at every look.
        images: the folder to look at.
        out: the outbox.
        box: the box id; None where the work folder remembers it.
        work: the work folder; None for the default one of the plan and box.
        every: this many new or changed images start a training.
        hours: when training is allowed; None: always.
        check_every: seconds between two looks.
        threads: of torch; None: all cores.
        options: further options of ``train``, as on its command line.
        metrics_file: a Prometheus text file to keep up to date.
        once: train if it is due, then end.
    """

    plan_file: Path
    images: Path
    out: Path
    box: str | None = None
    work: Path | None = None
    every: int = 100
    hours: Hours | None = None
    check_every: float = 60.0
    threads: int | None = None
    options: tuple[str, ...] = ()
    metrics_file: Path | None = None
    once: bool = False

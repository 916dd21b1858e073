"""``edge-stl doctor``: what this machine lacks."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from edge_stl.cli import _options as opt
from edge_stl.cli._output import print_json, print_line, print_table
from edge_stl.errors import ResourceError


def doctor(
    work: Annotated[
        Path | None,
        typer.Option(
            help="The work folder you will train with; by default the one train uses.",
            show_default=False,
        ),
    ] = None,
    json: opt.Json = False,
) -> None:
    """Look at this machine before it trains, and print the command that mends what it finds.

    Exit code 20 if anything would stop a run, else 0. No network and no display is used.
    """
    from device_agent.doctor import Check, default_work_root, examine, worst

    checks: list[Check] = []
    waiting = sys.stderr.isatty() and not json
    for check in examine(work=work or default_work_root()):
        checks.append(check)
        if waiting:
            print(f"\r{len(checks)} looked at ", end="", file=sys.stderr, flush=True)
    if waiting:
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    if json:
        print_json({"status": worst(checks), "checks": [asdict(check) for check in checks]})
    else:
        print_table(
            "", ("check", "status", "found"), [(c.name, c.status, c.found) for c in checks], left=3
        )
        for check in checks:
            if check.fix:
                print_line(f"fix {check.name}: {check.fix}")
    errors = [check.name for check in checks if check.status == "error"]
    if errors:
        raise ResourceError(
            f"doctor: {', '.join(errors)}: {len(errors)} of {len(checks)} checks would stop a run; "
            "expected none. Do what is printed above"
        )

"""``edge-stl deploy``: an ensemble into service on a box, and back."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from edge_stl.cli import _options as opt
from edge_stl.cli._output import print_json, print_line, print_table


def deploy(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="[ENSEMBLE] SLOTS",
            help="The ensemble file, and the folder of the two slots; with --back and --status the "
            "folder alone.",
            show_default=False,
        ),
    ],
    back: Annotated[
        bool, typer.Option("--back", help="Make the other slot serve again. Needs no network.")
    ] = False,
    status: Annotated[bool, typer.Option("--status", help="Say what the slots hold.")] = False,
    max_ms: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Milliseconds an image may take, with one thread.  [default: three times what the "
            "serving one took]",
            show_default=False,
        ),
    ] = None,
    allow_other_classes: Annotated[
        bool,
        typer.Option("--allow-other-classes", help="It may name other classes than the serving."),
    ] = False,
    trust: opt.TrustFile = None,
    json: opt.Json = False,
) -> None:
    """Put an ensemble into service on this machine, if it passes its self-test; or go back.

    It is copied into the slot that does not serve and tested in a child process with limits: it
    must load, answer its own test vector, and not be slower. Then one rename makes it serve.
    'edge-stl predict --slot SLOTS' uses what serves.
    """
    from edge_stl import deploy as room

    folder = _folder(
        paths,
        back=back,
        status=status,
        other=max_ms is not None or allow_other_classes or trust is not None,
    )
    found = None
    if back:
        room.go_back(folder)
    elif not status:
        _, found = room.deploy(
            paths[0],
            folder,
            max_milliseconds=max_ms,
            other_classes=allow_other_classes,
            verified=None if trust is None else _verified(paths[0], trust),
        )
    now = room.status(folder)
    if json:
        print_json(
            {
                "slots": str(folder),
                "current": now.current,
                "serving": now.serving,
                "contents": [_row(slot) for slot in now.slots],
                "self_test": None if found is None else asdict(found),
            }
        )
        return
    print_table(
        "",
        ("slot", "state", "sha256", "classes", "ms an image"),
        [
            (
                f"{s.slot} serves" if s.slot == now.serving else s.slot,
                s.state,
                "-" if s.record is None else s.record.sha256[:12],
                "-" if s.record is None else len(s.record.classes),
                "-" if s.record is None else f"{s.record.milliseconds:.2f}",
            )
            for s in now.slots
        ],
        left=3,
    )
    if now.serving != now.current:
        typer.echo(_why(now.current, now.serving), err=True)
    if found is not None:
        print_line(
            f"self-test passed: differs from its test vector by {found.difference:.1e}, "
            f"{found.milliseconds:.2f} ms an image"
        )


def _verified(ensemble: Path, trust: Path) -> bytes:
    from edge_stl.trust import trusted_ensemble  # brings cryptography

    return trusted_ensemble(ensemble, trust)


def _folder(paths: list[Path], *, back: bool, status: bool, other: bool) -> Path:
    from edge_stl.errors import UsageError

    if back and status:
        raise UsageError("deploy: --back and --status together; expected one of the two")
    if back or status:
        name = "--back" if back else "--status"
        if len(paths) != 1:
            raise UsageError(
                f"deploy {name}: {len(paths)} paths; expected the folder of the slots alone"
            )
        if other:
            raise UsageError(
                f"deploy {name}: tests nothing; expected no --max-ms, no --allow-other-classes "
                "and no --trust"
            )
        return paths[0]
    many = "path" if len(paths) == 1 else "paths"
    if len(paths) != 2:  # noqa: PLR2004  (a file and a folder)
        raise UsageError(
            f"deploy: {len(paths)} {many}; expected two, an ensemble file and the folder of the "
            "slots. With --back or --status the folder alone"
        )
    return paths[1]


def _why(current: str | None, serving: str | None) -> str:
    if serving is None:
        return "edge-stl: no slot is whole; deploy an ensemble"
    if current is None:
        return f"edge-stl: which slot serves was lost; slot {serving} does, it was deployed last"
    return f"edge-stl: slot {current} is damaged; slot {serving} serves instead"


def _row(slot: Any) -> dict[str, Any]:
    record = {
        "file": None,
        "sha256": None,
        "bytes": None,
        "classes": None,
        "milliseconds": None,
        "serial": None,
    } | ({} if slot.record is None else asdict(slot.record))
    return {"slot": slot.slot, "state": slot.state, **record}

"""``edge-stl keygen``, ``sign``, ``verify`` and ``trust add | revoke | list``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_stl.cli import _options as opt
from edge_stl.cli._output import print_json, print_line, print_table


if TYPE_CHECKING:
    from edge_stl.trust import Owner, Verdict

app = typer.Typer(help="Whose files this desk takes.", no_args_is_help=True)

_TrustFile = Annotated[
    Path, typer.Option("--trust", metavar="FILE", help="The trust file; made by the first add.")
]
_DEFAULT_TRUST = Path("trust.toml")


def keygen(
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--out",
            metavar="KEYFILE",
            help="Where the private key goes; KEYFILE.pub is what the desk gets.",
            show_default=False,
        ),
    ],
    json: opt.Json = False,
) -> None:
    """Make the key of this box or desk: Ed25519, readable by its user alone, never overwritten."""
    from edge_stl.trust import make_key

    public = make_key(out)
    beside = f"{out}.pub"
    if json:
        print_json({"key": str(out), "public": beside, "id": public.id})
        return
    print_line(f"{out}  private key, stays on this machine")
    print_line(f"{beside}  key {public.id}, for the desk: edge-stl trust add NAME {beside}")


def sign(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE…", help="Branch files or ensembles.", show_default=False),
    ],
    key: opt.NeededKey,
    above: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="NUMBER",
            help="Give numbers higher than this: after a box lost its work folder, the highest "
            "that the desk has seen.",
        ),
    ] = 0,
    work: Annotated[
        Path | None,
        typer.Option(
            help="Work folder, where the numbers are kept; by default the box's own, and one of "
            "the desk for ensembles.",
            show_default=False,
        ),
    ] = None,
    json: opt.Json = False,
) -> None:
    """Sign files where they were made: FILE.sig beside each. train --key does it by itself."""
    from edge_stl.cli._extras import need

    need("onnx", "onnxruntime", verb="signing", extra="merge")
    from edge_stl.durable import write_durably
    from edge_stl.trust import envelope_path, load_private_key
    from exporter.sign import read_subject

    loaded = load_private_key(key)
    rows = []
    for path in files:
        subject = read_subject(path)
        numbers = opt.numbers_of(subject.plan_digest, subject.box, work)
        statement, envelope = subject.sign(loaded, numbers, above=above)
        beside = envelope_path(path)
        write_durably(beside, envelope)
        rows.append(
            {
                "file": str(path),
                "signature": str(beside),
                "key": loaded.public.id,
                "counter": statement.counter,
                "sha256": statement.sha256,
            }
        )
    if json:
        print_json({"files": rows})
        return
    for row in rows:
        print_line(f"{row['signature']}  number {row['counter']}, key {row['key']}")


def verify(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE…", help="Branch files or ensembles.", show_default=False),
    ],
    trust: _TrustFile = _DEFAULT_TRUST,
    json: opt.Json = False,
) -> None:
    """Say who signed files, and whether that holds; FILE.sig stands beside each."""
    from edge_stl.errors import IntegrityError
    from edge_stl.trust import need_signing, read_seen, read_trust

    need_signing("verifying")
    known, seen = read_trust(trust), read_seen(trust, anew=True)
    if seen.note and not json:
        typer.echo(f"note: {seen.note}", err=True)
    verdicts = [(path, _judged(path, known, seen)) for path in files]
    bad = [path for path, verdict in verdicts if not verdict.ok]
    if json:
        print_json({"ok": not bad, "files": [_row(path, verdict) for path, verdict in verdicts]})
    else:
        for path, verdict in verdicts:
            print_line(f"{path}: {_told(verdict)}")
    if bad:
        raise IntegrityError(
            f"verify: {len(bad)} of {len(files)} files have no signature that holds: "
            f"{', '.join(map(str, bad))}; expected one of a key in {trust}. Do not use them"
        )


def _judged(path: Path, trust: Any, seen: Any) -> "Verdict":
    from edge_stl.durable import read_once
    from edge_stl.errors import DataError
    from edge_stl.gate import MAX_FILE_BYTES
    from edge_stl.trust import Verdict, judge, read_envelope_beside

    try:
        data = read_once(path, most=MAX_FILE_BYTES, expected="an ONNX file").data
        return judge(data, read_envelope_beside(path), trust=trust, seen=seen)
    except DataError as error:  # the other files have their verdict all the same
        return Verdict((str(error),))


def _told(verdict: "Verdict") -> str:
    statement, owner = verdict.statement, verdict.owner
    if not verdict.ok or statement is None or owner is None:
        return "; ".join(verdict.reasons)
    branch = getattr(statement, "branch", None)
    what = f"branch {branch}" if branch else "ensemble"
    return f"ok: {what} of {owner}, number {statement.counter}, key {owner.key.id}"


def _row(path: Path, verdict: "Verdict") -> dict[str, Any]:
    statement, owner = verdict.statement, verdict.owner
    return {
        "file": str(path),
        "ok": verdict.ok,
        "kind": verdict.artefact,
        "signer": owner.id if owner else None,
        "key": owner.key.id if owner else None,
        "branch": getattr(statement, "branch", None),
        "counter": statement.counter if statement else None,
        "sha256": statement.sha256 if statement else None,
        "reasons": list(verdict.reasons),
    }


@app.command(epilog="Example: edge-stl trust add cam07 cam07.key.pub")
def add(
    name: Annotated[
        str,
        typer.Argument(
            metavar="BOX", help="The box id, or with --desk a name.", show_default=False
        ),
    ],
    key: Annotated[
        Path,
        typer.Argument(
            metavar="KEYFILE.pub", help="What 'keygen' wrote there.", show_default=False
        ),
    ],
    desk: Annotated[
        bool, typer.Option("--desk", help="The key of a desk, which signs ensembles.")
    ] = False,
    trust: _TrustFile = _DEFAULT_TRUST,
    json: opt.Json = False,
) -> None:
    """Trust a key. Look that its id is the one which keygen printed on the box."""
    import re

    from edge_stl.errors import UsageError
    from edge_stl.plan import NAME_PATTERN
    from edge_stl.trust import add_key, load_public_key

    if not re.fullmatch(NAME_PATTERN, name):
        raise UsageError(
            f"trust add {name!r}: expected a name of lower-case letters, digits and '-', at most "
            "32, like 'cam07'"
        )
    public = load_public_key(key)
    kind = "desk" if desk else "box"
    added = add_key(trust, "desk" if desk else "box", name, public)
    if json:
        print_json(
            {"trust": str(trust), "kind": kind, "id": name, "key": public.id, "added": added}
        )
        return
    was = "" if added else ", was there already"
    print_line(f"{trust}  {kind} {name}, key {public.id}{was}")


@app.command(epilog="Example: edge-stl trust revoke cam07 --reason stolen")
def revoke(
    what: Annotated[
        str,
        typer.Argument(
            metavar="BOX|KEY", help="A box or desk, or the id of one key.", show_default=False
        ),
    ],
    reason: Annotated[str, typer.Option(help="Why; refusals will say it.", show_default=False)],
    trust: _TrustFile = _DEFAULT_TRUST,
    json: opt.Json = False,
) -> None:
    """Take nothing more that a key signed, whenever it signed it. Not to be undone."""
    from edge_stl.trust import revoke_keys

    gone = revoke_keys(trust, what, reason=reason)
    if json:
        rows = [{"kind": o.kind, "id": o.id, "key": o.key.id} for o in gone]
        print_json({"trust": str(trust), "revoked": rows})
        return
    for owner in gone:
        print_line(f"{trust}  {owner}, key {owner.key.id}: revoked ({reason})")


@app.command("list", epilog="Example: edge-stl trust list")
def list_(trust: _TrustFile = _DEFAULT_TRUST, json: opt.Json = False) -> None:
    """Show whose keys are trusted or revoked, and the highest number taken of each branch."""
    from edge_stl.trust import read_seen, read_trust

    known, seen = read_trust(trust), read_seen(trust, anew=True)
    owners = sorted(known.owners.values(), key=lambda o: (o.kind, o.id, o.key.id))
    marks = [(kind, mark) for (kind, _, _), mark in sorted(seen.marks.items())]
    if json:
        print_json(
            {
                "boxes": [_owner_row(o) for o in owners if o.kind == "box"],
                "desks": [_owner_row(o) for o in owners if o.kind == "desk"],
                "seen": [{"kind": kind, **mark.model_dump()} for kind, mark in marks],
            }
        )
        return
    print_table(
        "",
        ("", "name", "key", "state"),
        [
            (o.kind, o.id, o.key.id, f"revoked ({o.reason or '-'})" if o.revoked else "trusted")
            for o in owners
        ],
        left=4,
    )
    if marks:
        print_table(
            "",
            ("taken", "plan", "sha256", "number"),
            [(m.of, m.plan[:12], m.sha256[:12], m.counter) for _, m in marks],
            left=3,
        )


def _owner_row(owner: "Owner") -> dict[str, Any]:
    return {
        "id": owner.id,
        "key": owner.key.id,
        "revoked": owner.revoked,
        "reason": owner.reason,
    }

"""``trust.toml.seen``: the highest number a desk took of every branch, so that old files stay old.

It stands beside the trust file and not in it, so that a person may edit that by hand. It is a
record with a digest and the one before it.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from edge_stl.durable import locked, read_record, write_record
from edge_stl.errors import IntegrityError
from edge_stl.trust._statement import (
    BranchStatement,
    Closed,
    Counter,
    Digest,
    Statement,
    parse_strictly,
)


_MOST_BYTES = 64_000_000


class Mark(Closed):
    """The highest number of something, and which file had it."""

    plan: Digest
    of: Annotated[str, Field(pattern="^[a-z0-9.-]{1,80}$")]
    counter: Counter
    sha256: Digest


class _Marks(Closed):
    format: Literal[1] = 1
    branches: tuple[Mark, ...] = ()
    ensembles: tuple[Mark, ...] = ()


@dataclass(frozen=True)
class Seen:
    """What a desk has taken so far.

    Attributes:
        marks: by kind (``branches``, ``ensembles``), plan digest, and ``branch.box`` or desk.
        note: a sentence for a person where a part of it may be lost.
    """

    marks: Mapping[tuple[str, str, str], Mark] = field(default_factory=dict)
    note: str | None = None

    def problem(self, statement: Statement, owner: str) -> str | None:
        """Return why a file is older than one that was taken, or another of the same number.

        Args:
            statement: what its signature says.
            owner: the box or desk that signed.
        """
        mark = self.marks.get(_place(statement, owner))
        if mark is None or statement.counter > mark.counter:
            return None
        if statement.counter < mark.counter:
            return (
                f"is an older file: its number is {statement.counter}, and number {mark.counter} "
                "was taken before. Use the newest; if the box lost its work folder, run there: "
                f"edge-stl sign FILE --key KEYFILE --above {mark.counter}"
            )
        if statement.sha256 == mark.sha256:
            return None
        return (
            f"is another file than the one taken before with the same number {mark.counter} "
            f"(sha256 {statement.sha256[:12]}, before {mark.sha256[:12]}). Its key may be in use "
            "on two machines: make a new one on the box, and revoke this one"
        )


def seen_path(trust: Path) -> Path:
    """Return where the numbers of a trust file are kept."""
    return trust.with_name(f"{trust.name}.seen")


def begin_seen(trust: Path) -> None:
    """Make the record of a new trust file, unless there is one."""
    path = seen_path(trust)
    if not path.exists():
        _write(path, {})


def read_seen(trust: Path, *, anew: bool = False) -> Seen:
    """Read the numbers that belong to a trust file.

    Args:
        trust: the trust file.
        anew: go on without what is lost; an old file may then be taken once more.

    Raises:
        IntegrityError: they are missing or damaged, and ``anew`` is off.
    """
    path = seen_path(trust)
    record = read_record(path)
    newest_is_there = path.exists() or path.is_symlink()
    # A crash between the two renames of a record leaves the one before and no newest: the ensemble
    # of that merge is there, its numbers are not, and the same merge again brings them back.
    whole = record.body is not None and (record.note is None or not newest_is_there)
    marks, readable = _parsed(record.body)
    if not anew and not (whole and readable):
        state = "damaged" if newest_is_there else "missing"
        raise IntegrityError(
            f"{path}: {state}, so an old file cannot be told from a new one; expected the numbers "
            "taken so far. Put it back from a copy, or go on once with --start-numbers-anew"
        )
    return Seen(marks, record.note)


def remember(trust: Path, taken: Iterable[tuple[Statement, str]]) -> None:
    """Keep the numbers of files that were taken; to be called once what they went into is written.

    A number never goes down, also where two programs do this at the same time.

    Args:
        trust: the trust file.
        taken: statements, each with the box or desk that signed.

    Raises:
        ResourceError: they cannot be written.
    """
    path = seen_path(trust)
    with locked(path):
        before, _ = _parsed(read_record(path).body)
        marks = dict(before)
        for statement, owner in taken:
            place = _place(statement, owner)
            old = marks.get(place)
            if old is None or statement.counter > old.counter:
                marks[place] = Mark(
                    plan=place[1], of=place[2], counter=statement.counter, sha256=statement.sha256
                )
        if marks != before or not path.exists():
            _write(path, marks)


def _place(statement: Statement, owner: str) -> tuple[str, str, str]:
    if isinstance(statement, BranchStatement):
        return "branches", statement.plan_digest, f"{statement.branch}.{statement.box}"
    return "ensembles", statement.plan_digest, owner


def _parsed(body: bytes | None) -> tuple[dict[tuple[str, str, str], Mark], bool]:
    """Return the marks of a record, and whether it could be read."""
    try:
        kept = parse_strictly(body or b"", _Marks, most=_MOST_BYTES)
    except ValueError:
        return {}, False
    both = (("branches", kept.branches), ("ensembles", kept.ensembles))
    return {(kind, m.plan, m.of): m for kind, marks in both for m in marks}, True


def _write(path: Path, marks: Mapping[tuple[str, str, str], Mark]) -> None:
    kinds: dict[str, list[dict[str, object]]] = {"branches": [], "ensembles": []}
    for place in sorted(marks):
        kinds[place[0]].append(marks[place].model_dump())
    write_record(path, json.dumps({"format": 1, **kinds}, indent=1).encode(), mode=0o644)

"""Changing a trust file so that what a person wrote into it stays: comments, order, spaces."""

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from edge_stl.durable import locked, write_durably
from edge_stl.errors import UsageError
from edge_stl.trust._keys import PublicKey, public_from_text
from edge_stl.trust._seen import begin_seen
from edge_stl.trust._trust_file import Kind, Owner, owners_of, read_text


_HEAD = """\
# Whose files this desk takes; everybody else is refused. See docs/trust.md.
format = 1
"""
_TABLES: dict[Kind, str] = {"box": "boxes", "desk": "desks"}
_TABLE = re.compile(r"^(?=[ \t]*\[)", re.MULTILINE)
_VERDICT = re.compile(r"^[ \t]*(revoked|reason)[ \t]*=")
_KEY = re.compile(r"^[ \t]*key[ \t]*=")


def add_key(path: Path, kind: Kind, name: str, key: PublicKey) -> bool:
    """Trust a key: put it under a box, or a desk, which may have several.

    Args:
        path: the trust file; made where there is none.
        kind: whose it is.
        name: the box id, or the name of the desk.
        key: the public key.

    Returns:
        whether it was new; the same again changes nothing.

    Raises:
        UsageError: the key belongs to another, was revoked, or the file is no trust file.
        ResourceError: the file cannot be written.
    """
    with locked(path):
        new = not (path.exists() or path.is_symlink())
        text = _HEAD if new else read_text(path)
        owners = owners_of(text, where=str(path))
        owner = Owner(kind, name, key)
        old = owners.get(key.id)
        if old is not None and old.revoked:
            raise UsageError(
                f"{path}: key {key.id} of {old} was revoked ({old.reason or 'no reason given'}), "
                "which is for good; expected another key. Make one on the box with edge-stl keygen"
            )
        if old is not None and (old.kind, old.id) != (kind, name):
            raise UsageError(
                f"{path}: key {key.id} is that of {old}; expected a key of {owner}'s own. Make "
                "one there with edge-stl keygen"
            )
        if old is not None:
            return False
        entry = f'\n[[{_TABLES[kind]}]]\nid = "{name}"\nkey = "{key.text}"\n'
        changed = text + ("" if text.endswith("\n") else "\n") + entry
        _write(path, changed, {**owners, key.id: owner})
        if new:
            begin_seen(path)
        return True


def revoke_keys(path: Path, what: str, *, reason: str) -> list[Owner]:
    """Take back the trust in a key, or in all keys of a box or desk.

    Args:
        path: the trust file.
        what: a box id, the name of a desk, or a key id.
        reason: why; a person will read it in a refusal.

    Returns:
        the keys that were revoked now.

    Raises:
        UsageError: nothing has that name, all of it was revoked before, or the file is none or is
            written in a way that cannot be changed here.
        ResourceError: the file cannot be written.
    """
    with locked(path):
        text = read_text(path)
        owners = owners_of(text, where=str(path))
        named = {k: owner for k, owner in owners.items() if what in (k, owner.id)}
        if not named:
            known = ", ".join(sorted({owner.id for owner in owners.values()})) or "nobody"
            raise UsageError(
                f"{path}: {what!r} is neither a box, a desk nor the id of a key in it; it has "
                f"{known}. See edge-stl trust list"
            )
        due = {k: owner for k, owner in named.items() if not owner.revoked}
        if not due:
            raise UsageError(f"{path}: {what!r} was revoked before. See edge-stl trust list")
        now = {k: replace(owner, revoked=True, reason=reason) for k, owner in due.items()}
        _write(path, _marked(text, set(due), reason), {**owners, **now})
        return list(now.values())


def _marked(text: str, keys: set[str], reason: str) -> str:
    """Return the text with the tables of these keys marked as revoked."""
    verdict = f"revoked = true\nreason = {json.dumps(reason, ensure_ascii=False)}\n"
    parts = []
    for table in _TABLE.split(text):
        if _key_of(table) in keys:
            kept = [line for line in table.splitlines(keepends=True) if not _VERDICT.match(line)]
            at = next((i for i, line in enumerate(kept) if _KEY.match(line)), len(kept) - 1)
            if not kept[at].endswith("\n"):
                kept[at] += "\n"
            parts.append("".join([*kept[: at + 1], verdict, *kept[at + 1 :]]))
        else:
            parts.append(table)
    return "".join(parts)


def _key_of(table: str) -> str | None:
    try:
        ((entries),) = tomllib.loads(table).values()
        return public_from_text(entries[0]["key"]).id
    except (ValueError, LookupError, TypeError, AttributeError):
        return None


def _write(path: Path, text: str, expected: Mapping[str, Owner]) -> None:
    """Write the file if it says what it must; how a person formatted it may have misled us."""
    try:
        said = dict(owners_of(text, where=str(path)))
    except UsageError:
        said = {}
    if said != dict(expected):
        raise UsageError(
            f"{path}: is written in a way that cannot be changed here; expected [[boxes]] and "
            "[[desks]] tables with a line for id and one for key. Edit it by hand: docs/trust.md"
        )
    write_durably(path, text.encode())

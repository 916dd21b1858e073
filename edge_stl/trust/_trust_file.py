"""``trust.toml``: whose signatures a desk takes. Who is not in it is not trusted."""

import json
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError

from edge_stl.durable import read_once
from edge_stl.errors import UsageError
from edge_stl.plan import describe
from edge_stl.trust._keys import PublicKey, public_from_text
from edge_stl.trust._statement import Closed, Name


Kind = Literal["box", "desk"]
_MOST_BYTES = 4_000_000
_EXPECTED = "a trust file; 'edge-stl trust add BOX KEYFILE.pub' makes one"


def _key(text: str) -> str:
    public_from_text(text)
    return text


class Entry(Closed):
    """A key and whose it is."""

    id: Name
    key: Annotated[str, Field(max_length=200), AfterValidator(_key)]
    revoked: bool = False
    reason: Annotated[str, Field(max_length=200, pattern=r"^[^\p{Cc}]*$")] | None = None


class Document(Closed):
    """The whole file."""

    format: Literal[1]
    boxes: tuple[Entry, ...] = ()
    desks: tuple[Entry, ...] = ()


@dataclass(frozen=True)
class Owner:
    """Whom a key belongs to.

    Attributes:
        kind: a box signs branch files, a desk ensembles.
        id: its name.
        key: the key.
        revoked: nothing that it signed is taken any more, whenever it was signed.
        reason: why.
    """

    kind: Kind
    id: str
    key: PublicKey
    revoked: bool = False
    reason: str | None = None

    def __str__(self) -> str:
        """Return the name for a sentence: ``box cam07``."""
        return f"{self.kind} {self.id}"


@dataclass(frozen=True)
class Trust:
    """A trust file that was read.

    Attributes:
        path: where it stands.
        owners: by key id.
    """

    path: Path
    owners: Mapping[str, Owner]


def read_trust(path: Path) -> Trust:
    """Read a trust file.

    Raises:
        UsageError: it is missing, may be written by anyone, is no TOML or no trust file, or one
            key belongs to two.
    """
    return Trust(path, owners_of(read_text(path), where=str(path)))


def read_text(path: Path) -> str:
    """Return the text of a trust file; errors as `read_trust`."""
    copied = read_once(path, most=_MOST_BYTES, expected=_EXPECTED, error=UsageError)
    if copied.mode & stat.S_IWOTH:
        raise UsageError(
            f"{path}: anyone may write it (mode {copied.mode:04o}), so it trusts anyone; expected "
            f"a file that only its user may write. Look through it, then run: chmod o-w {path}"
        )
    try:
        return copied.data.decode()
    except UnicodeDecodeError:
        raise UsageError(f"{path}: is no text in UTF-8; expected {_EXPECTED}") from None


def owners_of(text: str, *, where: str) -> Mapping[str, Owner]:
    """Return the keys in the text of a trust file, by key id.

    Raises:
        UsageError: as `read_trust`.
    """
    document = _document(text, where)
    owners: dict[str, Owner] = {}
    both: tuple[tuple[Kind, tuple[Entry, ...]], ...] = (
        ("box", document.boxes),
        ("desk", document.desks),
    )
    for kind, entry in ((kind, entry) for kind, entries in both for entry in entries):
        key = public_from_text(entry.key)
        owner = Owner(kind, entry.id, key, entry.revoked, entry.reason)
        if key.id in owners:
            raise UsageError(
                f"{where}: key {key.id} stands under {owners[key.id]} and under {owner}; expected "
                "every key once, since a signature must say who signed. Remove one of both"
            )
        owners[key.id] = owner
    return MappingProxyType(owners)


def _document(text: str, where: str) -> Document:
    try:
        parsed: Any = tomllib.loads(text)
        return Document.model_validate_json(json.dumps(parsed, allow_nan=False))
    except ValidationError as error:
        raise UsageError(f"{where}: {describe(error, Document)}") from None
    except (
        ValueError,
        TypeError,
        RecursionError,
    ) as error:  # TOML; dates and NaN, which JSON has not
        raise UsageError(f"{where}: not a TOML file of trust: {error}") from None

"""The tables of a TOML file with settings of methods, ``[jwins]`` and the like."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from device_agent.cotrain._methods import METHODS, settings_class
from edge_stl.errors import UsageError
from edge_stl.plan import nearest


_MOST_FILE_BYTES = 1_000_000


def read_document(path: Path) -> dict[str, Any]:
    """Return what a TOML file holds.

    Raises:
        UsageError: it cannot be read, or is none.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_MOST_FILE_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read ({error.strerror}). Write one (docs/cotrain.md)"
        ) from None
    if len(raw) > _MOST_FILE_BYTES:
        raise UsageError(f"{path}: larger than {_MOST_FILE_BYTES} bytes, which no such file is")
    try:
        return tomllib.loads(raw.decode())
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not a TOML file: {error}") from None


def take_tables(document: dict[str, Any], *, where: str) -> dict[str, dict[str, Any]]:
    """Take the settings of methods out of a document, checked, by method.

    Raises:
        UsageError: one is no table, a key is unknown, or a value out of its range.
    """
    tables = {name: document.pop(name) for name in METHODS if name in document}
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise UsageError(f"{where}: {name}: expected a table [{name}] with its settings")
        method_settings(name, table, where=where)
    return tables


def method_settings(method: str, table: Mapping[str, Any], *, where: str = "group file") -> Any:
    """Return the settings of a method, checked; None where it has none.

    Args:
        method: its name.
        table: as a file has them; what is not there has its default.
        where: for what is wrong.

    Raises:
        UsageError: a key is unknown, or a value out of its range.
    """
    kind = settings_class(method)
    if kind is None:
        if table:
            raise UsageError(
                f"{where}: [{method}] {next(iter(table))}: this method has no settings of its own. "
                "Remove it"
            )
        return None
    known = list(kind.__dataclass_fields__)
    for key in table:
        if key not in known:
            raise UsageError(f"{where}: [{method}] {key}: unknown key{nearest(key, known)}")
    try:
        made: object = TypeAdapter(kind).validate_json(json.dumps(dict(table), allow_nan=False))
    except ValidationError as error:
        told = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in told["loc"])
        raise UsageError(
            f"{where}: [{method}] {key} = {told['input']!r}; {told['msg'].lower()}. Correct it"
        ) from None
    except UsageError as error:
        raise UsageError(f"{where}: [{method}] {error}") from None
    except (TypeError, ValueError) as error:
        raise UsageError(f"{where}: [{method}] holds a value that no method has: {error}") from None
    return made

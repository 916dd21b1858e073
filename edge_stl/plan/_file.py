"""Reading and writing ``plan.toml``; every refusal is one line."""

import json
import tomllib
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from edge_stl.errors import UsageError
from edge_stl.plan._nearest import nearest
from edge_stl.plan._plan import Plan


_MAX_BYTES = 4_000_000  # a plan of ten thousand classes is a tenth of that


def read_plan(path: Path | str) -> Plan:
    """Read and validate a plan file.

    Raises:
        UsageError: the file cannot be read, is not TOML, or is not a valid plan.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read ({error.strerror}). Make a plan with: edge-stl plan new"
        ) from None
    if len(raw) > _MAX_BYTES:
        raise UsageError(f"{path}: larger than {_MAX_BYTES} bytes, which no plan is")
    try:
        document = tomllib.loads(raw.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{path}: not a TOML file: {error}") from None
    return plan_from_document(document, where=str(path))


def plan_from_document(document: Any, *, where: str) -> Plan:
    """Validate a plan given as plain JSON values (parsed TOML or JSON).

    Raises:
        UsageError: it is not a valid plan; the sentence names every key that is wrong.
    """
    try:
        # Through JSON, because a strict tuple takes a JSON array but no Python list.
        text = json.dumps(document, allow_nan=False)
        return Plan.model_validate_json(text)
    except ValidationError as error:
        raise UsageError(f"{where}: {describe(error, Plan)}") from None
    except (TypeError, ValueError) as error:
        raise UsageError(f"{where}: holds a value that no plan has: {error}") from None


def describe(error: ValidationError, model: type[BaseModel]) -> str:
    """Return one line that names every wrong key, its value, and what was expected."""
    return "; ".join(_describe_one(dict(problem), model) for problem in error.errors())


def _describe_one(problem: dict[str, Any], model: type[BaseModel]) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    kind, message = problem["type"], str(problem["msg"])
    if kind == "value_error":
        text = message.removeprefix("Value error, ")
        if where and not text.startswith(where):
            return f"{where}: {problem['input']!r} {text}"
        return text
    if kind == "extra_forbidden":
        keys = _keys_at(model, problem["loc"][:-1])
        return f"{where}: unknown key{nearest(str(problem['loc'][-1]), keys)}"
    if kind == "missing":
        return f"{where}: is missing"
    value = repr(problem["input"])
    if len(value) > 80:  # noqa: PLR2004  (one line for a person)
        value = value[:77] + "..."
    return f"{where}: {value}; {message[0].lower()}{message[1:]}"


def _keys_at(model: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    """Return the valid keys of the table that ``path`` leads to."""
    here: type[BaseModel] | None = model
    for part in path:
        if here is None or isinstance(part, int):
            continue
        annotation = here.model_fields[part].annotation
        candidates = [annotation, *get_args(annotation)]
        here = next(
            (c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None
        )
    return list(here.model_fields) if here is not None else []

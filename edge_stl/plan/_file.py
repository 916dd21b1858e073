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
_MOST_TOLD = 20  # wrong keys, in one sentence
_WIDTH = 80  # of a value in a sentence: one line for a person


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
    except (ValueError, RecursionError) as error:  # also integers of thousands of digits
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
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"{where}: holds a value that no plan has: {error}") from None


def describe(error: ValidationError, model: type[BaseModel]) -> str:
    """Return one line that names every wrong key, its value, and what was expected."""
    count = error.error_count()
    problems: list[dict[str, Any]] = [
        dict(problem) for problem in error.errors(include_url=False)[:_MOST_TOLD]
    ]
    # pydantic also counts an array's items after dropping the wrong ones: said already.
    told = [
        problem
        for problem in problems
        if problem["type"] != "too_short"
        or not any(
            len(other["loc"]) > len(problem["loc"])
            and other["loc"][: len(problem["loc"])] == problem["loc"]
            for other in problems
        )
    ]
    more = [f"and {count - _MOST_TOLD} more"] if count > _MOST_TOLD else []
    return "; ".join([*(_describe_one(problem, model) for problem in told), *more])


def _describe_one(problem: dict[str, Any], model: type[BaseModel]) -> str:
    where = one_line(".".join(str(part) for part in problem["loc"]))
    kind, message = problem["type"], str(problem["msg"])
    if kind == "value_error":
        text = message.removeprefix("Value error, ")
        if where and not text.startswith(where):
            return f"{where}: {_short(problem['input'])} {text}"
        return text
    if kind == "extra_forbidden":
        keys = _keys_at(model, problem["loc"][:-1])
        return f"{where}: unknown key{nearest(str(problem['loc'][-1]), keys)}"
    if kind == "missing":
        return f"{where}: is missing"
    return f"{where}: {_short(problem['input'])}; {message[0].lower()}{message[1:]}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _WIDTH else text[: _WIDTH - 3] + "..."


def one_line(text: str, *, width: int = _WIDTH) -> str:
    """Return text for a person: what a terminal would not print as itself is escaped, and cut."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return shown if len(shown) <= width else shown[: width - 3] + "..."


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

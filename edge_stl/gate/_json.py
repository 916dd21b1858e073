"""JSON as strict as edge-stl writes it: what another reader would take differently is refused.

Sizes, counts and depth are looked at before anything is built; keys that stand twice, NaN and
numbers out of range while it is built; the rest by writing it again, for canonical JSON has one
form.
"""

import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from edge_stl.gate._wire import Refused


_DEEPEST = 32
"""Of ours: a manifest with its plan has eight levels."""

_DIGITS = 20
"""Of an integer; 64 bits have at most twenty."""

# The string first: brackets inside it count nothing. It may lack its end, or the search would
# begin again inside it at every quotation mark, in quadratic time.
_BRACKETS = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)
_SPACE = re.compile(r"[ \t\r\n]")


@dataclass(frozen=True)
class JsonCaps:
    """How much a document may hold.

    Attributes:
        size: bytes of UTF-8.
        containers: objects and arrays.
        items: commas, in texts too.
        keys: colons, in texts too.
    """

    size: int
    containers: int
    items: int
    keys: int


MANIFEST_CAPS = JsonCaps(size=4 << 20, containers=20_000, items=200_000, keys=20_000)
"""Of a branch file: ten thousand classes with long names fit, in a plan of a thousand branches."""

RECORD_CAPS = JsonCaps(size=32 << 20, containers=200_000, items=2_000_000, keys=500_000)
"""Of an ensemble: four hundred branch files of a thousand classes fit."""


def strict_json(text: str, caps: JsonCaps) -> Any:
    """Return the values of a JSON document.

    Args:
        text: of the document.
        caps: what it may hold.

    Raises:
        Refused: it is no JSON, not the one form that edge-stl writes, or too much of it.
    """
    size = len(text.encode(errors="surrogatepass"))
    if size > caps.size:
        raise Refused(f"{size:,} bytes of JSON; at most {caps.size:,} are read")
    if text.startswith("\ufeff"):
        raise Refused("begins with a byte order mark")
    for count, most, what in (
        (text.count("[") + text.count("{"), caps.containers, "objects and arrays"),
        (text.count(","), caps.items, "items"),
        (text.count(":"), caps.keys, "keys"),
    ):
        if count > most:
            raise Refused(f"{count:,} {what}; at most {most:,} are read")
    _need_shallow(text)
    try:
        document = json.loads(
            text,
            object_pairs_hook=_pairs,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_short,
        )
        again = json.dumps(
            document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )
    except Refused:
        raise
    except (ValueError, RecursionError) as error:
        raise Refused(f"no JSON ({error})") from None
    if again != text:
        raise Refused(_other_form(text, again))
    return document


def _need_shallow(text: str) -> None:
    depth = 0
    for found in _BRACKETS.finditer(text):
        mark = found.group()[0]
        if mark in "[{":
            depth += 1
            if depth > _DEEPEST:
                raise Refused(f"more than {_DEEPEST} objects or arrays inside each other")
        elif mark in "]}":
            depth -= 1


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise Refused(f"key {twice[:60]!r} stands twice")
    return found


def _no_constant(name: str) -> Any:
    raise Refused(f"{name} is no number of JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise Refused(f"number {digits[:40]} is out of range")
    return number


def _short(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise Refused(f"an integer of {len(digits):,} characters; at most {_DIGITS} are read")
    return int(digits)


def _other_form(text: str, again: str) -> str:
    """Say where two forms of a document part."""
    at = next(
        (i for i, (a, b) in enumerate(zip(text, again, strict=False)) if a != b),
        min(len(text), len(again)),
    )
    what = "not canonical: a space" if _SPACE.match(text, at) else "not canonical: differs"
    return f"{what} at character {at:,}; keys sorted, no spaces, shortest numbers expected"

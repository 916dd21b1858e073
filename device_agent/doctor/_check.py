"""One finding about a machine."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal


Status = Literal["ok", "note", "warning", "error"]

SEVERITY: tuple[Status, ...] = ("ok", "note", "warning", "error")
"""From harmless to what would stop a run; a note is worth knowing and needs nothing."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """What was looked at, what was found, and what mends it.

    Attributes:
        name: what was looked at, like ``memory``.
        status: how bad it is; one of `SEVERITY`.
        found: what was found, with the value, in one line.
        fix: the command that mends it, or None where there is nothing to mend or no command.
        values: the numbers behind `found`, for programs: bytes, seconds, degrees Celsius, counts.
    """

    name: str
    status: Status
    found: str
    fix: str | None = None
    values: Mapping[str, float | str | bool | None] = field(default_factory=dict)


def worst(checks: Iterable[Check]) -> Status:
    """Return the highest severity among checks; ``ok`` of none."""
    return max((check.status for check in checks), key=SEVERITY.index, default="ok")


def size(count: float) -> str:
    """Return a number of bytes in decimal MB or GB, as disks and boards are sold."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"  # noqa: PLR2004


def one_line(text: str, *, most: int = 200) -> str:
    """Return a foreign text as one short printable line."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(printable.split())[:most]

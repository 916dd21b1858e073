"""Allowed hours: the one thing that the wall clock decides."""

import datetime as dt
import re
from dataclasses import dataclass

from edge_stl.errors import UsageError


_TIME = r"([0-9]{1,2})(?::([0-9]{2}))?"
_RANGE = re.compile(rf"{_TIME}-{_TIME}")
_DAY = 24 * 60


@dataclass(frozen=True)
class Hours:
    """Parts of a day.

    Attributes:
        ranges: (first minute, minute after the last) of the day, 0..1440; the second may be
            smaller, where a range goes on after midnight.
        text: as it was written.
    """

    ranges: tuple[tuple[int, int], ...]
    text: str

    def allow(self, moment: dt.datetime) -> bool:
        """Return whether a local time is in one of the ranges."""
        minute = 60 * moment.hour + moment.minute
        return any(
            start <= minute < end if start < end else minute >= start or minute < end
            for start, end in self.ranges
        )


def parse_hours(text: str) -> Hours:
    """Read allowed hours, like ``22-6`` or ``22:30-6,12-13``.

    Raises:
        UsageError: it is no such list.
    """
    ranges = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip(), 0)
        if match is None or not part.isascii():
            raise _wrong(text, f"{part.strip()!r} is no range")
        start, end = (60 * int(match[i]) + int(match[i + 1] or 0) for i in (1, 3))
        minutes = [int(match[i] or 0) for i in (2, 4)]
        if max(start, end) > _DAY or max(minutes) >= 60 or start == _DAY:  # noqa: PLR2004
            raise _wrong(text, f"{part.strip()!r} is beyond the day")
        if start == end:
            raise _wrong(text, f"{part.strip()!r} is empty")
        ranges.append((start, end))
    return Hours(tuple(ranges), text)


def _wrong(text: str, problem: str) -> UsageError:
    return UsageError(
        f"--hours {text}: {problem}; expected local times from 0 to 24, like 22-6 or "
        "22:30-6,12-13. For the whole day leave it out"
    )

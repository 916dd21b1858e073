"""The log of the service: sentences on a terminal, one JSON object per line elsewhere."""

import datetime as dt
import json
import os
from contextlib import suppress
from typing import Literal, Protocol

from edge_stl.service._clock import FIRST_YEAR, Clock


Level = Literal["info", "warning", "error"]


class Log(Protocol):
    """Who is told what happens."""

    def __call__(self, event: str, message: str, *, level: Level = "info", **facts: object) -> None:
        """Tell one event: its short name, a sentence, and numbers for a machine."""


class Teller:
    """Writes the log to stderr; where that is full or closed, the line is lost and nothing else.

    A line of JSON has ``time`` (RFC 3339, UTC), ``monotonic`` (seconds), ``level``, ``event``,
    ``message`` and the facts of the event.

    Args:
        human: sentences with the local time instead.
        clock: the clocks.
        descriptor: where to; written to without a buffer, which could fail later.
    """

    def __init__(self, *, human: bool, clock: Clock | None = None, descriptor: int = 2) -> None:
        self._human, self._descriptor = human, descriptor
        self._clock = clock or Clock()

    def __call__(self, event: str, message: str, *, level: Level = "info", **facts: object) -> None:
        """Write one line."""
        now = self._clock.now()
        if self._human:
            mark = "" if level == "info" else f"{level}: "
            line = f"{now:%H:%M:%S} {mark}{' '.join(message.splitlines())}"
        else:
            utc = now.astimezone(dt.UTC).isoformat(timespec="milliseconds")
            document = {
                "time": utc.replace("+00:00", "Z"),
                "monotonic": round(self._clock.monotonic(), 3),
                "level": level,
                "event": event,
                "message": message,
                **facts,
            }
            line = json.dumps(document, ensure_ascii=True)
        with suppress(OSError):
            os.write(self._descriptor, line.encode("utf-8", "backslashreplace") + b"\n")


def wrong_clock(clock: Clock) -> str | None:
    """Return a note where the calendar cannot be right."""
    year = clock.now().year
    if year >= FIRST_YEAR:
        return None
    return (
        f"the clock says the year {year}: allowed hours and times of the log go by it all the same"
    )

"""The clocks of the service; the calendar is asked for allowed hours and for what people read."""

import datetime as dt
import time


FIRST_YEAR = 2026
"""The year in which this was written: no clock before it is right."""


class Clock:
    """The machine's clocks; tests give others."""

    def monotonic(self) -> float:
        """Return seconds that never jump."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait; a signal is handled meanwhile."""
        time.sleep(seconds)

    def now(self) -> dt.datetime:
        """Return the local time, with its zone."""
        return dt.datetime.now(dt.UTC).astimezone()

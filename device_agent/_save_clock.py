"""When the next checkpoint is due."""

import time


_FIRST = 2.0


class SaveClock:
    """Due after 2 s, then after 4, 8, 16 more, then at a steady distance.

    A machine that is powered for seconds at a time must keep something of each time; one that runs
    for days must not wear out its card.

    Args:
        seconds: the steady distance; with less than 0, a checkpoint is always due.
    """

    def __init__(self, seconds: float) -> None:
        self._most = seconds
        self._wait = min(_FIRST, seconds)
        self._last = time.monotonic()

    def due(self) -> bool:
        """Return whether a checkpoint is due; call `saved` once it is written."""
        return time.monotonic() - self._last > self._wait

    def saved(self) -> None:
        """Start the next distance now, when the checkpoint is on the disk."""
        self._last = time.monotonic()
        self._wait = min(2 * self._wait, self._most)

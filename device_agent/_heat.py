"""Pausing while the machine is too hot.

By default only where the machine is about to switch itself off, which would cost the work and
whatever else runs on it: 5 degrees below the critical point of a thermal zone. That the processor
slows down before is the machine's own way of cooling, does no harm and changes no byte, so nobody
is paused for it who did not ask.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path

from device_agent.doctor._thermal import NEAR, Zone, thermal_zones


COOLER = 5.0
"""Degrees below the limit at which a paused run goes on; without them it would come and go."""

_LOOK = 5.0  # seconds between two looks while it trains
_LOOK_AGAIN = 1.0  # and while it waits
_NAP = 0.25


class Heat:
    """The thermal zones of a machine and how hot they may be.

    Args:
        celsius: the limit of every zone; None for 5 degrees below its critical point, which a
            zone need not have; infinity for no limit.
        root: of the file system with /sys.
        clock: seconds, never backwards.
        nap: sleeps some seconds.
    """

    def __init__(
        self,
        *,
        celsius: float | None = None,
        root: Path = Path("/"),
        clock: Callable[[], float] = time.monotonic,
        nap: Callable[[float], None] = time.sleep,
    ) -> None:
        self._celsius, self._root, self._clock, self._nap = celsius, root, clock, nap
        self._next = -math.inf

    def limit(self, zone: Zone) -> float:
        """Return the temperature from which on a zone is too hot."""
        if self._celsius is not None:
            return self._celsius
        return math.inf if zone.critical is None else zone.critical - NEAR

    def cooled(self, zone: Zone) -> float:
        """Return the temperature at which a zone that was too hot is cool enough."""
        return self.limit(zone) - COOLER

    def too_hot(self) -> Zone | None:
        """Return a zone that is too hot; looks every 5 seconds at most, and else says None."""
        if self._celsius == math.inf or self._clock() < self._next:
            return None
        self._next = self._clock() + _LOOK
        zones = thermal_zones(self._root)
        return next((z for z in zones if z.celsius >= self.limit(z)), None)

    def wait(self, should_stop: Callable[[], bool]) -> None:
        """Sleep until every zone has cooled down, or until ``should_stop`` says so."""
        again = self._clock() + _LOOK_AGAIN
        while not should_stop():
            if self._clock() >= again:
                zones = thermal_zones(self._root)
                if all(z.celsius <= self.cooled(z) for z in zones):
                    break
                again = self._clock() + _LOOK_AGAIN
            self._nap(_NAP)
        self._next = self._clock() + _LOOK

"""What a run may use: time, memory, heat; and who looks after it between two steps."""

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from device_agent._heat import Heat
from device_agent._memory import give_back, rss
from edge_stl.errors import Interrupted, ResourceError, UsageError


if TYPE_CHECKING:
    from device_agent._types import Reporter

_NUMBER = r"([0-9]{1,9}(?:\.[0-9]{1,9})?)"
_DURATION = re.compile(rf"(?:{_NUMBER}h)?(?:{_NUMBER}m)?(?:{_NUMBER}s)?")
_MEMORY = re.compile(rf"{_NUMBER}([KMGT])(i?)B?")
_POWERS = {"K": 1, "M": 2, "G": 3, "T": 4}
_CELSIUS = (30.0, 120.0)
_LOOK_AT_MEMORY = 1.0


@dataclass(frozen=True)
class Budget:
    """What a run may use.

    Attributes:
        until: moment of `time.monotonic` at which it stops; None for no end.
        time: how the user put that, like ``90m``.
        memory: bytes that may be resident; None for no limit.
        celsius: pause at this temperature; None for 5 degrees below the point where the machine
            switches itself off, ``inf`` for never.
        root: of the file system with /sys.
    """

    until: float | None = None
    time: str = ""
    memory: int | None = None
    celsius: float | None = None
    root: Path = Path("/")


def seconds_of(text: str) -> float:
    """Return the seconds of a duration like ``45s``, ``90m`` or ``1h30m``.

    Raises:
        UsageError: it is none, or no time at all.
    """
    match = _DURATION.fullmatch(text)
    parts = match.groups() if match else ()
    seconds = sum(float(p) * size for p, size in zip(parts, (3600, 60, 1), strict=False) if p)
    if not seconds > 0:
        raise UsageError(
            f"--time-budget {text!r}: is no time; expected hours, minutes and seconds like 45s, "
            "90m or 1h30m. Leave it out to train to the end"
        )
    return seconds


def bytes_of(text: str) -> int:
    """Return the bytes of a size like ``600M`` (10^6), ``1.5GB`` or ``700MiB`` (2^20).

    Raises:
        UsageError: it is none, or nothing at all.
    """
    match = _MEMORY.fullmatch(text)
    size = 0
    if match is not None:
        number, unit, binary = match.groups()
        size = int(float(number) * (1024 if binary else 1000) ** _POWERS[unit])
    if size < 1:
        raise UsageError(
            f"--max-memory {text!r}: is no size; expected a number and a unit like 600M, 1.5G or "
            "700MiB. Leave it out for no limit"
        )
    return size


def celsius_of(text: str) -> float:
    """Return the degrees Celsius of a number, infinity of ``off``.

    Raises:
        UsageError: it is neither, or no temperature that a machine works at.
    """
    if text == "off":
        return math.inf
    try:
        celsius = float(text)
    except ValueError:
        celsius = math.nan
    low, high = _CELSIUS
    if not low <= celsius <= high:
        raise UsageError(
            f"--max-celsius {text!r}: is no limit; expected degrees from {low:g} to {high:g}, like "
            "75, or off"
        )
    return celsius


class Watch:
    """Looks after the budget of a run; called, it says whether the run is to stop.

    Args:
        budget: what the run may use.
        should_stop: who else may stop it.
        reporter: is told when it pauses.
        heat: by default the zones of this machine.
    """

    def __init__(
        self,
        budget: Budget,
        should_stop: Callable[[], bool],
        reporter: "Reporter",
        *,
        heat: Heat | None = None,
    ) -> None:
        self.budget = budget
        self.out_of_time = False
        self._should_stop = should_stop
        self._reporter = reporter
        self._heat = heat or Heat(celsius=budget.celsius, root=budget.root)
        self._looked = -math.inf
        self._entered: float | None = None
        self._lead = 0.0

    def __call__(self) -> bool:
        """Return whether to stop: somebody asked for it, or the time is used up."""
        if self._should_stop():
            return True
        if self._left() <= 0:
            self.out_of_time = True
        return self.out_of_time

    def enter(self, branch: str) -> None:
        """Begin a branch.

        Raises:
            Interrupted: there is no time left for a step of it, judged by the branch before.
        """
        if self._left() <= self._lead:
            self.out_of_time = True
            raise Interrupted(
                f"stopped before branch {branch}; the branches before it are kept. The same "
                "command goes on there"
            )
        self._entered = time.monotonic()

    def stepped(self) -> None:
        """Note that a step is done: so long it takes at most to get to one."""
        if self._entered is not None:
            self._lead = time.monotonic() - self._entered
            self._entered = None

    def between_steps(self, branch: str, save: Callable[[], object]) -> None:
        """Pause while the machine is too hot.

        Args:
            branch: which one is in training.
            save: writes a checkpoint.

        Raises:
            ResourceError: more memory is resident than the budget has; a checkpoint is written.
        """
        self.stepped()
        zone = self._heat.too_hot()
        if zone is not None:
            save()
            self._reporter.note(
                f"{zone.celsius:.0f} °C ({zone.kind}): training pauses until it is "
                f"{self._heat.cooled(zone):.0f} °C; --max-celsius sets the limit"
            )
            self._heat.wait(self)
        limit = self.budget.memory
        if limit is None or time.monotonic() - self._looked < _LOOK_AT_MEMORY:
            return
        self._looked = time.monotonic()
        if rss() > limit:
            give_back()
            if rss() > limit:
                save()
                raise ResourceError(
                    f"branch {branch}: {rss() / 1e6:.0f} MB are resident; expected at most "
                    f"{limit / 1e6:.0f} (--max-memory). All steps are kept: run again with a "
                    "higher --max-memory, a smaller network or fewer threads"
                )

    def told(self, stopped: Interrupted) -> Interrupted:
        """Return the sentence of a stop, with the budget where that was the reason."""
        if not self.out_of_time:
            return stopped
        return Interrupted(f"--time-budget {self.budget.time} is used up: {stopped}")

    def _left(self) -> float:
        until = self.budget.until
        return math.inf if until is None else until - time.monotonic()

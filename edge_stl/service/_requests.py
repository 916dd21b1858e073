"""Signals of the service: TERM and INT ask it to stop, HUP asks it to look now."""

import signal
from types import FrameType
from typing import Self


class Requests:
    """While the context is open, signals are counted instead of killing.

    Attributes:
        stops: how often SIGTERM or SIGINT came; a second one does not wait for the checkpoint.
        look: whether SIGHUP came; whoever looks sets it back.
    """

    def __init__(self) -> None:
        self.stops = 0
        self.look = False
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        """Take the signals over."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._stop)
        self._before[signal.SIGHUP] = signal.signal(signal.SIGHUP, self._hup)
        return self

    def __exit__(self, *_: object) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal itself returned

    def _stop(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.stops += 1

    def _hup(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.look = True

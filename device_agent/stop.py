"""Stopping on request: the first signal asks, the second one insists."""

import math
import signal
import time
from types import FrameType, TracebackType
from typing import Self

from edge_stl.errors import StopNow


_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_TOGETHER = 0.2  # seconds


class StopRequest:
    """While the context is open, SIGINT and SIGTERM set `requested` instead of killing.

    A second SIGINT raises StopNow, for who cannot wait for the checkpoint. One that comes
    right with the first counts as the same: a signal to a group of processes arrives here from the
    sender and from the parent.

    Args:
        at_once: until somebody asks for the first time, either signal raises StopNow:
            importing torch and listing a million files takes many seconds on a small board, and
            nothing was begun yet that could be lost.
        together: seconds within which a second SIGINT counts as the first; a launcher like
            torchrun hands on later what its process group was sent.

    Attributes:
        requested: whether a stop was asked for.
    """

    def __init__(self, *, at_once: bool = False, together: float = _TOGETHER) -> None:
        self.requested = False
        self._together = together
        self._at_once = at_once
        self._first = -math.inf
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        """Take the signals over."""
        for number in _SIGNALS:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal itself returned

    def __call__(self) -> bool:
        """Return whether a stop was asked for."""
        self._at_once = False
        return self.requested

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        now = time.monotonic()
        insists = self.requested and number == signal.SIGINT and now - self._first > self._together
        if not self.requested:
            self.requested, self._first = True, now
        if insists or self._at_once:
            raise StopNow(signal.Signals(number).name)

"""Stopping on request: the first signal asks, the second one insists."""

import signal
from types import FrameType, TracebackType
from typing import Self


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """While the context is open, SIGINT and SIGTERM set `requested` instead of killing.

    A second SIGINT raises KeyboardInterrupt, for who cannot wait for the checkpoint.

    Args:
        at_once: until somebody asks for the first time, either signal raises KeyboardInterrupt:
            importing torch and listing a million files takes many seconds on a small board, and
            nothing was begun yet that could be lost.

    Attributes:
        requested: whether a stop was asked for.
    """

    def __init__(self, *, at_once: bool = False) -> None:
        self.requested = False
        self._at_once = at_once
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
        insists = self.requested and number == signal.SIGINT
        self.requested = True
        if insists or self._at_once:
            raise KeyboardInterrupt(signal.Signals(number).name)

"""Stopping on request: the first signal asks, the second one insists."""

import signal
from types import FrameType, TracebackType
from typing import Self


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """While the context is open, SIGINT and SIGTERM set `requested` instead of killing.

    A second SIGINT raises KeyboardInterrupt, for who cannot wait for the checkpoint.
    """

    def __init__(self) -> None:
        self.requested = False
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
        return self.requested

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True

"""How far ``train`` is: bars for a person, lines of JSON for a program."""

import enum
import json
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from edge_stl.cli._output import ProgressReporter


class ProgressKind(enum.StrEnum):
    """What ``--progress`` may say."""

    bar = "bar"
    json = "json"


class Bars(ProgressReporter):
    """Progress bars."""

    def living(self, should_stop: Callable[[], bool]) -> Callable[[], bool]:
        """Return it as it is: a person sees the bars move."""
        return should_stop


class JsonLines:
    """One JSON object per line on stderr, at most one a second of each kind.

    ``{"event": "decoding", "done", "total"}``, ``{"event": "training", "branch", "done", "total",
    "epoch", "loss"}``, the loss null where there is none yet; both with ``rss``, the resident
    memory in bytes; ``{"event": "note", "text"}``; and ``{"event": "alive"}`` where the job asks
    whether to stop and has told nothing for ten seconds. An error is the last line, and plain text
    as ever.
    """

    EVERY = 1.0
    ALIVE = 10.0

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, descriptor: int = 2) -> None:
        self._clock, self._descriptor = clock, descriptor
        self._told: dict[str, float] = {}
        self._last = clock()

    def __enter__(self) -> Self:
        """Nothing to get ready."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to put away."""

    def decoding(self, done: int, total: int) -> None:
        """Tell how far reading the images is."""
        self._now_and_then("decoding", {"done": done, "total": total})

    def training(self, branch: str, done: int, total: int, epoch: int, loss: float) -> None:
        """Tell how far training a branch is."""
        self._now_and_then(
            "training",
            # JSON has no NaN.
            {"branch": branch, "done": done, "total": total, "epoch": epoch}
            | {"loss": loss if math.isfinite(loss) else None},
        )

    def note(self, text: str) -> None:
        """Tell a note."""
        self._tell("note", {"text": text})

    def living(self, should_stop: Callable[[], bool]) -> Callable[[], bool]:
        """Return ``should_stop``, which also tells that the job's own loop turns."""

        def ask() -> bool:
            if self._clock() - self._last >= self.ALIVE:
                self._tell("alive", {})
            return should_stop()

        return ask

    def _now_and_then(self, event: str, facts: dict[str, Any]) -> None:
        last = self._told.get(event)
        if (
            facts["done"] < facts["total"]
            and last is not None
            and self._clock() - last < self.EVERY
        ):
            return
        self._told[event] = self._clock()
        self._tell(event, facts | {"rss": _resident()})

    def _tell(self, event: str, facts: dict[str, Any]) -> None:
        self._last = self._clock()
        line = json.dumps({"event": event} | facts) + "\n"
        with suppress(OSError):  # whoever listened is gone: the work is not lost for that
            os.write(self._descriptor, line.encode())


def progress_reporter(kind: ProgressKind, *, quiet: bool) -> Bars | JsonLines:
    """Return who tells how far it is; what was asked for as JSON is told, quiet or not."""
    return JsonLines() if kind is ProgressKind.json else Bars(quiet=quiet)


def _resident() -> int:
    """Return the resident memory of this process in bytes, 0 where the system does not say."""
    with suppress(OSError, ValueError, IndexError):
        pages = Path("/proc/self/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    return 0

"""One training in a process of its own: what it says while it runs, and whether it still lives."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from edge_stl.errors import Interrupted, ResourceError
from edge_stl.fleet._task import Ended, Running, Task
from edge_stl.service._clock import Clock
from edge_stl.service._metrics import Numbers


SILENCE = 1800.0
"""Seconds without a line after which an agent hangs. Its job tells at least every ten seconds that
its loop turns, pauses for heat among it; silent are the start of Python and torch, listing a
million files, reading a large cache and the finish of a branch."""

GRACE = 60.0
"""Seconds from the request to stop to the kill; a checkpoint takes a few."""


class Process(Protocol):
    """What `Running` is, for tests to stand in."""

    def poll(self) -> Ended | None:
        """Return how it ended, None while it runs."""

    def stop(self) -> None:
        """Ask it to write a checkpoint and to end."""

    def kill(self) -> None:
        """End it at once."""


Starter = Callable[[Task, Callable[[str], object]], Process]


def start_process(task: Task, heard: Callable[[str], object]) -> Process:
    """Start the agent; it is asked to stop when this process dies."""
    return Running(task, heard=heard)


class AgentRun:
    """A training that runs.

    Args:
        task: the call of the agent, with ``--progress json``.
        numbers: what it says goes there.
        told: called with its notes.
        clock: the clocks.
        start: starts it.

    Attributes:
        stopping: why it was asked to stop; empty while it was not.
        hung: whether it was killed because it said nothing.
    """

    def __init__(
        self,
        task: Task,
        *,
        numbers: Numbers,
        told: Callable[[str], object],
        clock: Clock,
        start: Starter = start_process,
    ) -> None:
        self._numbers, self._told, self._clock = numbers, told, clock
        self._heard_at = clock.monotonic()
        self._stop_at = 0.0
        self.stopping = ""
        self.hung = False
        self.doing = "starting"
        self._process = start(task, self._hear)

    def poll(self) -> Ended | None:
        """Return how it ended, None while it runs; one that hangs is killed."""
        try:
            ended = self._process.poll()
        except (ValueError, KeyError, TypeError):  # a full disk swallowed what it said
            ended = Ended(ResourceError.exit_code, "its answer cannot be read; is the disk full?")
        if ended is not None:
            return ended
        now = self._clock.monotonic()
        if self.stopping and now - self._stop_at > GRACE:
            return self._killed(f"did not stop within {GRACE:g} seconds")
        if now - self._heard_at > SILENCE:
            self.hung = True
            return self._killed(f"said nothing for {SILENCE:g} seconds: it hangs")
        return None

    def stop(self, why: str) -> None:
        """Ask it to write a checkpoint and to end; asked once."""
        if not self.stopping:
            self.stopping, self._stop_at = why, self._clock.monotonic()
            self._process.stop()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def _killed(self, why: str) -> Ended:
        self._process.kill()
        code = Interrupted.exit_code if self.stopping and not self.hung else -9
        return Ended(code, f"{why}; it was killed and goes on from its last checkpoint")

    def _hear(self, line: str) -> None:
        self._heard_at = self._clock.monotonic()
        try:
            said = json.loads(line)
            event = said["event"]
            if event == "note":
                self._told(str(said["text"]))
            elif event == "decoding":
                self._numbers.rss = int(said["rss"])
                self.doing = f"reading images: {int(said['done'])} of {int(said['total'])}"
            elif event == "training":
                self._numbers.rss = int(said["rss"])
                self._train(str(said["branch"]), said)
        except (ValueError, KeyError, TypeError, RecursionError):
            pass  # a warning of some library, or the error that `Ended.said` will tell

    def _train(self, branch: str, said: dict[str, object]) -> None:
        done, total, epoch = (int(str(said[key])) for key in ("done", "total", "epoch"))
        loss = float(str(said["loss"]))
        self._numbers.steps[branch] = (done, total, epoch, loss)
        self.doing = (
            f"training {branch}: {done} of {total} steps, {epoch} epochs done, loss {loss:.3f}"
        )


class Checkpoints:
    """Sees when checkpoints change, by what the file system says of them and our own clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen: dict[str, tuple[tuple[int, int, int], float]] = {}

    def ages(self, work: Path, branches: list[str]) -> dict[str, float]:
        """Return seconds since the checkpoint of each branch was seen to change."""
        now = self._clock.monotonic()
        ages = {}
        for branch in branches:
            try:
                status = (work / branch / "checkpoint.safetensors").stat()
            except OSError:
                continue
            mark = (status.st_ino, status.st_mtime_ns, status.st_size)
            before = self._seen.get(branch)
            if before is None or before[0] != mark:
                self._seen[branch] = (mark, now)
            ages[branch] = now - self._seen[branch][1]
        return ages

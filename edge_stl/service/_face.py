"""What the service shows of itself: to systemd, to Prometheus, and its progress in the log."""

import math
from contextlib import suppress

from device_agent.doctor._thermal import thermal_zones
from edge_stl import __version__
from edge_stl.durable import write_passing
from edge_stl.service._agent_run import AgentRun, Checkpoints
from edge_stl.service._clock import Clock
from edge_stl.service._metrics import Numbers, render
from edge_stl.service._notify import Notifier
from edge_stl.service._place import Place
from edge_stl.service._settings import Settings
from edge_stl.service._told import Log


METRICS_EVERY = 15.0
"""Seconds between two metrics files: node_exporter is asked about as often."""

PROGRESS_EVERY = 60.0
"""Seconds between two lines of progress in the log."""

REASONS = ("hours", "images", "plan", "refused", "retry")


class Face:
    """Tells others how the service is; nothing that fails here stops it.

    Args:
        settings: of the service.
        numbers: what the metrics file says.
        notifier: systemd.
        clock: the clocks.
        log: the log.
    """

    def __init__(
        self, settings: Settings, numbers: Numbers, notifier: Notifier, clock: Clock, log: Log
    ) -> None:
        self._settings, self._numbers, self._notifier = settings, numbers, notifier
        self._clock, self._log = clock, log
        self._checkpoints = Checkpoints(clock)
        self._watchdog_at = self._metrics_at = self._progress_at = -math.inf
        self._status = ""
        self._state: object = None
        self._stopping = False
        self._file_fails = False

    def ready(self) -> None:
        """Say that the service works."""
        self._notifier.send("READY=1")

    def stopping(self) -> None:
        """Say, once, that the service is asked to end."""
        if not self._stopping:
            self._notifier.send("STOPPING=1", "STATUS=stopping: the agent writes its checkpoint")
        self._stopping = True

    def alive(self) -> None:
        """Say that the loop turns: called where it did, and by nothing else."""
        seconds = self._notifier.watchdog_seconds
        now = self._clock.monotonic()
        if seconds is not None and now - self._watchdog_at >= min(seconds / 4, 10.0):
            self._watchdog_at = now
            self._notifier.send("WATCHDOG=1")

    def show(self, run: AgentRun | None, place: Place, waits_for: str) -> None:
        """Tell what changed, at the end of a turn."""
        self.alive()
        now = self._clock.monotonic()
        status = run.doing if run is not None else self._idle(waits_for)
        if run is not None and now - self._progress_at >= PROGRESS_EVERY:
            self._progress_at = now
            self._log("progress", status)
            self._notifier.send(f"STATUS={status}")
        elif run is None and status != self._status:
            self._notifier.send(f"STATUS={status}")
        self._status = status
        state = (run is not None, waits_for, self._numbers.images, self._numbers.trainings)
        if state != self._state or now - self._metrics_at >= METRICS_EVERY:
            self._state, self._metrics_at = state, now
            self._write(place, waits_for)

    def gone(self, place: Place, waits_for: str) -> None:
        """Say goodbye."""
        self.stopping()
        self._write(place, waits_for)

    def _idle(self, waits_for: str) -> str:
        if waits_for == "images":
            return f"waiting: {self._numbers.new} of {self._settings.every} new images"
        return f"waiting: {waits_for}"

    def _write(self, place: Place, waits_for: str) -> None:
        numbers, path = self._numbers, self._settings.metrics_file
        if path is None:
            return
        numbers.facts = {"version": __version__, "plan": place.plan.digest, "box": place.box}
        numbers.paused = {reason: reason == waits_for for reason in REASONS}
        branches = [branch.name for branch in place.plan.branches]
        numbers.checkpoint_age = self._checkpoints.ages(place.work, branches)
        with suppress(OSError):
            numbers.celsius = {zone.kind: zone.celsius for zone in thermal_zones()}
        try:
            write_passing(path, render(numbers.metrics()).encode())
            self._file_fails = False
        except OSError as error:
            if not self._file_fails:
                self._log(
                    "metrics",
                    f"{path}: cannot be written ({error.strerror}); expected a folder this user "
                    "may write. The service goes on without it",
                    level="warning",
                )
            self._file_fails = True

"""The loop of ``edge-stl agent watch``: look, wait, train, pause, and never end by itself."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from device_agent.job import usable_cores
from edge_stl.errors import DataError, EdgeStlError, Interrupted, ResourceError, UsageError
from edge_stl.fleet._task import Ended, Task
from edge_stl.images import Identities, identities
from edge_stl.plan import Plan
from edge_stl.service._agent_run import AgentRun, Starter, start_process
from edge_stl.service._clock import Clock
from edge_stl.service._face import Face
from edge_stl.service._looks import Looks
from edge_stl.service._metrics import Numbers
from edge_stl.service._notify import Notifier
from edge_stl.service._place import Place, PlanFile
from edge_stl.service._requests import Requests
from edge_stl.service._settings import Settings
from edge_stl.service._told import Log, wrong_clock


TICK = 0.5
"""Seconds between two turns of the loop."""

LOOK_SHARE = 20
"""A look that takes long is followed by a pause this many times as long."""

FIRST_PAUSE, LONGEST_PAUSE = 60.0, 3600.0
"""Seconds before a training that failed is started again: 1, 2, 4, … and at most 60 minutes."""


@dataclass
class Summary:
    """What a watch did; ``agent watch --json``.

    Attributes:
        images: at the last look.
        new: of them, settled and not trained on.
        trainings: that wrote their files.
        failures: that did not.
        files: rows of ``train --json`` of the last training.
        waits_for: why nothing was trained, or empty.
    """

    images: int = 0
    new: int = 0
    trainings: int = 0
    failures: int = 0
    files: list[dict[str, Any]] = field(default_factory=list)
    waits_for: str = ""


class Watch:
    """The service.

    Args:
        settings: what it is asked.
        log: who is told what happens.
        notifier: how systemd is told.
        clock: the clocks.
        start: starts the agent.

    Raises:
        UsageError: the plan cannot be read, no box id, folders inside each other.
        DataError: the images' folder is none.
        ResourceError: another service has the work folder.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        log: Log,
        notifier: Notifier | None = None,
        clock: Clock | None = None,
        start: Starter = start_process,
    ) -> None:
        self._settings, self._log, self._start = settings, log, start
        self._clock = clock or Clock()
        self.requests = Requests()
        self.numbers = Numbers()
        self._face = Face(settings, self.numbers, notifier or Notifier(), self._clock, log)
        self._plan_file = PlanFile(settings.plan_file)
        plan = self._plan_file.changed()
        if not isinstance(plan, Plan):
            raise plan or UsageError(f"{settings.plan_file}: is empty; expected a plan")
        self._plan_error = False
        self._place = Place(settings, plan, box=settings.box)
        self._looks = Looks(settings.check_every)
        self._run: AgentRun | None = None
        self._next_look = self._next_plan = -math.inf
        self._not_before = -math.inf
        self._failed_in_a_row = 0
        self._refused: Identities | None = None
        self._blind = False
        self._waits_for = ""
        self._error: EdgeStlError | None = None
        self.summary = Summary()
        self.over = False

    def run(self) -> Summary:
        """Watch until a signal, or once.

        Returns:
            what was done.

        Raises:
            Interrupted: a signal asked to stop, or with ``once`` the allowed hours ended.
            EdgeStlError: with ``once``: why the training failed.
        """
        with self.requests:
            try:
                self._began()
                while not self.over:
                    self.turn()
                    if not self.over:
                        self._clock.sleep(TICK)
            finally:
                if self._run is not None:
                    self._run.kill()
                self._place.close()
                self._face.gone(self._place, self._waits_for)
        if self._error is not None:
            raise self._error
        return self.summary

    def _began(self) -> None:
        place = self._place
        self._log(
            "started",
            f"watching for box {place.box}: a training at {self._settings.every} new images",
            box=place.box,
            plan=place.plan.digest,
            every=self._settings.every,
            hours=None if self._settings.hours is None else self._settings.hours.text,
        )
        note = wrong_clock(self._clock)
        if note is not None:
            self._log("clock", note, level="warning")
        self.numbers.facts = {"box": place.box, "plan": place.plan.digest}
        # A wrong path is told at once, by the exit code; what is there is the first look.
        self._looks.settled(self._clock.monotonic(), self._images())
        self._next_look = self._clock.monotonic() + self._looks.settle
        self._face.ready()

    def turn(self) -> None:
        """Do what is due; it takes moments, but for a look at very many images."""
        now = self._clock.monotonic()
        if self.requests.stops:
            self._stop_on_signal()
        elif self._run is not None:
            self._watch_over(self._run, now)
        elif now >= self._next_look or self.requests.look:
            self.requests.look = False
            self._look()
        if self._run is not None:
            self._follow(self._run)
        self._face.show(self._run, self._place, self._waits_for)

    # -- looking --------------------------------------------------------------------------------

    def _look(self) -> None:
        began = self._clock.monotonic()
        self._take_plan()
        wait = self._settings.check_every
        try:
            images = self._images()
        except (EdgeStlError, OSError) as error:  # a card that is pulled out while it is listed
            if not self._blind:
                self._log("blind", str(error), level="error")
            self._blind, self._waits_for = True, "images"
            self._once_over(error if isinstance(error, EdgeStlError) else ResourceError(str(error)))
        else:
            self._blind = False
            ledger = self._place.ledger
            settled = self._looks.settled(self._clock.monotonic(), images)
            if settled is None:
                wait = self._looks.settle
                settled = images[:0]
            else:
                self._decide(settled)
            self.numbers.images, self.numbers.new = len(images), ledger.new(settled)
            self.summary.images, self.summary.new = self.numbers.images, self.numbers.new
        took = self._clock.monotonic() - began
        self._next_look = self._clock.monotonic() + max(wait, LOOK_SHARE * took)

    def _images(self) -> Identities:
        return identities(self._settings.images, told=self._face.alive)

    def _decide(self, settled: Identities) -> None:
        """Start a training where one is due and allowed."""
        ledger, settings = self._place.ledger, self._settings
        if self._refused is not None and np.array_equal(self._refused, settled):
            self._waits("refused", "the images or the plan, as they are refused as they are now")
            return
        wanted = None if self._refused is not None else ledger.pending
        new = ledger.new(settled)
        due = wanted is not None or (len(settled) > 0 if ledger.first else new >= settings.every)
        if self._plan_error:
            self._waits("plan", "a plan that can be read")
        elif not due:
            self._waits("images", f"new images: {new} of {settings.every}")
        elif settings.hours is not None and not settings.hours.allow(self._clock.local_time()):
            self._waits("hours", f"the allowed hours {settings.hours.text}")
        elif self._clock.monotonic() < self._not_before:
            self._waits("retry", "the pause after a failure")
        else:
            self._train(settled if wanted is None else None)

    def _waits(self, why: str, text: str) -> None:
        if why != self._waits_for:
            self._log("waiting", f"waiting for {text}", reason=why)
        self._waits_for = why
        if self._settings.once:
            self.summary.waits_for = why
            self.over = True

    def _take_plan(self) -> bool:
        """Take a changed plan file; say whether there is another plan now."""
        plan = self._plan_file.changed()
        if plan is None:
            return False
        if isinstance(plan, EdgeStlError):
            self._plan_error = True
            self._log("plan", str(plan), level="error")
            return False
        self._plan_error = False
        old = self._place
        if plan.digest == old.plan.digest:
            return False
        old.close()
        try:
            self._place = Place(self._settings, plan, box=old.box)
        except EdgeStlError as error:
            self._log("plan", str(error), level="error")
            self._plan_error = True
            self._place = Place(self._settings, old.plan, box=old.box)
            return False
        self._refused, self._failed_in_a_row, self._not_before = None, 0, -math.inf
        self.numbers.facts["plan"] = plan.digest
        self.numbers.steps = {}
        self._log("plan", f"another plan: {plan.digest[:12]}", plan=plan.digest)
        return True

    # -- training -------------------------------------------------------------------------------

    def _train(self, settled: Identities | None) -> None:
        """Start the agent; None goes on with what is pending."""
        place, settings = self._place, self._settings
        try:
            if settled is not None:
                place.ledger.want(settled)
            threads = settings.threads or usable_cores()
            task = Task(
                name=f"box {place.box}",
                arguments=(
                    "train", str(settings.plan_file), str(settings.images), "-o", str(settings.out),
                    "--box", place.box, "--work", str(place.work), "--threads", str(threads),
                    "--json", "--progress", "json", "--only-images", str(place.ledger.wanted_file),
                    *settings.options, *settings.limits,
                ),
                threads=threads,
            )  # fmt: skip
            self._run = AgentRun(
                task, numbers=self.numbers, told=self._note, clock=self._clock, start=self._start
            )
        except (EdgeStlError, OSError) as error:
            self._failed(Ended(getattr(error, "exit_code", 20), str(error)))
            return
        self._waits_for, self.numbers.training = "", True
        pending = place.ledger.pending
        count = 0 if pending is None else len(pending.images)
        what = "training" if settled is not None else "going on with the training"
        self._log("training", f"{what} on {count} images", images=count, resumed=settled is None)

    def _note(self, text: str) -> None:
        self._log("note", text)

    def _watch_over(self, run: AgentRun, now: float) -> None:
        hours = self._settings.hours
        if hours is not None and not hours.allow(self._clock.local_time()):
            run.stop("hours")
        if now >= self._next_plan:
            self._next_plan = now + self._settings.check_every
            if self._plan_file.other(self._place.plan.digest):
                run.stop("plan")

    def _follow(self, run: AgentRun) -> None:
        ended = run.poll()
        if ended is None:
            return
        self._run, self.numbers.training, self.numbers.rss = None, False, None
        self._next_look = -math.inf
        if ended.code == 0:
            self._succeeded(ended)
        elif run.stopping and ended.died:
            self._paused(run.stopping, ended)
        elif ended.code == Interrupted.exit_code:  # a budget of its own
            self._next_look = self._clock.monotonic() + self._settings.check_every
            self._log("paused", ended.said, reason="budget")
            self._once_over(Interrupted(ended.said))
        else:
            self._failed(ended)
        if self.requests.stops:
            self._end()

    def _succeeded(self, ended: Ended) -> None:
        try:
            self._place.ledger.done()
        except EdgeStlError as error:
            self._failed(Ended(error.exit_code, str(error)))
            return
        self._failed_in_a_row, self._refused, self._not_before = 0, None, -math.inf
        self.numbers.trainings += 1
        self.numbers.new = 0  # until the next look, which comes at once
        self.numbers.last_success = self._clock.local_time().timestamp()
        self.numbers.left_out = dict(ended.rows[0].get("left_out", {})) if ended.rows else {}
        self.summary.trainings += 1
        self.summary.files = ended.rows
        for row in ended.rows:
            self._log(
                "trained",
                f"{row['file']}: {row['images']} images, {row['seconds']:.0f} seconds",
                **{key: row[key] for key in ("branch", "file", "sha256", "images", "seconds")},
                validation=row["validation"],
            )
        self.over = self.over or self._settings.once

    def _paused(self, why: str, ended: Ended) -> None:
        self._log(
            "paused", ended.said or "stopped; it goes on from its last checkpoint", reason=why
        )
        if self._settings.once:
            self._error = Interrupted(ended.said or "stopped; the same command goes on")
            self.over = True

    def _failed(self, ended: Ended) -> None:
        self.numbers.failures += 1
        self.summary.failures += 1
        self._failed_in_a_row += 1
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self._failed_in_a_row - 1, 16))
        self._not_before = self._clock.monotonic() + pause
        error = _error(ended, f"box {self._place.box}")
        pending = self._place.ledger.pending
        if ended.code in (UsageError.exit_code, DataError.exit_code) and pending is not None:
            self._refused = pending.images
            then = "it is tried again when the images or the plan change"
        else:
            then = f"it is tried again in {pause / 60:.0f} min"
        self._log("failed", f"{error}; {then}", level="error", exit_code=ended.code, pause=pause)
        self._next_look = self._clock.monotonic() + min(pause, self._settings.check_every)
        self._once_over(error)

    def _once_over(self, error: EdgeStlError) -> None:
        if self._settings.once:
            self._error, self.over = error, True

    # -- the end --------------------------------------------------------------------------------

    def _stop_on_signal(self) -> None:
        if self._run is None:
            self._end()
        elif self.requests.stops > 1:
            self._run.kill()
            self._run = None
            self._end()
        else:
            self._face.stopping()
            self._run.stop("signal")

    def _end(self) -> None:
        message = "stopped by a signal; the same command goes on"
        self._log("stopped", message)
        self._error, self.over = Interrupted(message), True


def _error(ended: Ended, name: str) -> EdgeStlError:
    if ended.code < 0:
        said = ended.said or f"the agent was killed by signal {-ended.code}"
        return ResourceError(
            f"{name}: {said}; expected it to end by itself. Where memory is short, --threads 1 "
            "needs less"
        )
    return ended.error(name)

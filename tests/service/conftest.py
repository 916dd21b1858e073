"""A service whose clocks, child processes and log are the test's."""

import datetime as dt
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_stl.fleet._task import Ended, Task
from edge_stl.plan import new_plan, plan_toml
from edge_stl.service import Notifier, Settings, Watch
from edge_stl.service._clock import Clock
from edge_stl.service._watch import TICK


CLASSES = ["bus", "car"]


class FakeClock(Clock):
    """Time passes where somebody sleeps, and the calendar can jump."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.calendar = dt.datetime(2026, 11, 22, 12, 0, tzinfo=dt.UTC)

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        self.calendar += dt.timedelta(seconds=seconds)

    def now(self) -> dt.datetime:
        return self.calendar


class FakeAgent:
    """Stands in for a training: runs until the test says how it ends."""

    def __init__(self, task: Task, heard: Callable[[str], object]) -> None:
        self.task, self.heard = task, heard
        self.ending: Ended | None = None
        self.stops = self.kills = 0
        self.obeys = True

    def poll(self) -> Ended | None:
        return self.ending

    def stop(self) -> None:
        self.stops += 1
        if self.obeys:
            self.ending = Ended(30, "stopped in branch d1 after 3 of 9 steps")

    def kill(self) -> None:
        self.kills += 1
        self.ending = Ended(-9)

    def says(self, **facts: Any) -> None:
        self.heard(json.dumps(facts))

    def succeeds(self) -> None:
        row = {
            "branch": "d1", "box": "cam07", "file": "out/d1.cam07.onnx", "sha256": "ab",
            "images": 4, "seconds": 1.5, "left_out": {"truncated": 2},
            "validation": {"accuracy": 0.5, "log_loss": 0.1},
        }  # fmt: skip
        self.ending = Ended(0, rows=[row])


class FakeSystemd(Notifier):
    """Remembers what it was sent, and when."""

    def __init__(self, clock: FakeClock, *, watchdog_seconds: float | None = 120.0) -> None:
        super().__init__({})
        self._clock = clock
        self.watchdog_seconds = watchdog_seconds
        self.sent: list[tuple[float, str]] = []

    def send(self, *states: str) -> None:
        self.sent += [(self._clock.seconds, state) for state in states]

    def times(self, state: str) -> list[float]:
        return [at for at, what in self.sent if what.startswith(state)]


class Bench:
    """A watch on a bench: photos, plan, and hands on everything."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = FakeClock()
        self.agents: list[FakeAgent] = []
        self.log: list[dict[str, Any]] = []
        self.systemd = FakeSystemd(self.clock)
        self.settings = Settings(
            plan_file=folder / "plan.toml",
            images=folder / "photos",
            out=folder / "outbox",
            box="cam07",
            work=folder / "work",
            every=3,
        )
        self.watch: Any = None
        self.write_plan()

    def write_plan(self, **changes: Any) -> None:
        facts = {"classes": CLASSES, "resolution": 8, "levels": 1, "network": "mlp-s", "epochs": 1}
        (self.folder / "plan.toml").write_text(plan_toml(new_plan(**(facts | changes))))

    def photo(self, name: str, data: bytes = b"photo") -> Path:
        path = self.folder / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def open(self, **changes: Any) -> "Bench":
        """Make the watch and take its first look; nothing is started by that."""
        self.settings = replace(self.settings, **changes)
        self.watch = Watch(
            self.settings,
            log=self._told,
            notifier=self.systemd,
            clock=self.clock,
            start=self._start,
        )
        self.watch._began()
        return self

    def close(self) -> None:
        self.watch._place.close()

    def turns(self, seconds: float) -> None:
        """Let the loop turn for some time."""
        for _ in range(round(seconds / TICK)):
            if self.watch.over:
                return
            self.watch.turn()
            self.clock.sleep(TICK)

    def until_started(self, count: int, *, within: float = 600) -> FakeAgent:
        """Turn until so many trainings were started."""
        for _ in range(round(within / TICK)):
            if len(self.agents) >= count:
                return self.agents[-1]
            self.turns(TICK)
        raise AssertionError(f"{len(self.agents)} trainings after {within} s: {self.events()}")

    def events(self) -> list[str]:
        return [line["event"] for line in self.log]

    def told(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.log if line["event"] == event]

    def _told(self, event: str, message: str, *, level: str = "info", **facts: object) -> None:
        self.log.append({"event": event, "message": message, "level": level} | facts)

    def _start(self, task: Task, heard: Callable[[str], object]) -> FakeAgent:
        self.agents.append(FakeAgent(task, heard))
        return self.agents[-1]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A bench with four photos."""
    made = Bench(tmp_path)
    for name in ("bus/0.png", "bus/1.png", "car/0.png", "car/1.png"):
        made.photo(name)
    return made

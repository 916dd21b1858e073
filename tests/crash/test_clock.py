"""A wrong clock changes nothing: no file, no refusal, no negative duration."""

import datetime as dt
import itertools
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from device_agent import _steps
from device_agent._budget import Budget, Watch
from device_agent.job import Job, Silent, run_job
from edge_stl.errors import Interrupted
from edge_stl.plan import new_plan, plan_from_document


pytestmark = pytest.mark.slow
CLASSES = ["bus", "car"]
DAY = 86400.0
NOW = 1.8e9
CLOCKS: dict[str, Callable[[int], float]] = {
    "1970": lambda n: n / 100,
    "before 1970": lambda n: -DAY + n,
    "the last second of 32 bits": lambda n: 2**31 - 1 + n / 100,
    "after 2038": lambda n: 2**31 + DAY + n,
    "after 2106": lambda n: 2**32 + DAY + n,
    "stands still": lambda _: NOW,
    "a day back in the middle": lambda n: NOW + n - (DAY if n > 20 else 0),
    "back at every reading": lambda n: NOW - DAY * n,
    "a year on at every reading": lambda n: NOW + 365 * DAY * n,
    "summer time begins": lambda n: dt.datetime(2027, 3, 28, tzinfo=dt.UTC).timestamp() + 60 * n,
}


@pytest.fixture(scope="module")
def job(pictures: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Job:
    document = new_plan(
        classes=CLASSES, resolution=8, levels=1, network="mlp-s", epochs=2
    ).to_document()
    document.setdefault("training", {})["batch_size"] = 4
    folder = tmp_path_factory.mktemp("clock")
    images = pictures(folder / "photos", CLASSES, count=8, side=8)
    plan = plan_from_document(document, where="test")
    return Job(plan, images, folder / "out", folder / "work", "cam07", branch="d1")


@pytest.fixture(scope="module")
def expected(job: Job) -> bytes:
    run_job(job)
    return (job.out / "d1.cam07.onnx").read_bytes()


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A place where the hour between two and three is missing once a year."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


class Counting(Silent):
    """A reporter that counts the steps and what it is told."""

    def __init__(self, stop_at: int = 10**9) -> None:
        self.steps, self.stop_at, self.notes = 0, stop_at, list[str]()

    def training(self, branch: str, done: int, total: int, epoch: int, loss: float) -> None:  # noqa: ARG002
        self.steps += 1

    def note(self, text: str) -> None:
        self.notes.append(text)

    def stop(self) -> bool:
        return self.steps >= self.stop_at


def set_clock(monkeypatch: pytest.MonkeyPatch, clock: Callable[[int], float]) -> None:
    """Let the clock on the wall go as the n-th reading says."""
    readings = itertools.count()
    monkeypatch.setattr(time, "time", lambda: clock(next(readings)))
    monkeypatch.setattr(time, "time_ns", lambda: int(1e9 * clock(next(readings))))


@pytest.mark.parametrize("name", CLOCKS)
@pytest.mark.usefixtures("berlin")
def test_a_run_under_a_wrong_clock_that_is_stopped_and_goes_on_gives_the_same_bytes(
    name: str, job: Job, expected: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    own = replace(job, out=tmp_path / "out", work=tmp_path / "work")
    set_clock(monkeypatch, CLOCKS[name])
    told = Counting(3)
    with pytest.raises(Interrupted, match="stopped in branch d1 after 3 of"):
        run_job(own, reporter=told, should_stop=told.stop)
    set_clock(monkeypatch, CLOCKS["1970"])  # a box without a battery, after its power was gone

    again = Counting()
    (row,) = run_job(own, reporter=again)

    assert (own.out / "d1.cam07.onnx").read_bytes() == expected
    assert row.resumed
    assert row.seconds >= 0
    assert not again.notes
    assert again.steps == 8 - 3


@pytest.mark.parametrize("name", CLOCKS)
def test_the_clock_decides_neither_when_nor_how_often_a_checkpoint_is_written(
    name: str, job: Job, monkeypatch: pytest.MonkeyPatch
):
    written: list[int] = []
    set_clock(monkeypatch, CLOCKS[name])
    clock = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock) * 8))
    monkeypatch.setattr(_steps, "CHECKPOINT_SECONDS", 20.0)

    class Trainer:
        branch, epoch, steps_done, steps_total = job.plan.branch("d1"), 0, 0, 9

        @property
        def finished(self) -> bool:
            return self.steps_done >= self.steps_total

        def step(self) -> float:
            self.steps_done += 1
            return 1.0

    trainer = Trainer()
    _steps.take_steps(
        trainer,  # type: ignore[arg-type]
        lambda: written.append(trainer.steps_done),
        Silent(),
        Watch(Budget(celsius=math.inf), lambda: False, Silent()),
    )

    assert written == [1, 2, 4, 7]  # a step takes 8 seconds; 2, 4, 8, 16 and 20 have to pass


def test_images_of_any_age_give_the_same_bytes(job: Job, expected: bytes, tmp_path: Path):
    for index, path in enumerate(sorted(job.images.rglob("*.png"))):
        os.utime(path, (0, (0, 2**31 - 1, 2**31 + 5, 2**33)[index % 4]))

    run_job(replace(job, out=tmp_path / "out", work=tmp_path / "work"))

    assert (tmp_path / "out" / "d1.cam07.onnx").read_bytes() == expected

"""Going on exactly where a run stopped, and saying so where the bytes cannot be the same."""

import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from device_agent import _one_branch, _save_clock, stop as stop_module
from device_agent._save_clock import SaveClock
from device_agent.job import Job, Silent, run_job
from device_agent.stop import StopRequest
from edge_stl.branch import Trainer
from edge_stl.errors import Interrupted
from edge_stl.plan import new_plan


CLASSES = ["bus", "car", "van"]


class Told(Silent):
    """A reporter that remembers, and asks to stop after so many questions."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.notes: list[str] = []

    def training(self, branch: str, done: int, total: int, epoch: int, loss: float) -> None:
        assert (branch, epoch <= total, loss > 0) == ("d1", True, True)
        self.steps.append(done)

    def note(self, text: str) -> None:
        self.notes.append(text)


class StopAt:
    """Says stop at the n-th question."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.fixture(scope="module")
def photos(pictures: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("photos"), CLASSES)


@pytest.fixture
def job(photos: Path, tmp_path: Path) -> Job:
    plan = new_plan(classes=CLASSES, resolution=16, levels=1, network="mlp-s", epochs=2)
    return Job(plan, photos, tmp_path / "out", tmp_path / "work", "cam07", branch="d1")


def bytes_of(job: Job) -> bytes:
    (path,) = job.out.iterdir()
    return path.read_bytes()


# -- the validation images ------------------------------------------------------------------------


@pytest.fixture
def two_at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Answer validation images in groups of two; remember how many were answered before each."""
    answered: list[int] = []
    real = Trainer.answer_some

    def answer_some(trainer: Trainer) -> None:
        answered.append(trainer.answered[0])
        real(trainer)

    monkeypatch.setattr(Trainer, "_at_once", property(lambda _: 2))
    monkeypatch.setattr(Trainer, "answer_some", answer_some)
    return answered


def test_a_run_that_stops_between_validation_images_answers_none_of_them_twice(
    job: Job, two_at_once: list[int], tmp_path: Path
):
    whole = replace(job, out=tmp_path / "whole", work=tmp_path / "other")
    count = StopAt(10**9)
    run_job(whole, should_stop=count)
    assert two_at_once == [0, 2, 4]
    asked = 10**9 - count.left
    two_at_once.clear()

    # the last question of all is asked before the last group
    message = "stopped in branch d1 after 4 of 6 validation images; all of it is kept"
    with pytest.raises(Interrupted, match=message):
        run_job(job, should_stop=StopAt(asked - 1))
    told = Told()
    run_job(job, reporter=told)

    assert two_at_once == [0, 2, 4]
    assert (told.steps, told.notes) == ([], [])
    assert bytes_of(job) == bytes_of(whole)


def test_a_run_whose_images_are_all_answered_only_writes_its_file_again(
    job: Job, two_at_once: list[int], monkeypatch: pytest.MonkeyPatch
):
    def no_disk(*_: object, **__: object) -> None:
        raise KeyboardInterrupt("power")

    with monkeypatch.context() as patch:
        patch.setattr(_one_branch, "write_durably", no_disk)
        with pytest.raises(KeyboardInterrupt, match="power"):
            run_job(job)
    two_at_once.clear()
    (row,) = run_job(job)
    assert row.resumed
    assert two_at_once == []
    assert bytes_of(job)


# -- what makes other bytes -----------------------------------------------------------------------


def stopped(job: Job) -> None:
    told = Told()
    with pytest.raises(Interrupted, match="stopped in branch d1"):
        run_job(job, reporter=told, should_stop=lambda: len(told.steps) == 1)


def test_other_threads_are_told_in_one_line(job: Job):
    stopped(job)
    told = Told()
    run_job(replace(job, threads=2), reporter=told)
    assert told.notes == [
        "d1: resumed with threads 2 (before: 1); the file will differ in its last digits from an "
        "uninterrupted run"
    ]


@pytest.mark.parametrize("name", ["torch", "numpy", "machine", "instructions"])
def test_another_version_or_machine_is_told_in_one_line(
    name: str, job: Job, monkeypatch: pytest.MonkeyPatch
):
    real = _one_branch.surroundings
    stopped(job)
    monkeypatch.setattr(
        _one_branch, "surroundings", lambda *, threads: real(threads=threads) | {name: "other"}
    )
    told = Told()
    (row,) = run_job(job, reporter=told)
    assert row.resumed
    (note,) = told.notes
    assert note.startswith(f"d1: resumed with {name} other (before: ")


def test_the_same_surroundings_are_no_word_worth(job: Job):
    stopped(job)
    told = Told()
    (row,) = run_job(job, reporter=told)
    assert (row.resumed, told.notes) == (True, [])


def test_a_finished_run_is_silent_about_other_threads(job: Job):
    run_job(job)
    told = Told()
    run_job(replace(job, threads=2), reporter=told)
    assert told.notes == []


def test_every_branch_trains_with_the_same_arithmetic_whatever_came_before_it(
    job: Job, monkeypatch: pytest.MonkeyPatch
):
    """The first session of onnxruntime switches off what the job switched on."""
    real = _one_branch.finish_branch
    flushed: list[bool] = []

    class Looks(Silent):
        def training(self, branch: str, done: int, total: int, epoch: int, loss: float) -> None:
            assert (branch in {"a1", "d1"}, done <= total, epoch >= 0, loss > 0) == (True,) * 4
            flushed.append(float(torch.tensor([1e-40]) * torch.tensor([1.0])) == 0)

    def finish(*arguments: Any, **facts: Any) -> Any:
        finished = real(*arguments, **facts)
        torch.set_flush_denormal(False)
        return finished

    monkeypatch.setattr(_one_branch, "finish_branch", finish)
    rows = run_job(replace(job, branch="all"), reporter=Looks())
    assert len(rows) == 2
    assert flushed
    assert all(flushed)


# -- when a checkpoint is due ---------------------------------------------------------------------


def test_the_first_checkpoint_comes_after_seconds_and_later_ones_at_a_steady_distance(
    monkeypatch: pytest.MonkeyPatch,
):
    now = [0.0]
    monkeypatch.setattr(_save_clock.time, "monotonic", lambda: now[0])
    clock, saved = SaveClock(20.0), []
    for tenths in range(1000):
        now[0] = tenths / 10
        if clock.due():
            saved.append(now[0])
            clock.saved()
    gaps = [b - a for a, b in zip([0.0, *saved], saved, strict=False)]
    assert gaps[:5] == pytest.approx([2.1, 4.1, 8.1, 16.1, 20.1])
    assert max(gaps) < 20.2


def test_a_distance_below_zero_is_always_due():
    clock = SaveClock(-1)
    assert clock.due()
    clock.saved()
    assert clock.due()


# -- signals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_anything_was_begun_ends_at_once(number: signal.Signals):
    with (  # noqa: PT012
        pytest.raises(KeyboardInterrupt, match=number.name),
        StopRequest(at_once=True) as stop,
    ):
        signal.raise_signal(number)
        stop()


def test_a_signal_after_the_first_question_asks_and_a_second_ctrl_c_insists(
    monkeypatch: pytest.MonkeyPatch,
):
    now = [0.0]
    monkeypatch.setattr(stop_module.time, "monotonic", lambda: now[0])
    with StopRequest(at_once=True) as stop:
        assert not stop()
        signal.raise_signal(signal.SIGTERM)
        assert stop()
        signal.raise_signal(signal.SIGTERM)
        assert stop()
        signal.raise_signal(signal.SIGINT)  # from the group, at once: the same request
        now[0] = 1
        with pytest.raises(KeyboardInterrupt, match="SIGINT"):
            signal.raise_signal(signal.SIGINT)

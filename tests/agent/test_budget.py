"""What a run may use: time, memory, heat and disk, and how it ends where that is used up."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from device_agent import _budget, _preflight, _rehearsal
from device_agent._budget import Budget, Watch, bytes_of, celsius_of, seconds_of
from device_agent._heat import Heat
from device_agent._preflight import checkpoint_bytes
from device_agent.job import Job, Silent, run_job
from edge_stl.errors import Interrupted, ResourceError, UsageError
from edge_stl.plan import new_plan, plan_from_document


CLASSES = ["bus", "car", "van"]


class Told(Silent):
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, int]] = []
        self.notes: list[str] = []

    def training(self, branch: str, done: int, total: int, epoch: int, loss: float) -> None:
        assert (total, epoch >= 0, math.isfinite(loss)) == (4, True, True)
        self.steps.append((branch, done))

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def photos(pictures: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("photos"), CLASSES)


@pytest.fixture
def job(photos: Path, tmp_path: Path) -> Job:
    document = new_plan(
        classes=CLASSES, resolution=16, levels=1, network="mlp-s", epochs=2
    ).to_document()
    document.setdefault("training", {})["batch_size"] = 32  # two steps an epoch
    return Job(
        plan=plan_from_document(document, where="test"),
        images=photos,
        out=tmp_path / "out",
        work=tmp_path / "work",
        box="cam07",
        branch="all",
    )


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def spent(**budget: Any) -> Budget:
    return Budget(until=time.monotonic() - 1, time="45s", **budget)


# -- what may be written on the command line ----------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("45s", 45), ("90m", 5400), ("2h", 7200), ("1h30m", 5400), ("1h2m3s", 3723), ("0.5m", 30)],
)
def test_a_duration_is_hours_minutes_and_seconds(text: str, seconds: float):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "0s", "90", "30m1h", "-5s", "1d", "1 h", "٣s", "infs", "h"])
def test_what_is_no_duration_is_refused(text: str):
    with pytest.raises(UsageError, match=r"--time-budget .*: is no time; expected .* 90m or 1h30m"):
        seconds_of(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("600M", 600 * 10**6),
        ("600MB", 600 * 10**6),
        ("1.5G", 1_500_000_000),
        ("700MiB", 700 * 2**20),
        ("1GiB", 2**30),
        ("5K", 5000),
    ],
)
def test_a_size_is_decimal_unless_its_unit_is_binary(text: str, size: int):
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "600", "0M", "-1G", "1.5", "G", "1 G", "1e3M", "infG"])
def test_what_is_no_size_is_refused(text: str):
    with pytest.raises(UsageError, match=r"--max-memory .*: is no size; .* 600M, 1.5G or 700MiB"):
        bytes_of(text)


@pytest.mark.parametrize("text", ["", "hot", "nan", "29", "121", "-5", "inf"])
def test_what_is_no_temperature_is_refused(text: str):
    with pytest.raises(UsageError, match=r"--max-celsius .*: is no limit; .* from 30 to 120"):
        celsius_of(text)
    assert (celsius_of("75"), celsius_of("off")) == (75, math.inf)


@given(st.text(max_size=12))
@settings(max_examples=40)
def test_no_text_is_more_than_refused(text: str):
    for parse in (seconds_of, bytes_of, celsius_of):
        try:
            value = parse(text)
        except UsageError as error:
            assert "\n" not in str(error)  # noqa: PT017  (any text may be either)
        else:
            assert value > 0


# -- time ---------------------------------------------------------------------------------------


def test_a_budget_that_is_used_up_holds_while_images_are_read(job: Job):
    with pytest.raises(Interrupted, match=r"--time-budget 45s is used up: .*image cache stopped"):
        run_job(replace(job, budget=spent()))
    assert files_of(job.out) == {}


def test_a_run_cut_into_budgets_ends_with_the_bytes_of_one(job: Job, monkeypatch: Any):
    whole = replace(job, out=job.out.parent / "w-out", work=job.work.parent / "w-work")
    run_job(whole)
    now = {"at": 0.0}
    monkeypatch.setattr(_budget, "time", SimpleNamespace(monotonic=lambda: now["at"]))

    class Clock(Told):
        def training(self, branch: str, done: int, total: int, epoch: int, loss: float) -> None:
            super().training(branch, done, total, epoch, loss)
            now["at"] += 10

    taken: list[tuple[str, int]] = []
    for _ in range(20):
        told = Clock()
        budget = Budget(until=now["at"] + 25, time="25s")
        try:
            run_job(replace(job, budget=budget), reporter=told)
        except Interrupted as stopped:
            assert str(stopped).startswith("--time-budget 25s is used up: stopped ")  # noqa: PT017
        else:
            break
        finally:
            taken += told.steps
    else:
        pytest.fail("it made no progress")
    assert taken == [(b, n) for b in ("a1", "d1") for n in range(1, 5)]
    assert files_of(job.out) == files_of(whole.out)


def test_a_branch_is_not_started_when_there_is_no_time_for_a_step(job: Job, monkeypatch: Any):
    now = {"at": 0.0}
    monkeypatch.setattr(_budget, "time", SimpleNamespace(monotonic=lambda: now["at"]))

    class Clock(Told):
        def training(self, branch: str, done: int, total: int, epoch: int, loss: float) -> None:
            super().training(branch, done, total, epoch, loss)
            now["at"] += 10

    told = Clock()
    with pytest.raises(Interrupted, match="--time-budget 45s is used up: stopped before branch d1"):
        run_job(replace(job, budget=Budget(until=45, time="45s")), reporter=told)
    assert {branch for branch, _ in told.steps} == {"a1"}
    assert list(files_of(job.out)) == ["a1.cam07.onnx"]
    assert not (job.work / "d1").exists()


def test_who_asks_to_stop_is_not_told_of_a_budget(job: Job):
    ample = Budget(until=time.monotonic() + 1e6, time="300h")
    with pytest.raises(Interrupted, match=r"^(?!.*time-budget).*image cache stopped"):
        run_job(replace(job, budget=ample), should_stop=lambda: True)


# -- heat ---------------------------------------------------------------------------------------


class Machine:
    """A thermal zone in a folder, and a clock that only naps move."""

    def __init__(self, root: Path, celsius: float, *, critical: float | None = 100) -> None:
        self.now, self.naps = 0.0, 0
        self.root = root
        self._zone = root / "sys" / "class" / "thermal" / "thermal_zone0"
        self._zone.mkdir(parents=True)
        (self._zone / "type").write_text("cpu\n")
        if critical is not None:
            (self._zone / "trip_point_0_type").write_text("critical\n")
            (self._zone / "trip_point_0_temp").write_text(f"{critical * 1000:.0f}\n")
        self.is_at(celsius)
        self.course: dict[float, float] = {}

    def is_at(self, celsius: float) -> None:
        (self._zone / "temp").write_text(f"{celsius * 1000:.0f}\n")

    def nap(self, seconds: float) -> None:
        assert seconds <= 0.5
        self.naps += 1
        self.now += seconds
        for moment in [m for m in self.course if m <= self.now]:
            self.is_at(self.course.pop(moment))

    def heat(self, celsius: float | None = None) -> Heat:
        return Heat(celsius=celsius, root=self.root, clock=lambda: self.now, nap=self.nap)


@pytest.mark.parametrize(
    ("celsius", "limit", "critical", "hot"),
    [
        (94.9, None, 100, False),
        (95.0, None, 100, True),
        (120.0, None, None, False),
        (74.9, 75, 100, False),
        (75.0, 75, None, True),
        (99.0, math.inf, 100, False),
    ],
)
def test_a_zone_is_too_hot_at_its_limit(
    tmp_path: Path, celsius: float, limit: float | None, critical: float | None, hot: bool
):
    assert (Machine(tmp_path, celsius, critical=critical).heat(limit).too_hot() is not None) == hot


def test_it_waits_until_it_is_five_degrees_below_and_not_only_below(tmp_path: Path):
    machine = Machine(tmp_path, 80)
    machine.course = {3: 74, 6: 71, 9: 70}
    machine.heat(75).wait(lambda: False)
    assert 9 <= machine.now <= 11


def test_a_stop_ends_the_wait_at_once(tmp_path: Path):
    machine = Machine(tmp_path, 90)
    machine.heat(75).wait(lambda: machine.naps >= 3)
    assert machine.naps == 3


def test_the_zones_are_read_every_five_seconds_at_most(tmp_path: Path):
    machine = Machine(tmp_path, 50)
    heat = machine.heat(75)
    assert heat.too_hot() is None
    machine.is_at(90)
    machine.now = 4.9
    assert heat.too_hot() is None
    machine.now = 5.1
    assert heat.too_hot() is not None


def test_a_hot_machine_pauses_with_a_checkpoint_says_so_once_and_ends_in_the_same_bytes(
    job: Job, tmp_path: Path, monkeypatch: Any
):
    whole = replace(job, out=tmp_path / "w-out", work=tmp_path / "w-work", branch="a1")
    run_job(whole)
    machine = Machine(tmp_path / "root", 81)
    saved: list[bool] = []

    def nap(seconds: float) -> None:
        saved.append((job.work / "a1" / "checkpoint.safetensors").is_file())
        machine.nap(seconds)

    machine.course = {2: 60}
    heat = Heat(celsius=80, root=machine.root, clock=lambda: machine.now, nap=nap)
    monkeypatch.setattr(_budget, "Heat", lambda **_: heat)
    told = Told()
    run_job(replace(job, branch="a1"), reporter=told)

    assert saved
    assert all(saved)
    assert told.notes == [
        "81 °C (cpu): training pauses until it is 75 °C; --max-celsius sets the limit"
    ]
    assert files_of(job.out) == files_of(whole.out)


def test_the_time_runs_on_while_it_is_too_hot(tmp_path: Path):
    machine, told = Machine(tmp_path, 90), Told()
    watch = Watch(spent(celsius=80), lambda: False, told, heat=machine.heat(80))
    watch.between_steps("a1", lambda: None)
    assert machine.naps == 0
    assert watch()
    assert watch.out_of_time


# -- memory while it trains ---------------------------------------------------------------------


def test_more_memory_than_allowed_ends_a_run_with_a_checkpoint(monkeypatch: Any):
    monkeypatch.setattr(_budget, "rss", lambda: 700e6)
    saved: list[int] = []
    watch = Watch(Budget(memory=600_000_000), lambda: False, Told())
    with pytest.raises(
        ResourceError, match=r"branch a1: 700 MB are resident; expected .* 600 .*kept"
    ):
        watch.between_steps("a1", lambda: saved.append(1))
    assert saved == [1]
    monkeypatch.setattr(_budget, "rss", lambda: 599e6)
    Watch(Budget(memory=600_000_000), lambda: False, Told()).between_steps("a1", saved.clear)
    assert saved == [1]


def test_where_peaks_are_not_told_a_limit_is_refused(job: Job, monkeypatch: Any):
    monkeypatch.setattr(_rehearsal, "forget_peak", lambda: False)
    with pytest.raises(ResourceError, match="--max-memory: this system does not tell"):
        run_job(replace(job, branch="a1", budget=Budget(memory=10**10)))


# -- disk ---------------------------------------------------------------------------------------


def disk(monkeypatch: Any, *, free: float = 1e12, files: int | None = 10**6) -> None:
    monkeypatch.setattr(_preflight, "_room", lambda _: (free, files))


def needed(job: Job) -> float:
    """Return the bytes below which a job with one branch is refused before anything else."""
    branch = job.plan.branch("d1")
    checkpoint = checkpoint_bytes(job.plan, branch)
    file = (checkpoint - 64_000) / 3 + 64_000
    return 2.2 * (checkpoint + file) + 60 * 8 * 8 * 3


def test_a_job_that_would_not_fit_on_the_disk_is_refused_before_any_work(
    job: Job, monkeypatch: Any
):
    one = replace(job, branch="d1")
    disk(monkeypatch, free=needed(one) - 1000)
    line = r"work: \d\.\d MB are free; expected \d\.\d MB for checkpoints and branch files. Free"
    with pytest.raises(ResourceError, match=line):
        run_job(one)
    assert not job.work.exists()
    disk(monkeypatch, free=needed(one) + 1000)
    assert run_job(one)


def test_all_branches_of_a_job_count_once_they_are_known(job: Job, monkeypatch: Any):
    disk(monkeypatch, free=needed(replace(job, branch="d1")) + 1000)
    with pytest.raises(ResourceError, match="for checkpoints and branch files"):
        run_job(job)
    assert not (job.work / "a1").exists()


def test_what_a_stopped_run_left_is_not_asked_for_again(job: Job, monkeypatch: Any):
    one = replace(job, branch="d1")
    run_job(one)
    held = sum(p.stat().st_size for p in (job.work / "d1").iterdir())
    disk(monkeypatch, free=needed(one) - held - 60 * 8 * 8 * 3 + 1000)
    assert run_job(one)


def test_a_disk_without_room_for_more_files_is_refused(job: Job, monkeypatch: Any):
    disk(monkeypatch, files=3)
    with pytest.raises(ResourceError, match=r"work: 3 more files fit on its disk; expected 32"):
        run_job(job)
    disk(monkeypatch, files=None)  # as btrfs says it
    assert run_job(replace(job, branch="a1"))


def test_the_estimate_is_not_below_what_is_written(job: Job):
    run_job(job)
    for name in ("a1", "d1"):
        written = (job.work / name / "checkpoint.safetensors").stat().st_size
        estimate = checkpoint_bytes(job.plan, job.plan.branch(name))
        assert written <= estimate <= written + 200_000

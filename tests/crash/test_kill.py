"""Real processes, really killed, at random times: the end is that of a run that nobody killed."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from device_agent.job import Job, run_job
from edge_stl.cli import _app, main
from edge_stl.durable import read_record
from edge_stl.plan import new_plan, plan_from_document, plan_toml


pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
CLASSES = ["bus", "car", "van"]
SOAK = pytest.mark.skipif(not os.environ.get("EDGE_STL_SOAK"), reason="make soak")
EVERY = 0.1
"""Seconds between two checkpoints: 20 are the agent's own, for runs of hours."""
KILLS = int(os.environ.get("EDGE_STL_SOAK_KILLS", "200"))
WINDOWS = 20
WINDOW = float(os.environ.get("EDGE_STL_SOAK_WINDOW", "60"))  # seconds
_PATIENCE = 120.0  # seconds that a start, a step or an end may take on a busy machine


@dataclass
class Killed:
    """A job of an agent that is killed again and again.

    Attributes:
        job: what it does.
        seed: of its training.
        every: seconds between two checkpoints; the agent's own where none are given.
        kills: how often it was killed while it trained.
        lost: seconds of training that each kill took.
        stops: seconds from each SIGTERM to the end.
        codes: how each of those ended.
    """

    job: Job
    seed: int
    every: float | None = EVERY
    kills: int = 0
    lost: list[float] = field(default_factory=list)
    stops: list[float] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)

    @property
    def steps(self) -> Path:
        return self.job.work.parent / "steps"

    def start(self, *agent: object) -> "subprocess.Popen[bytes]":
        self.steps.unlink(missing_ok=True)
        plan = self.job.work.parent / "plan.toml"
        plan.write_text(plan_toml(self.job.plan))
        agent = agent or (Path(__file__).with_name("telling_agent.py"), self.steps)
        words = ["train", plan, self.job.images, "-o", self.job.out, "--work", self.job.work,
                 "--box", self.job.box, "--threads", "1", "--seed", str(self.seed), "--quiet",
                 "--branch", "all"]  # fmt: skip
        own = {} if self.every is None else {"EDGE_STL_TEST_SECONDS": str(self.every)}
        with (self.job.work.parent / "errors").open("ab") as errors:
            return subprocess.Popen(
                [sys.executable, *(str(word) for word in (*agent, *words))],
                env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **own},
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )

    def told(self) -> list[tuple[str, int, float]]:
        """Return the steps of the running or last process, as it told them."""
        with suppress(FileNotFoundError):
            whole = [line.split() for line in self.steps.read_text().split("\n")[:-1]]
            return [(branch, int(steps), float(when)) for branch, steps, when in whole]
        return []

    def ready(self, process: "subprocess.Popen[bytes]") -> bool:
        """Wait for the first step; False where the process ended without one."""
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            if self.told():
                return True
            if process.poll() is not None:
                return False
            time.sleep(0.01)
        raise AssertionError("the agent took no step")

    def kill(self, delay: float) -> bool:
        """Start, wait for the first step and ``delay`` seconds, and kill; False where it ended."""
        process = self.start()
        if self.ready(process):
            time.sleep(delay)
        return self._killed(process)

    def window(self, seconds: float) -> bool:
        """Start, and kill after so many seconds; False where it ended before."""
        process = self.start()
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        return self._killed(process)

    def _killed(self, process: "subprocess.Popen[bytes]") -> bool:
        process.kill()
        code = process.wait(_PATIENCE)
        assert code in {0, -signal.SIGKILL}, (self.job.work.parent / "errors").read_text()
        if code == 0:
            return False
        self.kills += 1
        self.lost.append(self._lost())
        return True

    def _lost(self) -> float:
        """Return the seconds of training of which nothing is left."""
        from safetensors.numpy import load

        told = self.told()
        if not told:
            return 0.0
        branch, _, last = told[-1]
        body = read_record(self.job.work / branch / "checkpoint.safetensors").body
        kept = 0 if body is None else int(load(body)["steps_done"])
        since = [when for name, steps, when in told if name == branch and steps >= max(kept, 1)]
        return last - since[0] if since else 0.0

    def stop(self, delay: float) -> None:
        """Start, ask to stop ``delay`` seconds after it may be asked, and note how long it took."""
        process = self.start("-m", "edge_stl")
        while not _takes_requests(process.pid) and process.poll() is None:
            time.sleep(0.01)
        time.sleep(delay)
        asked = time.monotonic()
        process.terminate()
        self.codes.append(process.wait(_PATIENCE))
        self.stops.append(time.monotonic() - asked)

    def finish(self) -> dict[str, bytes]:
        process = self.start()
        assert process.wait(_PATIENCE) == 0, (self.job.work.parent / "errors").read_text()
        return files_of(self.job.out)


def _takes_requests(process: int) -> bool:
    """Return whether an agent has said what SIGTERM is to do; before it is a program like any.

    The process that was started may be its light parent, which hands signals on.
    """
    with suppress(OSError):
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        return any(_catches(number) for number in (process, *children))
    return False


def _catches(process: int | str) -> bool:
    with suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1)
    return False


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def photos(pictures: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("photos"), CLASSES, count=40, side=16)


@pytest.fixture
def jobs(photos: Path, tmp_path: Path) -> Callable[..., Killed]:
    """Return a job of about three seconds of training, in folders of its own."""

    def job(seed: int, epochs: int = 60) -> Killed:
        document = new_plan(
            classes=CLASSES, resolution=16, levels=1, network="mlp-s", epochs=epochs
        ).to_document()
        document.setdefault("training", {})["batch_size"] = 16
        plan = plan_from_document(document, where="test")
        here = tmp_path / str(seed)
        here.mkdir()
        return Killed(Job(plan, photos, here / "out", here / "work", "cam07"), seed)

    return job


def undisturbed(killed: Killed) -> dict[str, bytes]:
    """Run the same job here, once, from nothing."""
    here = killed.job.work.parent
    job = Job(
        killed.job.plan, killed.job.images, here / "o2", here / "w2", "cam07",
        branch="all", settings={"seed": killed.seed}, threads=1,
    )  # fmt: skip
    run_job(job)
    return files_of(here / "o2")


def test_five_kills_and_three_requests_to_stop_end_as_if_there_had_been_none(
    jobs: Callable[..., Killed],
):
    killed = jobs(7, epochs=90)
    draws = np.random.default_rng(int.from_bytes(os.urandom(4)))  # printed where it fails
    delays = draws.uniform(0, 0.6, 5).tolist()
    moments = draws.uniform(0, 2, 3).tolist()
    print("delays", delays, "moments", moments)  # noqa: T201

    for moment in moments:
        killed.stop(moment)
    for delay in delays:
        killed.kill(delay)

    assert killed.finish() == undisturbed(killed)
    assert killed.kills >= 4  # a fast machine may be done before the last
    assert max(killed.lost) < EVERY + 30
    assert set(killed.codes) <= {30, 0}
    assert max(killed.stops) < 50  # 5 are promised, on a machine that does nothing else


def test_sigterm_before_anything_was_begun_is_one_line_and_exit_code_30(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def safe(*_: object) -> None:
        """Keep this process alive where the command lets the signal through."""

    before = signal.signal(signal.SIGTERM, safe)
    monkeypatch.setattr(_app, "app", lambda **_: signal.raise_signal(signal.SIGTERM))
    try:
        assert main([]) == 30
        assert signal.getsignal(signal.SIGTERM) is safe
    finally:
        signal.signal(signal.SIGTERM, before)
    assert capsys.readouterr().err == "edge-stl: stopped; the same command starts again\n"


@SOAK
def test_two_hundred_kills_of_twenty_runs_leave_no_trace(jobs: Callable[..., Killed]):
    draws = np.random.default_rng(20261122)
    every: list[Killed] = []
    identical = 0
    while sum(k.kills for k in every) < KILLS or len(every) < KILLS // 10:
        killed = jobs(len(every))
        every.append(killed)
        killed.stop(draws.uniform(0, 4))
        while killed.kills < KILLS // 20 and killed.kill(draws.uniform(0, 0.4)):
            pass
        identical += killed.finish() == undisturbed(killed)
        print(  # noqa: T201
            f"{sum(k.kills for k in every)} kills, {len(every)} runs, {identical} identical; lost "
            f"{max(s for k in every for s in [0.0, *k.lost]):.2f} s at most; ended after SIGTERM "
            f"within {max(s for k in every for s in k.stops):.2f} s with "
            f"{Counter(code for k in every for code in k.codes)}",
            flush=True,
        )

    assert identical == len(every)
    assert max(s for k in every for s in k.lost) <= 30
    assert max(s for k in every for s in k.stops) <= 5
    assert {code for k in every for code in k.codes} <= {0, 30}


@SOAK
def test_twenty_windows_of_a_minute_finish_a_job_of_ten(jobs: Callable[..., Killed]):
    trial = jobs(0, epochs=100)
    began = time.monotonic()
    undisturbed(trial)
    killed = jobs(1, epochs=round(100 * 10 * WINDOW / (time.monotonic() - began)))
    killed.every = None
    windows = 0

    while windows < WINDOWS:
        windows += 1
        going = killed.window(WINDOW)
        done = killed.told()[-1] if killed.told() else "nothing"
        print(f"window {windows}: {done}, lost {killed.lost[-1:]}", flush=True)  # noqa: T201
        if not going:
            break

    assert not going
    assert files_of(killed.job.out) == undisturbed(killed)
    assert max(killed.lost) <= 30

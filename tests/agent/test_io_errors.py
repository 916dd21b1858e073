"""Full disks and disks that fail, at every call: nothing is lost, and the run goes on after."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from device_agent import _cache_build, _steps, checkpoint
from device_agent.job import Job, run_job
from edge_stl.cli import main
from edge_stl.durable import _files, read_record
from edge_stl.errors import ResourceError
from edge_stl.plan import new_plan, plan_from_document, plan_toml


pytestmark = pytest.mark.slow
CLASSES = ["bus", "car"]
CALLS = ("write", "fsync", "replace", "mkdir")


class Failing:
    """Stands in for `os`; the n-th call that changes the disk fails, and all after it."""

    def __init__(self, at: int, code: int) -> None:
        self.count, self.at, self.code = 0, at, code

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in CALLS:
            return real

        def call(*arguments: Any) -> Any:
            self.count += 1
            if self.count > self.at:
                raise OSError(self.code, os.strerror(self.code))
            return real(*arguments)

        return call


@pytest.fixture
def start(
    pictures: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Job]:
    """Return the same small job in a folder of its own."""
    document = new_plan(
        classes=CLASSES, resolution=8, levels=1, network="mlp-s", epochs=1
    ).to_document()
    document.setdefault("training", {})["batch_size"] = 3
    plan = plan_from_document(document, where="test")
    images = pictures(tmp_path / "photos", CLASSES, count=3, side=8)
    monkeypatch.setattr(_steps, "CHECKPOINT_SECONDS", -1)
    monkeypatch.setattr(_cache_build, "_SAVE_EVERY", 1e9)

    def job(name: str) -> Job:
        here = tmp_path / name
        here.mkdir()
        return Job(plan, images, here / "out", here / "work", "cam07", branch="d1")

    return job


def test_an_error_at_any_call_costs_no_acknowledged_checkpoint_and_no_bit(
    start: Callable[[str], Job], monkeypatch: pytest.MonkeyPatch
):
    kept: list[bytes] = []
    tried: list[bytes] = []
    real = checkpoint.write_record

    def write(path: Path, body: bytes) -> None:
        tried.append(body)
        real(path, body)
        kept.append(body)

    monkeypatch.setattr(checkpoint, "write_record", write)
    whole = start("whole")
    counting = Failing(10**9, 0)
    monkeypatch.setattr(_files, "os", counting)
    run_job(whole)
    expected = (whole.out / "d1.cam07.onnx").read_bytes()
    assert counting.count > 30
    for at in range(counting.count):
        code = (errno.ENOSPC, errno.EIO)[at % 2]
        job = start(f"at{at}")
        kept.clear()
        tried.clear()
        monkeypatch.setattr(_files, "os", Failing(at, code))
        with pytest.raises(ResourceError, match=os.strerror(code)) as raised:
            run_job(job)
        assert "\n" not in str(raised.value)
        names = {p.name for p in job.out.iterdir()} if job.out.is_dir() else set()
        assert names <= {"d1.cam07.onnx"}  # whole, or not there
        monkeypatch.setattr(_files, "os", os)
        left = read_record(job.work / "d1" / "checkpoint.safetensors").body
        assert left in {*kept[-1:], *tried[-1:]} or not kept, at
        run_job(job)
        assert (job.out / "d1.cam07.onnx").read_bytes() == expected, at


def test_a_full_disk_is_one_line_and_exit_code_20(
    start: Callable[[str], Job],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    job = start("cli")
    plan = job.work.parent / "plan.toml"
    plan.write_text(plan_toml(job.plan))
    monkeypatch.setattr(_files, "os", Failing(20, errno.ENOSPC))

    code = main(
        ["train", str(plan), str(job.images), "-o", str(job.out), "--box", "cam07", "--work",
         str(job.work), "--threads", "1"]
    )  # fmt: skip

    assert code == 20
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "No space left on device" in line

"""What a killed run left lying about is gone once the same command has run to its end."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from device_agent.job import Job, Silent, run_job
from edge_stl.durable import previous_of
from edge_stl.plan import new_plan


NOBODY = 2**22 + 1  # no process of Linux has a larger number than 2**22


class Told(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def finished(pictures: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("finished")
    plan = new_plan(classes=["bus", "car"], resolution=8, levels=1, network="mlp-s", epochs=2)
    images = pictures(folder / "photos", ["bus", "car"], count=8, side=8)
    job = Job(plan, images, folder / "out", folder / "work", "cam07", branch="d1")
    run_job(job)
    run_job(replace(job, settings={"seed": 1}))  # so that there is a generation before
    run_job(job)
    return job


def names(job: Job) -> set[str]:
    return {str(p.relative_to(job.work)) for p in job.work.rglob("*")}


def test_half_a_checkpoint_of_a_finished_branch_is_removed_and_that_of_a_living_one_is_not(
    finished: Job,
):
    before = names(finished)
    half = finished.work / "d1" / f".checkpoint.safetensors.{NOBODY}.tmp"
    ours = finished.work / "d1" / ".checkpoint.safetensors.1.tmp"  # the first process always runs
    half.write_bytes(b"half")
    ours.write_bytes(b"half")

    run_job(finished)

    assert names(finished) - before == {"d1/.checkpoint.safetensors.1.tmp"}
    ours.unlink()


@pytest.mark.parametrize("record", ["sides.part", "json.part"])
def test_half_a_record_of_a_build_is_removed_though_it_is_never_written_again(
    record: str, finished: Job
):
    before = names(finished)
    (published,) = (finished.work / "images").glob("images-*.json")
    half = published.with_name(f".{published.stem}.{record}.{NOBODY}.tmp")
    half.write_bytes(b"half")

    run_job(finished)

    assert names(finished) == before


def test_a_finished_branch_without_its_newest_checkpoint_says_so_once(finished: Job):
    expected = (finished.out / "d1.cam07.onnx").read_bytes()
    newest = finished.work / "d1" / "checkpoint.safetensors"
    newest.replace(previous_of(newest))  # killed between the two renames of a write
    first, second = Told(), Told()

    run_job(finished, reporter=first)
    run_job(finished, reporter=second)

    assert len(first.notes) == 1
    assert "went back to the one written before it" in first.notes[0]
    assert second.notes == []
    assert newest.read_bytes() == previous_of(newest).read_bytes()
    assert (finished.out / "d1.cam07.onnx").read_bytes() == expected


def test_the_record_of_a_build_that_is_over_is_removed(finished: Job):
    before = names(finished)
    (record,) = (finished.work / "images").glob("*.json")
    for name in (f"{record.name}.part", f"{record.name}.part.previous"):
        (record.parent / name).write_bytes(record.read_bytes())

    run_job(finished)

    assert names(finished) == before

"""The agent's job: images in, branch files out, stopped and resumed without losing a bit."""

import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_agent.job import Job, JobFile, Silent, run_job, usable_cores
from device_agent.work import WorkFolder
from edge_stl.errors import DataError, Interrupted, ResourceError, UsageError
from edge_stl.plan import Plan, new_plan, plan_from_document
from exporter.branch import vector_difference
from exporter.read import branch_from_bytes


pytestmark = pytest.mark.slow
CLASSES = ["bus", "car", "van"]


def plan_of(**changes: Any) -> Plan:
    facts: dict[str, Any] = {
        "classes": CLASSES,
        "resolution": 16,
        "levels": 1,
        "network": "mlp-s",
        "epochs": 2,
    }
    document = new_plan(**(facts | changes)).to_document()
    document.setdefault("training", {})["batch_size"] = 32  # two steps an epoch
    return plan_from_document(document, where="test")


class Told(Silent):
    """A reporter that remembers, and asks to stop at a training step."""

    def __init__(self, *, stop_at: int = 10**9) -> None:
        self.steps: list[tuple[str, int, int]] = []
        self.notes: list[str] = []
        self._stop_at = stop_at

    def training(self, branch: str, done: int, total: int, epoch: int, loss: float) -> None:
        assert epoch >= 0
        assert loss > 0
        self.steps.append((branch, done, total))

    def note(self, text: str) -> None:
        self.notes.append(text)

    def stop(self) -> bool:
        return len(self.steps) >= self._stop_at


@pytest.fixture(scope="module")
def photos(pictures: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("photos"), CLASSES)


@pytest.fixture
def job(photos: Path, tmp_path: Path) -> Job:
    return Job(
        plan=plan_of(),
        images=photos,
        out=tmp_path / "out",
        work=tmp_path / "work",
        box="cam07",
        branch="all",
    )


@pytest.fixture(scope="module")
def uninterrupted(
    photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[JobFile], dict[str, bytes]]:
    """Rows and files of the whole job, in folders of its own."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    rows = run_job(
        Job(
            plan=plan_of(),
            images=photos,
            out=folder / "out",
            work=folder / "work",
            box="cam07",
            branch="all",
        )
    )
    return rows, files_of(folder / "out")


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


Whole = tuple[list[JobFile], dict[str, bytes]]


def test_out_receives_the_branch_files_and_nothing_else(uninterrupted: Whole):
    rows, files = uninterrupted
    assert list(files) == ["a1.cam07.onnx", "d1.cam07.onnx"]
    for row, name in zip(rows, files, strict=True):
        assert Path(row.file).name == name == f"{row.branch}.{row.box}.onnx"
        assert row.sha256 == hashlib.sha256(files[name]).hexdigest()
        assert (row.images, row.classes_seen, row.native_resolution) == (54, 3, 16)
        assert (row.epochs, row.resumed, row.left_out) == (2, False, {})
        assert 0 <= (row.validation["accuracy"] or 0) <= 1
        assert row.validation["log_loss"] is not None
        assert row.parameters > 1000
        assert row.seconds > 0
        assert 20 < row.peak_rss_mb < 100_000


def test_the_files_say_what_was_done_and_prove_themselves(uninterrupted: Whole):
    rows, files = uninterrupted
    for row, data in zip(rows, files.values(), strict=True):
        file = branch_from_bytes(data, name="f")
        manifest = file.manifest
        assert manifest.id == f"{row.branch}.cam07"
        assert manifest.images.train == (18, 18, 18)
        assert manifest.images.validation == (2, 2, 2)
        assert manifest.training.epochs == 2
        assert manifest.training.threads == 1
        assert set(manifest.versions) == {"edge_stl", "python", "torch", "numpy", "pywavelets"}
        assert vector_difference(manifest, file.plan, data) < 1e-5
        assert file.plan == plan_of()


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(job: Job, uninterrupted: Whole):
    run_job(job)
    assert files_of(job.out) == uninterrupted[1]
    other = replace(job, settings={"seed": 1}, branch="d1")
    (row,) = run_job(other)
    assert files_of(job.out)["d1.cam07.onnx"] != uninterrupted[1]["d1.cam07.onnx"]
    assert row.resumed is False


@pytest.mark.parametrize("stop_at", [1, 4, 5, 7])
def test_stopped_anywhere_and_resumed_gives_the_bytes_of_an_uninterrupted_run(
    stop_at: int, job: Job, uninterrupted: Whole
):
    """Four steps a branch: in the first, between both, and in the second."""
    told = Told(stop_at=stop_at)
    with pytest.raises(Interrupted, match=r"stopped in branch (a1|d1) after \d of 4 steps; all"):
        run_job(job, reporter=told, should_stop=told.stop)
    went_on = Told()
    rows = run_job(job, reporter=went_on)
    assert files_of(job.out) == uninterrupted[1]
    assert told.steps + went_on.steps == [(b, i, 4) for b in ("a1", "d1") for i in range(1, 5)]
    assert [row.resumed for row in rows] == [True, stop_at > 4]


def test_stopped_while_reading_images_and_resumed_gives_the_same_bytes(
    job: Job, uninterrupted: Whole
):
    asked = iter(range(10**6))
    with pytest.raises(Interrupted, match=r"\w"):
        run_job(job, should_stop=lambda: next(asked) > 70)
    assert files_of(job.out) == {}
    run_job(job)
    assert files_of(job.out) == uninterrupted[1]


def test_a_finished_job_trains_no_step_again(job: Job, uninterrupted: Whole):
    first = run_job(job)
    for path in job.out.iterdir():
        path.unlink()
    told = Told()
    again = run_job(job, reporter=told)
    assert told.steps == []
    assert files_of(job.out) == uninterrupted[1]
    assert [row.resumed for row in again] == [True, True]
    assert [row.seconds for row in again] == [row.seconds for row in first]


def test_fresh_forgets_what_was_there(job: Job, uninterrupted: Whole):
    run_job(job)
    told = Told()
    rows = run_job(replace(job, fresh=True), reporter=told)
    assert len(told.steps) == 8
    assert [row.resumed for row in rows] == [False, False]
    assert files_of(job.out) == uninterrupted[1]


def test_other_settings_or_images_start_anew(
    job: Job, pictures: Callable[..., Path], tmp_path: Path
):
    own = replace(job, branch="d1", images=pictures(tmp_path / "own", CLASSES, count=10))
    run_job(own)
    assert run_job(own)[0].resumed
    assert not run_job(replace(own, settings={"epochs": 1}))[0].resumed
    run_job(own)
    pictures(tmp_path / "own", CLASSES, count=10, seed=1)  # the same names, other pixels
    assert not run_job(own)[0].resumed
    pictures(tmp_path / "own", CLASSES, count=12)
    row = run_job(own)[0]
    assert not row.resumed
    assert row.images == 33


def test_a_damaged_checkpoint_is_no_checkpoint(job: Job, uninterrupted: Whole):
    told = Told(stop_at=2)
    with pytest.raises(Interrupted, match="stopped in branch a1"):
        run_job(job, reporter=told, should_stop=told.stop)
    path = job.work / "a1" / "checkpoint.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    assert not run_job(job)[0].resumed
    assert files_of(job.out) == uninterrupted[1]


# -- one agent, one folder ----------------------------------------------------------------------


def test_a_second_agent_in_the_same_work_folder_is_refused(job: Job):
    with (
        WorkFolder(job.work, "cam07"),
        pytest.raises(ResourceError, match="another agent is working here"),
    ):
        run_job(job)
    assert run_job(replace(job, branch="a1"))


def test_work_is_private_and_out_is_not_hidden(job: Job):
    run_job(replace(job, branch="a1"))
    assert stat.S_IMODE(job.work.stat().st_mode) == 0o700
    for path in job.work.rglob("*"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path
    (file,) = job.out.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) & 0o444 == 0o444


def test_a_folder_that_cannot_be_made_is_said(job: Job, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match=r"file/out: cannot be made \(Not a directory\)"):
        run_job(replace(job, out=tmp_path / "file" / "out"))
    with pytest.raises(ResourceError, match=r"file/work: cannot be made .*Choose another --work"):
        run_job(replace(job, work=tmp_path / "file" / "work"))


# -- which branches a box trains ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "branch", "expected"),
    [
        (16, "auto", ["d1.16"]),
        (16, "all", ["a1.16", "d1.16"]),
        (16, "a1", ["a1.16"]),
        (23, "auto", ["d1.16"]),
        (8, "auto", ["a1.8"]),
        (8, "all", ["a1.8"]),
        (15, "a1", ["a1.8"]),
    ],
)
def test_the_native_resolution_chooses_the_branches(
    side: int, branch: str, expected: list[str], job: Job, pictures: Callable[..., Path]
):
    images = pictures(job.out.parent / "own", CLASSES, count=6, side=side)
    rows = run_job(replace(job, images=images, branch=branch, settings={"epochs": 1}))
    assert [f"{row.branch}.{row.native_resolution}" for row in rows] == expected


def test_a_branch_that_the_images_do_not_carry_is_refused(job: Job, pictures: Callable[..., Path]):
    images = pictures(job.out.parent / "own", CLASSES, count=6, side=8)
    with pytest.raises(DataError, match=r"reach 8 px, which carries no such branch \(d1 needs 16"):
        run_job(replace(job, images=images, branch="d1"))
    fine = replace(job, plan=plan_of(branches="all"), images=images, branch="auto")
    with pytest.raises(DataError, match="all needs 16"):
        run_job(fine)


def test_an_unknown_branch_is_refused_with_the_nearest(job: Job):
    with pytest.raises(UsageError, match=r"--branch d2: not a branch of the plan.*d1"):
        run_job(replace(job, branch="d2"))


def test_a_label_that_the_plan_does_not_know_is_refused(job: Job, pictures: Callable[..., Path]):
    images = pictures(job.out.parent / "own", [*CLASSES, "tram"], count=2)
    with pytest.raises(DataError, match=r"tram: not a class of the plan"):
        run_job(replace(job, images=images))
    (images / "labels.csv").write_text("file_name,label\nbus/000.png,lorry\n")
    with pytest.raises(DataError, match="label 'lorry' is not a class of the plan"):
        run_job(replace(job, images=images))


def test_missing_classes_bad_files_and_small_images_are_counted(
    job: Job, pictures: Callable[..., Path]
):
    images = pictures(job.out.parent / "own", CLASSES[:2], count=20)
    pictures(job.out.parent / "tiny", ["bus"], count=1, side=8, names="tiny{}.png")
    (images / "bus" / "tiny.png").write_bytes(
        (job.out.parent / "tiny" / "bus" / "tiny0.png").read_bytes()
    )
    (images / "car" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    told = Told()
    (row,) = run_job(replace(job, images=images, branch="a1"), reporter=told)
    assert row.classes_seen == 2
    assert row.left_out["too_small"] == 1
    assert sum(row.left_out.values()) == 2
    assert any("40 images used; left out" in note for note in told.notes)
    manifest = branch_from_bytes(Path(row.file).read_bytes(), name="f").manifest
    assert manifest.images.train == (18, 18, 0)


def test_published_counts_keep_the_plans_floor(job: Job):
    document = plan_of().to_document() | {"privacy": {"min_count": 50}}
    (row,) = run_job(replace(job, plan=plan_from_document(document, where="t"), branch="a1"))
    manifest = branch_from_bytes(Path(row.file).read_bytes(), name="f").manifest
    assert manifest.images.train == (50, 50, 50)
    assert manifest.images.validation == (50, 50, 50)
    assert manifest.validation.accuracy is None, "a share of six images tells how many were right"


def test_a_job_leaves_the_arithmetic_of_the_process_as_it_was(job: Job):
    run_job(replace(job, branch="a1"))
    assert np.float32(1e-40) * np.float32(1) > 0


def test_a_machine_has_a_core():
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


def test_a_branch_too_large_for_any_desk_is_refused_before_training(job: Job, tmp_path: Path):
    document = job.plan.to_document() | {"limits": {"max_branch_bytes": 10_000}}
    small = plan_from_document(document, where="test")

    with pytest.raises(UsageError, match=r"branch a1: mlp-s has .*limits\.max_branch_bytes"):
        run_job(replace(job, plan=small, out=tmp_path / "o", work=tmp_path / "w"))

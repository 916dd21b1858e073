"""A damaged work folder: found, told, and done anew; never trained on as it is."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_agent import _cache_build, _steps, checkpoint
from device_agent.cache import build_cache
from device_agent.job import Job, Silent, run_job
from device_agent.work import WorkFolder, resolve_work
from edge_stl.durable import Record, previous_of, read_record
from edge_stl.errors import Interrupted, ResourceError, UsageError
from edge_stl.images import _reader_process, scan
from edge_stl.plan import new_plan, plan_from_document


CLASSES = ["bus", "car"]
Ways = dict[str, Callable[[Path], None]]


class Stops(Silent):
    """A reporter that remembers its notes and asks to stop at a training step."""

    def __init__(self, at: int = 10**9) -> None:
        self.steps, self.at, self.notes = 0, at, list[str]()

    def training(self, branch: str, done: int, total: int, epoch: int, loss: float) -> None:  # noqa: ARG002
        self.steps += 1

    def note(self, text: str) -> None:
        self.notes.append(text)

    def stop(self) -> bool:
        return self.steps >= self.at


@pytest.fixture(scope="module")
def plan() -> Any:
    document = new_plan(
        classes=CLASSES, resolution=8, levels=1, network="mlp-s", epochs=1
    ).to_document()
    document.setdefault("training", {})["batch_size"] = 6
    return plan_from_document(document, where="test")


@pytest.fixture(scope="module")
def stopped(
    plan: Any, pictures: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Job:
    """A job that was stopped in its third step, with a checkpoint after every step."""
    folder = tmp_path_factory.mktemp("stopped")
    images = pictures(folder / "photos", CLASSES, count=12, side=8)
    own = Job(plan, images, folder / "out", folder / "work", "cam07", branch="d1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_steps, "CHECKPOINT_SECONDS", -1)
        told = Stops(3)
        with pytest.raises(Interrupted, match="stopped in branch d1"):
            run_job(own, reporter=told, should_stop=told.stop)
    return own


@pytest.fixture(scope="module")
def expected(stopped: Job) -> bytes:
    """The branch file of a run that was never stopped."""
    folder = stopped.work.parent
    run_job(Job(stopped.plan, stopped.images, folder / "o2", folder / "w2", "cam07", branch="d1"))
    return (folder / "o2" / "d1.cam07.onnx").read_bytes()


def files_of(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def another(job: Job, tmp_path: Path, name: str = "") -> Job:
    """Return the same job on a copy of its work folder."""
    folder = tmp_path / (name or "again")
    shutil.copytree(job.work, folder / "work")
    return Job(job.plan, job.images, folder / "out", folder / "work", "cam07", branch="d1")


def cache_of(job: Job, notes: list[str]) -> Any:
    plan = job.plan
    return build_cache(
        scan(job.images, plan.classes),
        resolution=8,
        levels=1,
        channels=plan.input.channels,
        fit=plan.input.fit,
        max_pixels=plan.limits.max_image_pixels,
        max_bytes=plan.limits.max_image_bytes,
        folder=job.work / "images",
        told=notes.append,
    )


def test_the_work_folder_holds_the_files_that_are_damaged_here(stopped: Job, damages: Ways):
    names = files_of(stopped.work)
    record, rows, pixels = (name for name in names if name.startswith("images/"))
    checkpoints = ["d1/checkpoint.safetensors", "d1/checkpoint.safetensors.previous"]
    assert names == ["box", *checkpoints, record, rows, pixels, "lock"]
    assert [Path(name).suffix for name in (record, rows, pixels)] == [".json", ".rows", ".u8"]
    assert len(damages) >= 40


@pytest.mark.parametrize("way", ["gone", "cut at 4/9", "flip at 8/16", "pipe", "swapped"])
@pytest.mark.parametrize("name", range(7))
def test_a_run_on_a_damaged_folder_ends_with_the_bytes_of_an_undamaged_one(
    way: str, name: int, stopped: Job, expected: bytes, damages: Ways, tmp_path: Path
):
    job = another(stopped, tmp_path)
    damages[way](job.work / files_of(job.work)[name])
    told = Stops()

    run_job(job, reporter=told)

    assert (job.out / "d1.cam07.onnx").read_bytes() == expected
    assert [p.name for p in job.out.iterdir()] == ["d1.cam07.onnx"]


def test_a_damaged_checkpoint_goes_back_to_the_one_before_it_and_says_so(
    stopped: Job, damages: Ways, tmp_path: Path
):
    path = Path("d1/checkpoint.safetensors")
    before = read_record(previous_of(stopped.work / path)).body
    assert before not in (None, read_record(stopped.work / path).body)
    for way, damage in damages.items():
        job = another(stopped, tmp_path, way.replace("/", "-"))
        damage(job.work / path)
        notes: list[str] = []
        if way == "folder":
            with pytest.raises(ResourceError, match=r"checkpoint\.safetensors: is a folder; exp"):
                _load(job.work / "d1", notes)
            continue
        assert _load(job.work / "d1", notes) == before, way  # also where both are swapped
        assert notes or way == "swapped", way
        assert all("went back to the one written before it" in note for note in notes)


def test_two_damaged_checkpoints_are_none_and_that_is_said(
    stopped: Job, damages: Ways, tmp_path: Path
):
    for way, damage in damages.items():
        if way in {"swapped", "folder", "gone"}:
            continue
        job = another(stopped, tmp_path, way.replace("/", "-"))
        path = job.work / "d1" / "checkpoint.safetensors"
        damage(path)
        damage(previous_of(path))
        notes: list[str] = []
        assert _load(job.work / "d1", notes) is None, way
        assert "damaged or of an earlier version" in notes[0], way


def _load(folder: Path, notes: list[str]) -> bytes | None:
    """Return the record that a run would go on from, and how it is told."""
    asked: list[bytes] = []

    def reading(path: Path) -> Record:
        record = read_record(path)
        asked.append(record.body or b"")
        return record

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "read_record", reading)
        assert checkpoint.load(folder, "of another run", told=notes.append) is None
    return asked[0] or None


def test_damaged_pixels_are_never_trained_on_and_that_is_said(
    stopped: Job, expected: bytes, damages: Ways, tmp_path: Path
):
    """They are proved when they are read: the job that reads them ends as an undamaged one."""
    (pixels,) = (name for name in files_of(stopped.work) if name.endswith(".u8"))
    for way, damage in damages.items():
        job = another(stopped, tmp_path, way.replace("/", "-"))
        damage(job.work / pixels)
        told = Stops()
        if way == "folder":
            with pytest.raises(ResourceError, match=r"cannot be written .Is a directory"):
                run_job(job, reporter=told)
            continue

        run_job(job, reporter=told)

        assert (job.out / "d1.cam07.onnx").read_bytes() == expected, way
        assert any("images anew" in note or "starting anew" in note for note in told.notes), way
        assert (job.work / pixels).read_bytes() == (stopped.work / pixels).read_bytes(), way


def test_a_damaged_cache_is_read_anew_and_that_is_said(stopped: Job, damages: Ways, tmp_path: Path):
    whole = cache_of(stopped, [])
    record, rows, _ = files_of(stopped.work / "images")  # pixels: in the test before
    for name in (record, rows):
        for way, damage in damages.items():
            job = another(stopped, tmp_path, f"{name}-{way}".replace("/", "-"))
            damage(job.work / "images" / name)
            notes: list[str] = []
            if way == "folder" and name.endswith(".json"):
                with pytest.raises(ResourceError, match=r"json: is a folder; expected a file"):
                    cache_of(job, notes)
                continue
            if way == "folder":
                with pytest.raises(ResourceError, match=r"cannot be written .Is a directory"):
                    cache_of(job, notes)
                continue
            cache = cache_of(job, notes)
            every = np.arange(len(whole.pixels))
            assert np.array_equal(cache.pixels[every], whole.pixels[every]), way
            assert cache.labels.tolist() == whole.labels.tolist()
            assert notes or (way == "gone" and name.endswith(".json")), way
            cache.pixels.close()
    whole.pixels.close()


def test_a_damaged_half_built_cache_never_brings_a_wrong_pixel(
    stopped: Job, damages: Ways, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(_cache_build, "_SAVE_EVERY", -1.0)
    monkeypatch.setattr(_reader_process, "_LOOK_UP", 60.0)  # asks only at steps, which are counted
    whole = cache_of(stopped, [])
    every = np.arange(len(whole.pixels))
    half = Job(stopped.plan, stopped.images, tmp_path / "o", tmp_path / "half", "cam07")
    with pytest.raises(Interrupted, match="the image cache stopped at step 36"):
        run_job(half, should_stop=iter([False] * 36 + [True] * 9).__next__)
    names = files_of(half.work / "images")
    assert [Path(n).suffixes for n in names] == [
        [".json", ".part"],
        [".json", ".part", ".previous"],
        [".rows", ".part"],
        [".sides", ".part"],
        [".sides", ".part", ".previous"],
        [".u8", ".part"],
    ]
    monkeypatch.setattr(_cache_build, "_SAVE_EVERY", 1e9)
    for name in names:
        for way, damage in damages.items():
            job = another(half, tmp_path, f"{name}-{way}".replace("/", "-"))
            damage(job.work / "images" / name)
            if way == "folder" and name.endswith((".part", ".previous")):
                with pytest.raises(ResourceError, match=r"[Ii]s a (folder|directory)"):
                    cache_of(job, [])
                continue
            cache = cache_of(job, [])
            assert np.array_equal(cache.pixels[every], whole.pixels[every]), (name, way)
            cache.pixels.close()
    whole.pixels.close()


def test_a_damaged_box_name_is_never_another_name(stopped: Job, damages: Ways, tmp_path: Path):
    for way, damage in damages.items():
        job = another(stopped, tmp_path, way.replace("/", "-"))
        damage(job.work / "box")
        if way == "text":  # a word and a newline is what an earlier version wrote
            continue
        with pytest.raises((UsageError, ResourceError), match=r"box: is |--box is needed"):
            resolve_work(job.plan, work=job.work, box=None)
        if way != "folder":
            with WorkFolder(job.work, "cam07"):
                pass
            assert resolve_work(job.plan, work=job.work, box=None) == (job.work, "cam07")


def test_whatever_the_lock_is_it_locks_or_refuses(stopped: Job, damages: Ways, tmp_path: Path):
    for way, damage in damages.items():
        job = another(stopped, tmp_path, way.replace("/", "-"))
        if way == "swapped":
            continue
        if not (job.work / "lock").stat().st_size:
            (job.work / "lock").write_bytes(b"content" * 9)
        damage(job.work / "lock")
        if way in {"folder", "dangling link", "link to itself", "link out"}:
            with (
                pytest.raises(ResourceError, match=r"lock: cannot be used .*; expected a file"),
                WorkFolder(job.work, "cam07"),
            ):
                pass
        else:
            with (
                WorkFolder(job.work, "cam07"),
                pytest.raises(ResourceError, match="another agent"),
                WorkFolder(job.work, "cam07"),
            ):
                pass


def test_a_work_folder_of_an_earlier_version_is_used(stopped: Job, expected: bytes, tmp_path: Path):
    """Its box name was plain text, its checkpoint had a bare digest, its records were JSON."""
    job = another(stopped, tmp_path)
    (job.work / "box").write_text("cam07\n")
    path = job.work / "d1" / "checkpoint.safetensors"
    previous_of(path).unlink()
    path.write_bytes(bytes(32) + path.read_bytes().split(b"\n", 1)[1])
    (record,) = (job.work / "images").glob("*.json")
    record.write_text('{"body": {}, "sha256": ""}')
    told = Stops()

    assert resolve_work(job.plan, work=job.work, box=None) == (job.work, "cam07")
    run_job(job, reporter=told)

    assert (job.out / "d1.cam07.onnx").read_bytes() == expected
    assert sum("damaged or of an earlier version" in note for note in told.notes) == 2

"""Damage of the image cache in the middle of a run: read anew once, and no trace of it is left."""

import gc
import os
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from device_agent import _steps, checkpoint
from device_agent._cache_build import CacheBuild
from device_agent.job import Job, Silent, run_job
from device_agent.pixels import DamagedRows, PixelFile
from edge_stl.branch import Trainer
from edge_stl.cli import main
from edge_stl.errors import Interrupted, ResourceError
from edge_stl.plan import new_plan, plan_from_document, plan_toml


CLASSES = ["bus", "car"]
EPOCHS = 3
Damage = Callable[[Path], None]


class Hurts(Silent):
    """A reporter that damages the cache once at each of some training steps."""

    def __init__(self, job: Job, damage: Damage, *at: tuple[str, int]) -> None:
        self.notes: list[str] = []
        self.steps: list[tuple[str, int]] = []
        self._job, self._damage, self._at = job, damage, set(at)

    def training(self, branch: str, done: int, total: int, epoch: int, loss: float) -> None:
        assert epoch <= EPOCHS <= total
        assert loss > 0
        self.steps.append((branch, done))
        if (branch, done) in self._at:
            self._at.remove((branch, done))
            (pixels,) = (self._job.work / "images").glob("*.u8")
            self._damage(pixels)

    def note(self, text: str) -> None:
        self.notes.append(text)


def flip(pixels: Path) -> None:
    """One bit of one image."""
    with pixels.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(size // 2)
        (byte,) = file.read(1)
        file.seek(size // 2)
        file.write(bytes([byte ^ 16]))


def zero(pixels: Path) -> None:
    """As cards do that lost their table: the validation images, read after the last step, too."""
    with pixels.open("r+b") as file:
        file.write(bytes(pixels.stat().st_size))


def cut(pixels: Path) -> None:
    os.truncate(pixels, pixels.stat().st_size // 2)


@pytest.fixture
def job(pictures: Callable[..., Path], tmp_path: Path) -> Job:
    """Two branches of a few steps an epoch."""
    document = new_plan(
        classes=CLASSES, resolution=8, levels=1, network="mlp-s", epochs=EPOCHS
    ).to_document()
    document.setdefault("training", {})["batch_size"] = 6
    plan = plan_from_document(document, where="test")
    images = pictures(tmp_path / "photos", CLASSES, count=6, side=8)
    return Job(plan, images, tmp_path / "out", tmp_path / "work", "cam07", branch="all")


@pytest.fixture
def expected(job: Job) -> dict[str, bytes]:
    """The branch files of a run that nothing happened to."""
    own = replace(job, out=job.out / "../o2", work=job.work / "../w2")
    run_job(own)
    return files_of(own)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """How often images were read."""
    runs: list[bool] = []
    real = CacheBuild.run

    def run(build: CacheBuild) -> None:
        runs.append(True)
        real(build)

    monkeypatch.setattr(CacheBuild, "run", run)
    return runs


def files_of(job: Job) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(job.out.iterdir())}


def names_of(job: Job) -> list[str]:
    return sorted(str(p.relative_to(job.work)) for p in job.work.rglob("*") if p.is_file())


@pytest.mark.parametrize(
    ("damage", "branch", "at"),
    [(flip, "a1", 1), (cut, "a1", 6), (flip, "d1", 4), (zero, "d1", 1), (zero, "d1", 6)],
)
def test_damage_in_the_middle_of_a_run_leaves_no_trace(
    job: Job, expected: dict[str, bytes], built: list[bool], damage: Damage, branch: str, at: int
):
    told = Hurts(job, damage, (branch, at))

    run_job(job, reporter=told)

    (pixels,) = (job.work / "images").glob("*.u8")
    assert told.notes == [f"{pixels}: damaged; reading the images anew"]
    assert len(built) == 2
    assert files_of(job) == expected
    run_job(job, reporter=told)
    assert (len(built), len(told.notes)) == (2, 1)


def test_a_branch_that_met_damage_goes_on_from_its_checkpoint(
    job: Job, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(_steps, "CHECKPOINT_SECONDS", -1)
    told = Hurts(job, cut, ("d1", 4))

    rows = run_job(replace(job, fresh=True), reporter=told)

    assert told.steps == sorted(set(told.steps))  # no step was made twice, of either branch
    assert files_of(job) == expected
    assert [row.resumed for row in rows] == [False, True]


def test_what_was_damaged_is_never_given_to_a_trainer(
    job: Job, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
):
    """Every batch that was handed out has rows that were there before."""
    given: set[bytes] = set()
    real = PixelFile.__getitem__

    def getitem(pixels: PixelFile, index: object) -> object:
        batch = real(pixels, index)  # type: ignore[arg-type]
        given.update(row.tobytes() for row in batch)
        return batch

    monkeypatch.setattr(PixelFile, "__getitem__", getitem)
    run_job(replace(job, out=job.out / "../o3", work=job.work / "../w3"))
    whole = set(given)
    given.clear()

    run_job(job, reporter=Hurts(job, flip, ("d1", 4)))

    assert given == whole
    assert files_of(job) == expected


@pytest.mark.parametrize("again", [("a1", 5), ("d1", 1)])
def test_a_disk_that_damages_two_caches_in_one_run_is_named(
    job: Job, built: list[bool], again: tuple[str, int]
):
    """In the same branch or the next: the images are not read a third time."""
    told = Hurts(job, flip, ("a1", 4), again)

    with pytest.raises(DamagedRows, match=r"\A\S*u8: row \d+ is not as .*\. Check the disk or ch"):
        run_job(job, reporter=told)

    assert len(built) == 2
    assert len(told.notes) == 1


def test_an_agent_that_finds_damage_twice_ends_with_one_line_and_exit_code_20(
    job: Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    plan = job.work.parent / "plan.toml"
    plan.write_text(plan_toml(job.plan))
    real = Trainer.step

    def step(trainer: Trainer) -> float:
        if trainer.steps_done == 0:
            flip(next((job.work / "images").glob("*.u8")))
        return real(trainer)

    monkeypatch.setattr(Trainer, "step", step)

    code = main(
        ["train", str(plan), str(job.images), "-o", str(job.out), "--box", "cam07", "--work",
         str(job.work), "--threads", "1"]
    )  # fmt: skip

    assert code == 20
    first, last = capsys.readouterr().err.strip().splitlines()[-2:]
    assert first.endswith("u8: damaged; reading the images anew")
    assert "Check the disk or choose another --work" in last


def test_a_stop_while_the_images_are_read_anew_is_gone_on_from(
    job: Job, expected: dict[str, bytes]
):
    told = Hurts(job, flip, ("d1", 4))

    def stop() -> bool:
        return bool(told.notes)

    with pytest.raises(Interrupted, match="the image cache stopped at step 0 of 24"):
        run_job(job, reporter=told, should_stop=stop)
    again = Hurts(job, flip)
    run_job(job, reporter=again)

    assert again.notes == []
    assert files_of(job) == expected


def test_images_that_changed_since_are_not_mixed_with_what_was_learned(
    job: Job, expected: dict[str, bytes]
):
    """One can no longer be read when the images are read anew."""
    image = min((job.images / "bus").iterdir())
    whole = image.read_bytes()

    def change(pixels: Path) -> None:
        flip(pixels)
        image.write_bytes(b"x" * len(whole))

    with pytest.raises(ResourceError, match=r"gave other pixels than when .*\. Run the same comm"):
        run_job(job, reporter=Hurts(job, change, ("d1", 4)))

    image.write_bytes(whole)
    run_job(job)  # another size, time or content: another cache, and other checkpoints
    assert files_of(job) == expected


def test_a_checkpoint_belongs_to_the_pixels_it_was_trained_on(
    job: Job, monkeypatch: pytest.MonkeyPatch
):
    """The same list of images, one of which was read differently: nothing is gone on with."""
    keys: list[str] = []
    real = checkpoint.load

    def load(folder: Path, key: str, **how: object) -> object:
        keys.append(key)
        return real(folder, key, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(checkpoint, "load", load)
    run_job(replace(job, branch="d1"))
    run_job(replace(job, branch="d1"))
    assert len(set(keys)) == 1
    image = min((job.images / "bus").iterdir())
    seen = image.stat()
    image.write_bytes(b"x" * seen.st_size)
    os.utime(image, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    for path in (job.work / "images").iterdir():
        path.unlink()

    (row,) = run_job(replace(job, branch="d1"))

    assert len(set(keys)) == 2
    assert not row.resumed


def test_the_training_that_met_damage_is_let_go_of_before_the_images_are_read(
    job: Job, monkeypatch: pytest.MonkeyPatch
):
    """Two of them in memory at the same time would be more than was planned for."""
    alive: list[int] = []
    made: list[object] = []
    real = Trainer.__init__

    def init(trainer: Trainer, *arguments: object, **how: object) -> None:
        made.append(weakref.ref(trainer))
        real(trainer, *arguments, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "__init__", init)
    told = Hurts(job, flip, ("d1", 4))
    note = told.note

    def noting(text: str) -> None:
        gc.collect()
        alive.append(sum(ref() is not None for ref in made))  # type: ignore[operator]
        note(text)

    told.note = noting  # type: ignore[method-assign]
    run_job(replace(job, branch="d1"), reporter=told)

    assert alive == [0]


def test_the_work_folder_holds_the_same_files_after_damage(job: Job, tmp_path: Path):
    own = replace(job, out=tmp_path / "o4", work=tmp_path / "w4")
    run_job(own)
    run_job(job, reporter=Hurts(job, flip, ("d1", 4)))

    assert names_of(job) == names_of(own)

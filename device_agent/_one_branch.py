"""One branch of a job: start or resume, train, write its file."""

import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from device_agent import checkpoint
from device_agent._budget import Watch
from device_agent._memory import peak_rss_mb
from device_agent._network import network_identity
from device_agent._rehearsal import fit_into_memory
from device_agent._signing import sign_written
from device_agent._steps import answer_validation, take_steps
from device_agent._surroundings import surroundings
from device_agent._types import Job, JobFile, Reporter
from device_agent.branch_file import FinishedBranch, finish_branch
from device_agent.cache import ImageCache
from device_agent.work import WorkFolder
from edge_stl import __version__
from edge_stl.durable import write_durably
from edge_stl.plan import Branch
from exporter.manifest import sha256


if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_stl.branch import Settings, Trainer


def train_one(
    job: Job,
    branch: Branch,
    cache: ImageCache,
    images_digest: str,
    work: WorkFolder,
    reporter: Reporter,
    watch: Watch,
) -> JobFile:
    import torch  # an optional extra

    from edge_stl.branch import Settings

    settings = Settings.from_plan(job.plan, **job.settings)
    folder = work.branch(branch.name)
    key = checkpoint.resume_key(
        plan=job.plan.digest,
        branch=branch.name,
        box=job.box,
        settings=asdict(settings),
        images=images_digest,
        native_resolution=cache.native_resolution,
        layers=network_identity(job.plan, branch),
        version=__version__,
    )
    if job.fresh:
        checkpoint.discard(folder)
    setting = surroundings(threads=job.threads)
    left = checkpoint.load(folder, key, told=reporter.note)

    def new() -> "Trainer":
        return _new_trainer(job, branch, cache, settings)

    def finish(done: "Trainer") -> FinishedBranch:
        return finish_branch(done, box=job.box, threads=job.threads)

    trainer, earlier = _started(new, left, reporter)
    setting_before = {} if earlier is None else earlier.surroundings
    setting |= fit_into_memory(trainer, setting_before, new, finish, watch=watch, reporter=reporter)
    # Again for every branch: the first session of onnxruntime in a process, which the file of the
    # branch before or a rehearsal needs, switches it off, and what a denormal becomes is a bit.
    torch.set_flush_denormal(True)
    done = trainer.finished and trainer.answered[0] == trainer.answered[1]
    if earlier is not None and not done:
        _tell_differences(branch, earlier.surroundings, setting, reporter)
    seconds = before = 0.0 if earlier is None else earlier.seconds
    began = time.monotonic()

    def save() -> float:
        total = before + time.monotonic() - began
        checkpoint.save(folder, key, checkpoint.Checkpoint(trainer.state(), total, setting))
        return total

    if not done:
        take_steps(trainer, save, reporter, watch)
        answer_validation(trainer, save, watch)
        seconds = save()
    finished = finish(trainer)
    trained = finished.trained
    path = job.out / finished.file_name
    write_durably(path, finished.data)
    signature = sign_written(job, work, branch.name, path, finished.data)
    return JobFile(
        branch=branch.name,
        box=job.box,
        file=str(path),
        sha256=sha256(finished.data),
        images=sum(trained.train_counts),
        classes_seen=sum(n > 0 for n in trained.train_counts),
        native_resolution=cache.native_resolution,
        validation={"accuracy": trained.accuracy, "log_loss": trained.log_loss},
        parameters=sum(array.size for array in trained.parameters.values()),
        epochs=settings.epochs,
        seconds=round(seconds, 3),
        peak_rss_mb=round(peak_rss_mb(), 1),
        resumed=earlier is not None,
        left_out=dict(cache.left_out),
        signature=signature,
    )


def _new_trainer(job: Job, branch: Branch, cache: ImageCache, settings: "Settings") -> "Trainer":
    from edge_stl.branch import Trainer  # brings torch

    return Trainer(
        cache.pixels, cache.labels, plan=job.plan, branch_name=branch.name, settings=settings
    )


def _started(
    new: "Callable[[], Trainer]",
    earlier: checkpoint.Checkpoint | None,
    reporter: Reporter,
) -> tuple["Trainer", checkpoint.Checkpoint | None]:
    """Return a trainer at the checkpoint, or a new one and None where there is none that fits."""
    trainer = new()
    if earlier is None:
        return trainer, None
    try:
        trainer.restore(earlier.tensors)
    except ValueError:
        reporter.note(f"{trainer.branch.name}: its checkpoint does not fit; starting anew")
        return new(), None
    return trainer, earlier


def _tell_differences(
    branch: Branch, before: dict[str, str], now: dict[str, str], reporter: Reporter
) -> None:
    """Say in one line that the bytes will not be those of a run that was never stopped."""
    changed = sorted(name for name in before | now if before.get(name) != now.get(name))
    if changed:
        listed = ", ".join(
            f"{name} {now.get(name, 'none')} (before: {before.get(name, 'none')})"
            for name in changed
        )
        reporter.note(
            f"{branch.name}: resumed with {listed}; the file will differ in its last digits from "
            "an uninterrupted run"
        )

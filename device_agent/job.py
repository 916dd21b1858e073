"""The agent's job on one box: images in, one branch file per branch out."""

import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from device_agent import checkpoint
from device_agent.branch_file import finish_branch
from device_agent.cache import ImageCache, build_cache
from device_agent.work import WorkFolder
from edge_stl import __version__
from edge_stl.durable import make_folder, write_durably
from edge_stl.errors import DataError, Interrupted, UsageError
from edge_stl.images import scan
from edge_stl.plan import Branch, Plan, nearest, networks
from exporter.manifest import sha256


if TYPE_CHECKING:
    from edge_stl.branch import Settings, Trainer

CHECKPOINT_SECONDS = 20.0


class Reporter(Protocol):
    """Who is told how far the job is."""

    def decoding(self, done: int, total: int) -> None:
        """Tell that ``done`` of ``total`` steps of reading the images are done."""

    def training(self, branch: str, done: int, total: int, epoch: int, loss: float) -> None:
        """Tell that ``done`` of ``total`` training steps of a branch are done."""

    def note(self, text: str) -> None:
        """Tell something a person should know."""


class Silent:
    """A reporter that says nothing."""

    def decoding(self, done: int, total: int) -> None:
        """Say nothing."""

    def training(self, branch: str, done: int, total: int, epoch: int, loss: float) -> None:
        """Say nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""


@dataclass(frozen=True)
class JobFile:
    """One branch file that was written; the row of ``train --json``."""

    branch: str
    box: str
    file: str
    sha256: str
    images: int
    classes_seen: int
    native_resolution: int
    validation: dict[str, float | None]
    parameters: int
    epochs: int
    seconds: float
    peak_rss_mb: float
    resumed: bool
    left_out: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """What one run of the agent is to do.

    Attributes:
        plan: the plan.
        images: folder of class folders, or with ``labels.csv``.
        out: receives ``<branch>.<box>.onnx`` and nothing else.
        work: the box's work folder.
        box: the box id.
        branch: ``auto``, ``all`` or the name of a branch.
        settings: changes to the plan's training settings, like ``{"epochs": 3}``.
        threads: threads of torch.
        fresh: forget what an earlier run left.
    """

    plan: Plan
    images: Path
    out: Path
    work: Path
    box: str
    branch: str = "auto"
    settings: dict[str, object] = field(default_factory=dict)
    threads: int = 1
    fresh: bool = False


def run_job(
    job: Job, *, reporter: Reporter | None = None, should_stop: Callable[[], bool] = lambda: False
) -> list[JobFile]:
    """Scan, decode, train, export; resumes by itself.

    Args:
        job: what to do.
        reporter: who is told how far it is.
        should_stop: asked after every image and training step.

    Returns:
        one row per branch file written.

    Raises:
        DataError: the images cannot be used.
        UsageError: the branch is unknown, or torch is missing.
        ResourceError: disk or work folder cannot be used.
        Interrupted: ``should_stop`` said so; the same job goes on where it stopped.
        CheckError: training diverged, or a file failed its check.
    """
    _need_torch()
    reporter = reporter or Silent()
    plan = job.plan
    if job.branch not in ("auto", "all", *(b.name for b in plan.branches)):
        choices = ["auto", "all", *(b.name for b in plan.branches)]
        raise UsageError(
            f"--branch {job.branch}: not a branch of the plan{nearest(job.branch, choices)}"
        )
    images = scan(job.images, plan.classes)
    make_folder(job.out)
    with WorkFolder(job.work, job.box) as work:
        cache = build_cache(
            images,
            resolution=plan.input.resolution,
            levels=plan.bank.levels,
            channels=plan.input.channels,
            fit=plan.input.fit,
            max_pixels=plan.limits.max_image_pixels,
            max_bytes=plan.limits.max_image_bytes,
            folder=work.path / "images",
            told=reporter.note,
            progress=reporter.decoding,
            should_stop=should_stop,
        )
        _tell_left_out(cache, reporter)
        branches = _chosen(job, cache)
        with cache.pixels, _torch_settings(job.threads):
            return [
                _train_one(job, branch, cache, images.digest, work, reporter, should_stop)
                for branch in branches
            ]


@contextmanager
def _torch_settings(threads: int) -> Iterator[None]:
    """Set torch's process-wide switches for a job, and put them back after it."""
    import torch  # an optional extra

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    # Decay makes tiny weights denormal, and some processors are a hundred times slower on those.
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(before)


def _need_torch() -> None:
    # Threads that wait by spinning slow each other down many times on a box that does other work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        import torch  # noqa: F401  (the missing-extra line must be ours)
    except ImportError:
        raise UsageError("training needs torch: pip install 'edge-stl[train]'") from None


def _tell_left_out(cache: ImageCache, reporter: Reporter) -> None:
    if cache.left_out:
        counts = ", ".join(f"{n} {reason}" for reason, n in sorted(cache.left_out.items()))
        reporter.note(f"{len(cache.names)} images used; left out: {counts}")


def _chosen(job: Job, cache: ImageCache) -> tuple[Branch, ...]:
    plan, r = job.plan, cache.native_resolution
    carried = plan.carried(r)
    if job.branch == "all":
        chosen = carried
    elif job.branch == "auto":
        chosen = plan.own(r)
    else:
        chosen = tuple(b for b in carried if b.name == job.branch)
    if not chosen:
        wanted = [b for b in plan.branches if job.branch in ("auto", "all", b.name)]
        needs = ", ".join(f"{b.name} needs {plan.required_resolution(b)}" for b in wanted)
        raise DataError(
            f"{job.images}: the images reach {r} px, which carries no such branch ({needs}). Use "
            "finer images, or a plan with a branch for this resolution"
        )
    for branch in chosen:
        _fits(plan, branch)
    return chosen


def _fits(plan: Plan, branch: Branch) -> None:
    """Refuse, before any training, a branch whose file no desk would take."""
    count = networks.parameters(
        plan.layers(branch), channels=plan.band_channels(branch), size=plan.band_size(branch)
    )
    if 4 * count > plan.limits.max_branch_bytes:
        raise UsageError(
            f"branch {branch.name}: {branch.network} has {count:,} parameters here, which makes a "
            f"file of {4 * count:,} bytes; the plan allows {plan.limits.max_branch_bytes:,} "
            "(limits.max_branch_bytes). Make a plan with a smaller network or a higher limit"
        )


def _train_one(
    job: Job,
    branch: Branch,
    cache: ImageCache,
    images_digest: str,
    work: WorkFolder,
    reporter: Reporter,
    should_stop: Callable[[], bool],
) -> JobFile:
    from edge_stl.branch import Settings  # brings torch

    settings = Settings.from_plan(job.plan, **job.settings)
    folder = work.branch(branch.name)
    key = checkpoint.resume_key(
        plan=job.plan.digest,
        branch=branch.name,
        box=job.box,
        settings=asdict(settings),
        images=images_digest,
        native_resolution=cache.native_resolution,
        layers=repr(job.plan.layers(branch)),
        version=__version__,
    )
    if job.fresh:
        checkpoint.discard(folder)
    left = checkpoint.load(folder, key, told=reporter.note)
    trainer, earlier = _started(job, branch, cache, settings, left, reporter)
    seconds = 0.0 if earlier is None else earlier.seconds
    began = time.monotonic()

    def save() -> float:
        total = seconds + time.monotonic() - began
        checkpoint.save(folder, key, checkpoint.Checkpoint(trainer.state(), total, job.threads))
        return total

    if not trainer.finished:
        _take_steps(trainer, save, reporter, should_stop)
        seconds = save()
    finished = finish_branch(trainer, box=job.box, threads=job.threads)
    trained = finished.trained
    path = job.out / finished.file_name
    write_durably(path, finished.data)
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
    )


def _started(
    job: Job,
    branch: Branch,
    cache: ImageCache,
    settings: "Settings",
    earlier: checkpoint.Checkpoint | None,
    reporter: Reporter,
) -> tuple["Trainer", checkpoint.Checkpoint | None]:
    """Return a trainer at the checkpoint, or a new one and None where there is none that fits."""
    from edge_stl.branch import Trainer  # brings torch

    def new() -> Trainer:
        return Trainer(
            cache.pixels, cache.labels, plan=job.plan, branch_name=branch.name, settings=settings
        )

    trainer = new()
    if earlier is None:
        return trainer, None
    try:
        trainer.restore(earlier.tensors)
    except ValueError:
        reporter.note(f"{branch.name}: its checkpoint does not fit; starting anew")
        return new(), None
    if earlier.threads != job.threads and not trainer.finished:
        reporter.note(
            f"{branch.name}: resumed with {job.threads} threads after {earlier.threads}; the "
            "file will differ in its last digits from an uninterrupted run"
        )
    return trainer, earlier


def _take_steps(
    trainer: "Trainer",
    save: Callable[[], object],
    reporter: Reporter,
    should_stop: Callable[[], bool],
) -> None:
    """Train to the end, with a checkpoint every now and then, and one more when asked to stop."""
    name = trainer.branch.name
    last_save = time.monotonic()
    while not trainer.finished:
        loss = trainer.step()
        reporter.training(name, trainer.steps_done, trainer.steps_total, trainer.epoch, loss)
        if should_stop():
            save()
            raise Interrupted(
                f"stopped in branch {name} after {trainer.steps_done} of {trainer.steps_total} "
                "steps; all of it is kept. The same command goes on there"
            )
        if time.monotonic() - last_save > CHECKPOINT_SECONDS:
            save()
            last_save = time.monotonic()


def peak_rss_mb() -> float:
    """Return the largest resident memory of this process so far, in 10^6 bytes."""
    status = Path("/proc/self/status")
    if status.is_file():
        # getrusage keeps the peak of the parent across fork and exec; this one does not.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def usable_cores() -> int:
    """Return how many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

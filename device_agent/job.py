"""The agent's job on one box: images in, one branch file per branch out."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from device_agent._budget import Watch
from device_agent._mending import MendedCache
from device_agent._network import need_networks, need_one_network, parameter_count
from device_agent._one_branch import train_one
from device_agent._preflight import checkpoint_bytes, refuse_full_disk
from device_agent._signing import check_signing
from device_agent._types import Job, JobFile, JobFiles, Reporter, Silent
from device_agent.cache import ImageCache, build_cache
from device_agent.work import WorkFolder
from edge_stl.durable import make_folder
from edge_stl.errors import (
    OUT_OF_MEMORY,
    DataError,
    Interrupted,
    ResourceError,
    UsageError,
    ran_out_of_memory,
)
from edge_stl.images import scan
from edge_stl.plan import Branch, Plan, nearest


__all__ = ["Job", "JobFile", "JobFiles", "Reporter", "Silent", "run_job", "usable_cores"]


def run_job(
    job: Job, *, reporter: Reporter | None = None, should_stop: Callable[[], bool] = lambda: False
) -> JobFiles:
    """Scan, decode, train, export; resumes by itself.

    Args:
        job: what to do.
        reporter: who is told how far it is.
        should_stop: asked after every image and training step.

    Returns:
        one row per branch file written, with the files that were left out.

    Raises:
        DataError: the images cannot be used.
        UsageError: the branch is unknown, or torch is missing.
        ResourceError: disk or work folder cannot be used.
        Interrupted: ``should_stop`` said so; the same job goes on where it stopped.
        CheckError: training diverged, or a file failed its check.
    """
    _need_torch()
    reporter = reporter or Silent()
    watch = Watch(job.budget, should_stop, reporter)
    try:
        return _run(job, reporter, watch)
    except Interrupted as stopped:
        raise watch.told(stopped) from None


def _run(job: Job, reporter: Reporter, watch: Watch) -> JobFiles:
    plan = job.plan
    if job.branch not in ("auto", "all", *(b.name for b in plan.branches)):
        choices = ["auto", "all", *(b.name for b in plan.branches)]
        raise UsageError(
            f"--branch {job.branch}: not a branch of the plan{nearest(job.branch, choices)}"
        )
    images = scan(job.images, plan.classes, only=job.only)
    make_folder(job.out)
    refuse_full_disk(job, _asked_for(job), images=len(images))
    with WorkFolder(job.work, job.box) as work:
        check_signing(job, work)
        build = partial(
            build_cache,
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
            should_stop=watch,
        )
        with MendedCache(build, reporter.note) as mended, _torch_settings(job.threads):
            cache = mended.cache
            _tell_left_out(cache, reporter)
            branches = _chosen(job, cache)
            refuse_full_disk(job, branches)

            def train(branch: Branch, pixels: ImageCache, again: bool) -> JobFile:
                # Another try goes on from what this run saved.
                own = replace(job, fresh=job.fresh and not again)
                digest = f"{images.digest} {pixels.digest}"
                return train_one(own, branch, pixels, digest, work, reporter, watch)

            rows = JobFiles()
            for branch in branches:
                watch.enter(branch.name)
                rows.append(mended.use(partial(train, branch)))
        rows.left_out_files = cache.left_out_files
        return rows


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
    except ImportError as error:
        if ran_out_of_memory(error):
            raise ResourceError(OUT_OF_MEMORY) from None
        raise UsageError("training needs torch: pip install 'edge-stl[train]'") from None


def _tell_left_out(cache: ImageCache, reporter: Reporter) -> None:
    if cache.left_out:
        counts = ", ".join(f"{n} {reason}" for reason, n in sorted(cache.left_out.items()))
        reporter.note(f"{len(cache.names)} images used; left out: {counts} (--json names them)")


def _asked_for(job: Job) -> tuple[Branch, ...]:
    """Return the smallest branch that the job can come to, before its images are looked at."""
    plan = job.plan
    wanted = [b for b in plan.branches if job.branch in ("auto", "all", b.name)]
    need_one_network(plan, wanted)
    return (min(wanted, key=lambda branch: checkpoint_bytes(plan, branch)),)


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
    need_networks(plan, chosen)
    for branch in chosen:
        _fits(plan, branch)
    return chosen


def _fits(plan: Plan, branch: Branch) -> None:
    """Refuse, before any training, a branch whose file no desk would take."""
    count = parameter_count(plan, branch)
    if 4 * count > plan.limits.max_branch_bytes:
        raise UsageError(
            f"branch {branch.name}: {branch.network} has {count:,} parameters here, which makes a "
            f"file of {4 * count:,} bytes; the plan allows {plan.limits.max_branch_bytes:,} "
            "(limits.max_branch_bytes). Make a plan with a smaller network or a higher limit"
        )


def usable_cores() -> int:
    """Return how many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

"""Is there room on the disk for what a job will write? Asked before any work is done."""

import os
from collections.abc import Sequence
from pathlib import Path

from device_agent._network import parameter_count
from device_agent._types import Job
from edge_stl.errors import ResourceError
from edge_stl.plan import Branch, Plan


_FACTOR = 2.2
"""While a file is written, the one before is still there; some room for the file system itself."""

_STATES = 3
"""A parameter, and its two moments in AdamW (Loshchilov & Hutter, ICLR 2019)."""

_HEADS = 64_000  # bytes of names, shapes and the manifest
_FILES = 32  # that a job makes in a folder, generously


def checkpoint_bytes(plan: Plan, branch: Branch) -> int:
    """Return about how many bytes a checkpoint of a branch has."""
    return _STATES * parameter_count(plan, branch) * 4 + _HEADS


def refuse_full_disk(job: Job, branches: Sequence[Branch], *, images: int = 0) -> None:
    """Refuse a job whose checkpoints and branch files would not fit.

    Args:
        job: its ``work`` and ``out``, which need not exist; what an earlier run left there counts.
        branches: to be trained.
        images: to be cached, at the coarsest resolution of the plan at least; the cache itself
            looks again, once it knows the resolution.

    Raises:
        ResourceError: the disk of ``work`` or of ``out`` is too full; the sentence has both
            numbers.
    """
    plan = job.plan
    coarsest = plan.input.resolution >> plan.bank.levels
    cached = images * coarsest * coarsest * plan.input.channels
    held = max(0.0, cached - _size(job.work / "images"))
    for branch in branches:
        held += max(
            checkpoint_bytes(plan, branch) / 2,
            _FACTOR * checkpoint_bytes(plan, branch) - _size(job.work / branch.name),
        )
    made = _FACTOR * sum(4 * parameter_count(plan, branch) + _HEADS for branch in branches)
    work, out = _nearest(job.work), _nearest(job.out)
    together = work.stat().st_dev == out.stat().st_dev
    _refuse(job.work, work, held + made if together else held, "--work")
    _refuse(job.out, out, held + made if together else made, "-o")


def _refuse(folder: Path, place: Path, needed: float, option: str) -> None:
    free, files = _room(place)
    if free < needed:
        raise ResourceError(
            f"{folder}: {free / 1e6:.1f} MB are free; expected {needed / 1e6:.1f} MB for "
            f"checkpoints and branch files. Free space or choose another {option}"
        )
    if files is not None and files < _FILES:
        raise ResourceError(
            f"{folder}: {files} more files fit on its disk; expected {_FILES}. Remove "
            f"files or choose another {option}"
        )


def _room(place: Path) -> tuple[int, int | None]:
    """Return the bytes and the files that still fit on the disk of a folder."""
    told = os.statvfs(place)
    # A file system that makes room for files as it goes, like btrfs, counts none at all.
    return told.f_bavail * told.f_frsize, told.f_favail if told.f_files else None


def _nearest(folder: Path) -> Path:
    """Return the folder, or the nearest above it that is there."""
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return place


def _size(folder: Path) -> int:
    """Return the bytes of the files in a folder, 0 where there is none."""
    try:
        with os.scandir(folder) as entries:
            return sum(e.stat().st_size for e in entries if e.is_file(follow_symlinks=False))
    except OSError:
        return 0

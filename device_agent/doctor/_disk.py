"""The folders a run writes to: permission, free space, speed, and what a power cut leaves."""

import errno
import fcntl
import os
import shlex
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from device_agent.doctor._check import Check, one_line, size
from device_agent.doctor._machine import read_text


WRITTEN = 4 * 2**20
"""Bytes that are written to measure a disk: a checkpoint or two."""

LEAST_FREE = 100e6
LITTLE_FREE = 1e9
FEW_FILES = 1000
SLOW = 5e6
"""Bytes per second; a checkpoint of some MB would take longer than a second below this."""

_VOLATILE = {"tmpfs", "ramfs"}
_CHUNK = 2**18
_FULL = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True)
class Space:
    """What a file system has free: bytes, and files unless it does not count them."""

    free: int
    files: int | None


def disk_check(
    name: str,
    folder: Path,
    *,
    root: Path = Path("/"),
    space: Space | None = None,
    written: int = WRITTEN,
) -> Check:
    """Check that a folder can be written, has room, and is fast enough.

    A folder that is not there yet is judged by the nearest one above it. What is written is
    removed.

    Args:
        name: of the check, like ``work folder``.
        folder: the folder.
        root: of the file system, for the table of mounts.
        space: what is free; by default asked of the file system.
        written: bytes to write for the measurement.
    """
    shown = one_line(os.fsencode(folder).decode(errors="replace"))
    try:
        place = _nearest(folder)
        if not place.is_dir():
            return Check(
                name=name,
                status="error",
                found=f"{shown}: {place.name} is no folder; expected one this user may write. "
                "Choose another place",
                values={"path": shown},
            )
        free = _space(place) if space is None else space
        speed = _write(place, written)
    except OSError as error:
        return _refused(name, shown, folder, error)
    kind = _file_system(place, root)
    values: dict[str, float | str | bool | None] = {
        "path": shown,
        "free_bytes": free.free,
        "free_files": free.files,
        "bytes_per_second": round(speed),
        "file_system": kind,
    }
    found = f"{shown}: writable, {size(free.free)} free, {speed / 1e6:.0f} MB/s"
    largest = f"sudo du -xh --max-depth=2 {shlex.quote(str(place))} | sort -h | tail -n 20"
    if free.free < LEAST_FREE or free.files == 0:
        status, more, fix = "error", "; almost full", largest
    elif free.free < LITTLE_FREE or (free.files is not None and free.files < FEW_FILES):
        few = "" if free.files is None or free.files >= FEW_FILES else f" and {free.files} files"
        status, more, fix = "warning", f"; little room{few}", largest
    elif kind in _VOLATILE:
        return Check(
            name=name,
            status="warning",
            found=f"{found}; lies in memory ({kind}): a power cut empties it. Choose another place",
            values=values,
        )
    elif speed < SLOW:
        return Check(
            name=name,
            status="warning",
            found=f"{found}; slow: checkpoints will hold training up. Choose another disk",
            values=values,
        )
    else:
        return Check(name=name, status="ok", found=found, values=values)
    return Check(
        name=name,
        status="error" if status == "error" else "warning",
        found=f"{found}{more}",
        fix=fix,
        values=values,
    )


def _nearest(folder: Path) -> Path:
    """Return the folder, or the nearest above it that is there."""
    place = folder.absolute()
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    return place


def _space(place: Path) -> Space:
    told = os.statvfs(place)
    # A file system that makes room for files as it goes, like btrfs, counts none at all.
    return Space(told.f_bavail * told.f_frsize, told.f_favail if told.f_files else None)


def _write(place: Path, count: int) -> float:
    """Write, lock, flush and remove a file; return bytes per second."""
    held = Path(tempfile.mkdtemp(prefix=".edge-stl-doctor-", dir=place))
    try:
        chunk = os.urandom(_CHUNK)  # a compressing file system would be too fast with zeros
        start = time.perf_counter()
        with (held / "probe").open("wb", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for at in range(0, count, _CHUNK):
                file.write(chunk[: min(_CHUNK, count - at)])
            os.fsync(file.fileno())
        return count / max(time.perf_counter() - start, 1e-9)
    finally:
        shutil.rmtree(held, ignore_errors=True)


def _refused(name: str, shown: str, folder: Path, error: OSError) -> Check:
    place, there = shlex.quote(str(folder)), shlex.quote(str(_nearest(folder)))
    why = error.strerror or type(error).__name__
    fix: str | None = None
    if error.errno in {errno.EACCES, errno.EPERM}:
        fix = f'sudo mkdir -p {place} && sudo chown "$(id -u):$(id -g)" {place}'
    elif error.errno == errno.EROFS:
        fix = f'sudo mount -o remount,rw "$(df --output=target {there} | tail -n 1)"'
    elif error.errno in _FULL:
        fix = f"df -h {there}; df -i {there}"
    elif error.errno in {errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS}:
        why = f"{why}: files cannot be locked here, as on some network disks"
    return Check(
        name=name,
        status="error",
        found=f"{shown}: cannot be written ({one_line(why)}); expected a folder this user may write"
        + ("" if fix else ". Choose another place"),
        fix=fix,
        values={"path": shown},
    )


def _file_system(place: Path, root: Path) -> str | None:
    """Return the type of the file system of a folder: that of the longest mount above it."""
    here = place.resolve()
    kinds: dict[Path, str] = {}
    for line in read_text(root / "proc" / "self" / "mounts").splitlines():
        fields = line.split(" ")
        if len(fields) > 2:  # noqa: PLR2004
            # The kernel writes a space in a name as \040.
            kinds[Path(fields[1].replace("\\040", " "))] = fields[2]
    above = [mount for mount in (here, *here.parents) if mount in kinds]
    return kinds[above[0]] if above else None

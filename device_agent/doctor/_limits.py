"""Memory and cores: what the machine has, and what a control group leaves of it.

A container sees the memory and the cores of its host; what it may use stands in its control group
(https://docs.kernel.org/admin-guide/cgroup-v2.html). Every group above sets limits as well, and the
tightest holds.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from device_agent.doctor._check import Check, size
from device_agent.doctor._machine import read_text


LEAST_TOTAL = 512e6
"""Bytes below which importing torch and one step of training do not fit."""

LITTLE_AVAILABLE = 700e6
"""Bytes; the agent's peak was 456 MB where it was measured (docs/results.md, images of 336 px)."""

_UNLIMITED = 2**60
"""Version 1 writes a number near 2**63 for no limit."""

_SWAP = (
    "sudo fallocate -l 2G /swapfile && sudo chmod 600 /swapfile && sudo mkswap /swapfile && "
    "sudo swapon /swapfile"
)


def memory_check(root: Path = Path("/"), *, container: str | None = None) -> Check:
    """Check how much memory a run may use: that of the machine or of the control group.

    Args:
        root: of the file system.
        container: what this container is run by, which can give it more; None outside of one.
    """
    sizes = {
        line.split(":")[0]: float(line.split()[1]) * 1024  # the file says kB and means KiB
        for line in read_text(root / "proc" / "meminfo").splitlines()
        if len(line.split()) == 3 and line.split()[1].isdigit()  # noqa: PLR2004
    }
    if "MemTotal" not in sizes:
        return Check(name="memory", status="note", found="unknown: /proc/meminfo cannot be read")
    total, swap = sizes["MemTotal"], sizes.get("SwapFree", 0.0)
    available = sizes.get("MemAvailable", sizes.get("MemFree", total))
    groups = list(_memory_groups(root))
    limit = min((most for most, _ in groups if most < total), default=None)
    usable = min([available, *(most - used for most, used in groups)])
    usable = max(usable, 0.0)
    found = f"{size(total)}, {size(usable)} available, {size(swap)} swap free"
    if limit is not None:
        found += f", the control group allows {size(limit)}"
    values: dict[str, float | str | bool | None] = {
        "total_bytes": total,
        "available_bytes": usable,
        "swap_free_bytes": swap,
        "limit_bytes": limit,
    }
    grown: str | None = _SWAP
    if limit is not None:
        update = f"{container} update --memory 2g --memory-swap 2g CONTAINER"
        grown = update if container in {"docker", "podman"} else None
    if min(total, limit or total) < LEAST_TOTAL:
        return Check(
            name="memory",
            status="error",
            found=f"{found}; training needs at least {size(LEAST_TOTAL)}",
            fix=grown,
            values=values,
        )
    if usable < LITTLE_AVAILABLE:
        return Check(
            name="memory",
            status="warning",
            found=f"{found}; leave {size(LITTLE_AVAILABLE)} for training",
            fix="ps -eo rss,pid,comm --sort=-rss | head -n 10",
            values=values,
        )
    return Check(name="memory", status="ok", found=found, values=values)


def cores_check(root: Path = Path("/"), *, cores: int | None = None) -> Check:
    """Check how many cores there are, and whether a quota gives less time than they have.

    Args:
        root: of the file system.
        cores: those this process may run on; by default asked of the system.
    """
    if cores is None:
        cores = len(os.sched_getaffinity(0))
    present = os.cpu_count() or cores
    quota = min(_cpu_quotas(root), default=None)
    found = f"{cores} usable" + (f" of {present}" if present > cores else "")
    values: dict[str, float | str | bool | None] = {"usable": cores, "quota": quota}
    if quota is not None and quota < cores:
        threads = max(1, int(quota))
        return Check(
            name="cores",
            status="warning",
            found=f"{found}, but the control group gives the time of {quota:g}: threads beyond "
            "that wait for each other",
            fix=f"edge-stl train PLAN IMAGES -o OUT --threads {threads}",
            values=values,
        )
    return Check(name="cores", status="ok", found=found, values=values)


def _groups(root: Path, controller: str) -> Iterator[tuple[Path, bool]]:
    """Yield the folders of this process's control group and of all above it.

    Yields:
        a folder, which need not exist, and whether it is one of version 2.
    """
    mounted = root / "sys" / "fs" / "cgroup"
    for line in read_text(root / "proc" / "self" / "cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            bases, second = [mounted, mounted / "unified"], True
        elif controller in controllers.split(","):
            bases, second = [mounted / controllers, mounted / controller], False
        else:
            continue
        parts = [part for part in path.split("/") if part not in {"", ".", ".."}]
        for base in bases:
            for depth in range(len(parts), -1, -1):
                yield base.joinpath(*parts[:depth]), second


def _memory_groups(root: Path) -> Iterator[tuple[float, float]]:
    """Yield (limit, used) in bytes for every group with a limit; files kept in memory are free."""
    for folder, second in _groups(root, "memory"):
        names = (
            ("memory.max", "memory.current", "inactive_file")
            if second
            else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        )
        limit = read_text(folder / names[0]).strip()
        if not limit.isdigit() or int(limit) >= _UNLIMITED:
            continue
        used = read_text(folder / names[1]).strip()
        kept = [
            int(line.split()[1])
            for line in read_text(folder / "memory.stat").splitlines()
            if line.startswith(f"{names[2]} ") and line.split()[1].isdigit()
        ]
        busy = int(used) - sum(kept) if used.isdigit() else 0
        yield float(limit), float(max(busy, 0))


def _cpu_quotas(root: Path) -> Iterator[float]:
    """Yield the quota in cores of every group with one."""
    for folder, second in _groups(root, "cpu"):
        if second:
            numbers = read_text(folder / "cpu.max").split()
        else:
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            numbers = [read_text(folder / name).strip() for name in names]
        if len(numbers) == 2 and all(n.isdigit() and int(n) for n in numbers):  # noqa: PLR2004
            yield int(numbers[0]) / int(numbers[1])

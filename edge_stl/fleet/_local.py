"""Local processes: as many calls of the agent at a time as the cores and GPUs here allow."""

import os
import time
from collections import deque
from pathlib import Path
from typing import Self

from edge_stl.errors import Interrupted, ResourceError
from edge_stl.fleet._task import POLL, Ended, Running, Task


class LocalEngine:
    """An engine of local processes.

    Cores are shared out, not enforced: a task that wants more than there are runs alone. GPUs are:
    a task sees the one it was given, and two tasks share one where their parts add up to 1 at most.

    Args:
        cpus: cores to share out.
    """

    def __init__(self, *, cpus: int) -> None:
        self._cpus = self._free = float(cpus)
        self._gpus = dict.fromkeys(visible_gpus(), 1.0)
        self._waiting: deque[Task] = deque()
        self._running: dict[str, tuple[Task, Running, str | None]] = {}
        self._ended: list[tuple[Task, Ended]] = []

    def __enter__(self) -> Self:
        """Nothing to get ready."""
        return self

    def __exit__(self, *error: object) -> None:
        """Kill what still runs: only somebody in a hurry leaves before the end."""
        for _, running, _ in self._running.values():
            running.kill()
        self._running.clear()

    def start(self, task: Task) -> None:
        """Take a task."""
        if task.gpus and not self._gpus:
            self._ended.append((task, _no_gpu(task)))
        else:
            self._waiting.append(task)

    def ended(self, timeout: float) -> list[tuple[Task, Ended]]:
        """Return what ended."""
        until = time.monotonic() + timeout
        while True:
            self._start_what_fits()
            for task, running, gpu in list(self._running.values()):
                how = running.poll()
                if how is not None:
                    del self._running[task.name]
                    self._give_back(task, gpu)
                    self._ended.append((task, how))
            if self._ended or time.monotonic() >= until:
                told, self._ended = self._ended, []
                return told
            time.sleep(POLL)

    def stop(self) -> None:
        """Ask what runs to end."""
        for _, running, _ in self._running.values():
            running.stop()
        not_started = Ended(Interrupted.exit_code, "stopped before it started")
        self._ended += [(task, not_started) for task in self._waiting]
        self._waiting.clear()

    def _start_what_fits(self) -> None:
        for task in list(self._waiting):
            share = min(task.cpus, self._cpus)
            gpu = self._free_gpu(task)
            if share > self._free or (task.gpus and gpu is None):
                continue
            self._waiting.remove(task)
            try:
                running = Running(task, gpus=gpu)
            except ResourceError as error:
                self._ended.append((task, Ended(error.exit_code, str(error))))
                continue
            self._free -= share
            if gpu is not None:
                self._gpus[gpu] -= task.gpus or 0
            self._running[task.name] = (task, running, gpu)

    def _free_gpu(self, task: Task) -> str | None:
        if not task.gpus:
            return None
        return next((g for g, free in self._gpus.items() if free >= task.gpus), None)

    def _give_back(self, task: Task, gpu: str | None) -> None:
        self._free += min(task.cpus, self._cpus)
        if gpu is not None:
            self._gpus[gpu] += task.gpus or 0


def visible_gpus() -> list[str]:
    """Return the GPUs of this machine as CUDA_VISIBLE_DEVICES names them, without loading torch."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [part.strip() for part in chosen.split(",") if part.strip() not in ("", "-1")]
    devices = Path("/dev")
    count = len(list(devices.glob("nvidia[0-9]*")))
    # A Jetson's one GPU has another name on its older systems.
    count = count or (devices / "nvhost-gpu").exists()
    return [str(i) for i in range(count)]


def _no_gpu(task: Task) -> Ended:
    said = f"gpus {task.gpus:g}: this machine has no GPU; expected one. Ask for device cpu"
    return Ended(ResourceError.exit_code, said)

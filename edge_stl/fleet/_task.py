"""One call of the agent in a process of its own: the same on every engine."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from edge_stl._parent import ALONE
from edge_stl.durable import make_folder, take_lock, write_record
from edge_stl.errors import EdgeStlError, Interrupted, ResourceError
from edge_stl.fleet import _leash
from edge_stl.fleet._lines import Lines


_AGENT = ("-m", "edge_stl")
POLL = 0.05
"""Seconds between two looks at a process."""


@dataclass(frozen=True)
class Task:
    """One call of ``edge-stl train``.

    Attributes:
        name: what it is called in sentences, like ``box cam07``; unique among the tasks of a run.
        arguments: of ``edge-stl``, with absolute paths: a worker may stand in another folder.
        threads: of torch.
        cpus: cores it is to have.
        gpus: GPUs it is to have, 0 to 1; with 0 it sees none, with None what its parent sees.
        lock: this file is locked while the agent runs, and by the agent itself.
        marker: this file is written when the agent is done.
        asks: what the marker says was asked.
        patience: seconds to wait for the lock.
    """

    name: str
    arguments: tuple[str, ...]
    threads: int = 1
    cpus: float = 1
    gpus: float | None = None
    lock: Path | None = None
    marker: Path | None = None
    asks: str = ""
    patience: float = 0


@dataclass(frozen=True)
class Ended:
    """How a call ended.

    Attributes:
        code: exit code of the agent, or minus the number of the signal that killed it.
        said: its last line where it failed.
        rows: those of ``train --json``.
    """

    code: int
    said: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def died(self) -> bool:
        """Whether a signal ended it: nothing says that it would fail again."""
        return self.code < 0 or self.code == Interrupted.exit_code

    def error(self, name: str, *, attempts: int = 1) -> EdgeStlError:
        """Return what to raise for a call that failed; ``name`` begins the sentence."""
        if self.code in (Interrupted.exit_code, -signal.SIGINT, -signal.SIGTERM):
            return Interrupted(f"{name}: {self.said or 'stopped'}")
        if self.code < 0:
            times = f" {attempts} times" if attempts > 1 else ""
            return ResourceError(
                f"{name}: {self.said or f'its process was killed by signal {-self.code}'}{times}; "
                "expected it to end by itself. The machine may be short of memory: run fewer at a "
                "time"
            )
        error = EdgeStlError(f"{name}: {self.said or f'exit code {self.code}'}")
        error.exit_code = self.code
        return error


class Running:
    """A call that runs.

    Args:
        task: the call.
        gpus: the GPUs it may see, as CUDA_VISIBLE_DEVICES says it; None leaves that as it is.
        heard: called with every line it says on stderr, while it runs, by `poll`; None keeps them.

    Raises:
        ResourceError: somebody else holds its lock.
    """

    def __init__(
        self,
        task: Task,
        *,
        gpus: str | None = None,
        heard: Callable[[str], object] | None = None,
    ) -> None:
        self._task = task
        self._lock = -1 if task.lock is None else _hold(task.lock, task.name, task.patience)
        self._pipe: IO[bytes] | None = None
        self._out, self._err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self._process = subprocess.Popen(  # noqa: S603  (our own command)
                _command(task),
                stdin=subprocess.DEVNULL,
                stdout=self._out,
                stderr=self._err if heard is None else subprocess.PIPE,
                env=_environment(task, gpus),
                # The agent holds the lock as well: were we killed, it is free when both are gone.
                pass_fds=() if self._lock < 0 else (self._lock,),
            )
        except BaseException:
            self._close()
            raise
        self._pipe = self._process.stderr
        self._lines: Lines | None = None
        if self._pipe is not None and heard is not None:
            self._lines = Lines(self._pipe.fileno(), heard)

    def poll(self) -> Ended | None:
        """Return how it ended, None while it runs; the marker is written before the lock goes."""
        code = self._process.poll()
        if self._lines is not None:
            self._lines.read(end=code is not None)
        if code is None:
            return None
        try:
            return self._ended(code)
        finally:
            self._close()

    def stop(self) -> None:
        """Ask it to write a checkpoint and to end."""
        self._process.terminate()

    def kill(self) -> None:
        """End it at once; it goes on from its last checkpoint."""
        self._process.kill()
        self._process.wait()
        self._close()

    def _ended(self, code: int) -> Ended:
        if code != 0:
            lines = _text(self._err).strip().splitlines()
            last = lines[-1] if lines else "" if self._lines is None else self._lines.last
            return Ended(code, last.removeprefix("edge-stl: "))
        rows: list[dict[str, Any]] = json.loads(_text(self._out))["files"]
        if self._task.marker is not None:
            document = {"format": 1, "asks": self._task.asks, "files": rows}
            try:
                write_record(self._task.marker, json.dumps(document, indent=1).encode())
            except ResourceError as error:
                return Ended(error.exit_code, str(error))
        return Ended(code, rows=rows)

    def _close(self) -> None:
        self._out.close()
        self._err.close()
        if self._pipe is not None:
            self._pipe.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def run_task(task: Task) -> Ended:
    """Run one call to its end in this process; a KeyboardInterrupt asks the agent to stop."""
    # Who was started with SIGINT ignored (`nohup ... &`) hands that on to Ray's workers, and a
    # cancelled task would not notice: ray interrupts the main thread, which Python then ignores.
    if threading.current_thread() is threading.main_thread() and (
        signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    ):
        signal.signal(signal.SIGINT, signal.default_int_handler)
    asked = False
    try:
        running = Running(task)
    except EdgeStlError as error:
        return Ended(error.exit_code, str(error))
    while True:
        try:
            ended = running.poll()
            if ended is not None:
                return ended
            time.sleep(POLL)
        except KeyboardInterrupt:
            if asked:
                running.kill()
                raise
            asked = True
            running.stop()


def _command(task: Task) -> list[str]:
    leash = [sys.executable, "-I", "-S", _leash.__file__, str(os.getpid())]
    return [*leash, sys.executable, *_AGENT, *task.arguments]


def _environment(task: Task, gpus: str | None) -> Mapping[str, str]:
    # Ray sets this from the cores of a task, users from their habits; the bytes are the job's.
    # The agent has no parent of its own: how it ended is seen here.
    environment = {**os.environ, "OMP_NUM_THREADS": str(task.threads), ALONE: "1"}
    environment.pop("EDGE_STL_KEY", None)  # the key of one box is none for many
    if task.gpus == 0:
        gpus = ""
    if gpus is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpus
    return environment


def _hold(path: Path, name: str, patience: float) -> int:
    """Lock a file, made when missing; return its descriptor.

    Raises:
        ResourceError: it cannot be made, or somebody holds it for longer than ``patience`` s.
    """
    make_folder(path.parent, mode=0o700, option="--work")
    return take_lock(
        path,
        busy=f"{path}: another run is at {name}; expected one at a time. Wait for it, or give each "
        "machine its own part with --shard",
        instead="choose another --work",
        patience=patience,
    )


def _text(file: Any) -> str:
    file.seek(0)
    data: bytes = file.read()
    return data.decode(errors="replace")

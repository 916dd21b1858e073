"""Ray tasks: calls of the agent on a laptop's or a cluster's cores and GPUs.

A Ray task starts the agent as a process of its own, exactly as a local engine does: so a file has
the same bytes on either, and an agent that dies takes nobody with it.
"""

import io
import logging
import os
import signal
import socket
import warnings
from contextlib import redirect_stdout, suppress
from typing import Any, Self

from edge_stl.errors import EdgeStlError, Interrupted, ResourceError, UsageError
from edge_stl.fleet._task import Ended, Task, run_task


# Before ray is imported: it reads them then. It reports its use to its makers unless told not to.
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # A task that asks for no GPU sees none: `run_task` says so itself, and ray would warn.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_KNOCK = 10.0  # seconds
_STORE_BYTES = 80_000_000  # the least that ray accepts is 75 MB; tasks are a page of text


class RayEngine:
    """An engine of Ray tasks.

    Args:
        address: of a cluster, as ``ray.init`` takes it (``auto`` for the one that this machine
            belongs to); None starts Ray on this machine, for as long as the engine is open. A
            program that has started Ray itself keeps it.
        cpus: cores to use where Ray is started here.

    Raises:
        UsageError: ray is not installed.
    """

    def __init__(self, *, address: str | None, cpus: int) -> None:
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of ray's own making
                import ray
        except ImportError:
            raise UsageError("--engine ray needs ray: pip install 'edge-stl[fleet]'") from None
        self._ray: Any = ray
        self._address = address
        self._cpus = cpus
        self._remote: Any = None
        self._largest = 1.0
        self._most_gpus = 0.0
        self._running: dict[Any, Task] = {}
        self._ended: list[tuple[Task, Ended]] = []
        self._handler: Any = None
        self._ours = not ray.is_initialized()
        # Ray prints to stdout that a worker died, whatever its logging is told, from a thread of
        # its own. Stdout is the command's: one JSON object, and `attempts` in it says the same.
        self._mute = redirect_stdout(_Nowhere())

    def __enter__(self) -> Self:
        """Start Ray, or reach the cluster.

        Raises:
            ResourceError: there is no such cluster, or Ray cannot start.
        """
        self._handler = signal.getsignal(signal.SIGTERM)  # ray takes it for itself
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of ray's own making
                if self._ours:
                    self._init()
        except EdgeStlError:
            raise
        except Exception as error:  # noqa: BLE001  (ray's own errors here have no common root)
            where = f"--ray-address {self._address}" if self._address else "Ray on this machine"
            text = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ResourceError(
                f"{where}: cannot be used ({text}); expected a Ray cluster of version "
                f"{self._ray.__version__} that answers. Check the address, or leave it out"
            ) from None
        # `max_retries=0`: who counts attempts is `carry_out`, for both engines alike.
        self._remote = self._ray.remote(max_retries=0)(run_task)
        self._mute.__enter__()
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        self._largest = max((node.get("CPU", 0.0) for node in nodes), default=0.0)
        self._most_gpus = max((node.get("GPU", 0.0) for node in nodes), default=0.0)
        return self

    def _init(self) -> None:
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self._address is None:
            self._ray.init(
                address="local",
                num_cpus=self._cpus,
                include_dashboard=False,
                object_store_memory=_STORE_BYTES,
                **quiet,
            )
        else:
            _knock(self._address)
            self._ray.init(address=self._address, **quiet)

    def __exit__(self, *_: object) -> None:
        """Stop what still runs, and Ray."""
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        if self._ours:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._ray.shutdown()
        self._mute.__exit__(None, None, None)
        with suppress(TypeError, ValueError):  # a handler not of Python's, or another thread
            signal.signal(signal.SIGTERM, self._handler)

    def start(self, task: Task) -> None:
        """Take a task."""
        gpus = task.gpus or 0
        if gpus > self._most_gpus:
            self._ended.append((task, _no_gpu(task)))
            return
        # As locally: who wants more cores than any machine has gets a machine of its own.
        share = min(task.cpus, self._largest)
        remote = self._remote.options(num_cpus=share, num_gpus=gpus, name=task.name)
        self._running[remote.remote(task)] = task

    def ended(self, timeout: float) -> list[tuple[Task, Ended]]:
        """Return what ended."""
        told, self._ended = self._ended, []
        if told or not self._running:
            return told
        waiting = list(self._running)
        ready, _ = self._ray.wait(waiting, num_returns=1, timeout=timeout)
        if ready:
            ready, _ = self._ray.wait(waiting, num_returns=len(waiting), timeout=0)
        return [(self._running.pop(reference), self._outcome(reference)) for reference in ready]

    def stop(self) -> None:
        """Ask what runs to end."""
        for reference in self._running:
            self._ray.cancel(reference)  # a KeyboardInterrupt in `run_task`

    def _outcome(self, reference: Any) -> Ended:
        exceptions = self._ray.exceptions
        try:
            ended: Ended = self._ray.get(reference)
        except (exceptions.TaskCancelledError, KeyboardInterrupt):
            return Ended(Interrupted.exit_code, "stopped before it started")
        except exceptions.RayTaskError as error:
            cause = str(error.cause or error).strip().splitlines()[-1]
            said = f"on its Ray worker: {cause}. Install the same edge-stl[train] on every machine"
            return Ended(ResourceError.exit_code, said)
        except exceptions.RayError as error:  # the worker or its machine is gone
            return Ended(-signal.SIGKILL, f"its Ray worker died ({type(error).__name__})")
        return ended


def _knock(address: str) -> None:
    """Look whether anybody listens at ``HOST:PORT``: ray itself would try for minutes.

    Raises:
        OSError: nobody does.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK).close()


class _Nowhere(io.TextIOBase):
    """Takes text and forgets it."""

    def write(self, text: str) -> int:
        """Forget it."""
        return len(text)


def _no_gpu(task: Task) -> Ended:
    said = f"gpus {task.gpus:g}: no machine of the cluster has a GPU; expected one. Ask for "
    return Ended(ResourceError.exit_code, f"{said}device cpu")

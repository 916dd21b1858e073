"""What runs the calls of the agent: one interface, local processes or Ray behind it."""

import dataclasses
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, Protocol, Self

from device_agent.stop import StopRequest
from edge_stl.errors import UsageError
from edge_stl.fleet._task import Ended, Task


EngineName = Literal["local", "ray"]
RETRIES = 2

_LOOK = 0.2
_PATIENCE = 60.0  # seconds: an agent whose worker died writes its checkpoint and lets the lock go


class Engine(Protocol):
    """Runs tasks, as many at a time as there is room for; a context manager."""

    def __enter__(self) -> Self:
        """Get ready."""

    def __exit__(self, *_: object) -> None:
        """Leave nothing running."""

    def start(self, task: Task) -> None:
        """Take a task; it runs as soon as there is room."""

    def ended(self, timeout: float) -> list[tuple[Task, Ended]]:
        """Return what ended since the last call, waiting at most ``timeout`` seconds for some."""

    def stop(self) -> None:
        """Ask what runs to write a checkpoint and end; what waits ends without having run."""


def open_engine(name: EngineName, *, cpus: int, address: str | None = None) -> Engine:
    """Return an engine, not started yet.

    Args:
        name: ``local`` processes or ``ray``.
        cpus: cores to use on this machine.
        address: of a Ray cluster; None starts Ray on this machine.

    Raises:
        UsageError: an address without Ray.
    """
    if name == "ray":
        from edge_stl.fleet._ray import RayEngine  # an optional extra

        return RayEngine(address=address, cpus=cpus)
    if address is not None:
        raise UsageError(
            f"--ray-address {address}: is for --engine ray. Give both, or leave it out"
        )
    from edge_stl.fleet._local import LocalEngine

    return LocalEngine(cpus=cpus)


def carry_out(
    engine: Engine,
    tasks: Sequence[Task],
    *,
    told: Callable[[Task, Ended, int], bool],
    retries: int = RETRIES,
) -> bool:
    """Run tasks to their ends; a task whose process died is tried again.

    Args:
        engine: started.
        tasks: in the order in which they are to start.
        told: called with every task that ended, how, and after how many attempts; says whether to
            go on. Otherwise what runs is asked to stop.
        retries: further attempts for a task whose process was killed.

    Returns:
        whether a signal asked to stop. Then some tasks did not end well.
    """
    attempts = {task.name: 1 for task in tasks}
    left = len(attempts)
    go_on = True
    asked = False
    with _stop_request() as stop:
        for task in tasks:
            engine.start(task)
        while left:
            for task, ended in engine.ended(_LOOK):
                ending = asked or stop() or not go_on
                if ended.died and not ending and attempts[task.name] <= retries:
                    attempts[task.name] += 1
                    engine.start(dataclasses.replace(task, patience=_PATIENCE))
                    continue
                left -= 1
                go_on &= told(task, ended, attempts[task.name])
            if not asked and (stop() or not go_on):
                asked = True
                engine.stop()
        return stop()


def _stop_request() -> AbstractContextManager[Callable[[], bool]]:
    """Return who takes the signals over; outside the main thread nobody can."""
    if threading.current_thread() is threading.main_thread():
        return StopRequest()
    return nullcontext(lambda: False)

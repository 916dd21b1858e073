"""Where the service works: the plan as it is now, its work folder, held by this service alone."""

import os
from pathlib import Path

from device_agent.work import refuse_nesting, resolve_work
from edge_stl.durable import make_folder, take_lock
from edge_stl.errors import EdgeStlError
from edge_stl.plan import Plan, read_plan
from edge_stl.service._looks import Ledger
from edge_stl.service._settings import Settings


class Place:
    """A plan's work folder, with its lock and its ledger.

    The lock is the service's own, ``watch.lock``: the agent that it starts holds the folder's.

    Args:
        settings: of the service.
        plan: as it is now.
        box: the box id, where it is known already.

    Raises:
        UsageError: no box id, or one folder is inside another.
        ResourceError: another service watches here, or the folder cannot be made.
    """

    def __init__(self, settings: Settings, plan: Plan, *, box: str | None) -> None:
        self.plan = plan
        self.work, self.box = resolve_work(plan, work=settings.work, box=box)
        refuse_nesting(settings.out, self.work)
        make_folder(self.work, mode=0o700, option="--work")
        self._lock = _lock(self.work)
        try:
            self.ledger = Ledger(
                self.work,
                {"plan": plan.digest, "box": self.box, "options": "\0".join(settings.options)},
            )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let the folder go."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


class PlanFile:
    """The plan file, read again when its bytes change.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._bytes: bytes | None = None

    def other(self, digest: str) -> bool:
        """Return whether a whole plan of another digest is there; `changed` will tell it."""
        try:
            return self._path.read_bytes() != self._bytes and read_plan(self._path).digest != digest
        except (OSError, EdgeStlError):  # perhaps it is being copied
            return False

    def changed(self) -> Plan | EdgeStlError | None:
        """Return the plan or what is wrong with it where the file is another one, else None."""
        try:
            data = self._path.read_bytes()
        except OSError:
            data = b""
        if data == self._bytes:
            return None
        self._bytes = data
        try:
            return read_plan(self._path)
        except EdgeStlError as error:
            return error


def _lock(work: Path) -> int:
    return take_lock(
        work / "watch.lock",
        busy=f"{work}: another agent watch is working here; one work folder has one. Stop it, or "
        "choose another --work",
        instead="choose another --work",
    )

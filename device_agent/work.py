"""The work folder of a box: its lock, the box id it remembers, its checkpoints.

One folder belongs to one plan and one box, and to one agent at a time::

    <work>/box            the box id, remembered from the first run
    <work>/lock           held while an agent runs
    <work>/images/        the image cache
    <work>/<branch>/      checkpoints of a branch
"""

import os
import re
from pathlib import Path
from types import TracebackType
from typing import Self

from edge_stl.durable import make_folder, read_record, take_lock, write_record
from edge_stl.errors import UsageError
from edge_stl.plan import NAME_PATTERN, Plan


def default_work_root() -> Path:
    """Return the folder below which the work folders of all plans lie by default."""
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "edge-stl"


def default_work(plan: Plan) -> Path:
    """Return the folder under which the boxes of a plan work by default."""
    return default_work_root() / plan.digest


def resolve_work(plan: Plan, *, work: Path | None, box: str | None) -> tuple[Path, str]:
    """Return the work folder and the box id of a run.

    Args:
        plan: the plan.
        work: ``--work``, if given.
        box: ``--box``, if given; needed on the first run, remembered after.

    Raises:
        UsageError: the box id is missing, not a name, or not the one that the folder belongs to.
    """
    if box is not None and not re.fullmatch(NAME_PATTERN, box):
        raise UsageError(
            f"--box {box!r}: expected a name of lower-case letters, digits and '-', at most 32, "
            "like 'cam07'"
        )
    if work is not None:
        remembered = _remembered(work)
        if box is not None and remembered is not None and box != remembered:
            raise UsageError(
                f"{work}: belongs to box {remembered!r}, not {box!r}. Give each box its own --work"
            )
        chosen = box or remembered
        if chosen is None and os.path.lexists(work / _BOX):
            raise UsageError(
                f"{work / _BOX}: is damaged; expected the name of the box. Give it again with --box"
            )
        if chosen is None:
            raise UsageError(_NEEDS_BOX)
        return work, chosen
    base = default_work(plan)
    if box is not None:
        return base / box, box
    known = sorted(p.name for p in base.iterdir() if _remembered(p)) if base.is_dir() else []
    if len(known) == 1:
        return base / known[0], known[0]
    if known:
        raise UsageError(f"--box is needed: boxes {', '.join(known)} have worked on this plan here")
    raise UsageError(_NEEDS_BOX)


_BOX = "box"
_LONGEST = 64
_NEEDS_BOX = (
    "--box is needed on the first run: the name of this box, like 'cam07'. It is remembered"
)


def _remembered(work: Path) -> str | None:
    body = read_record(work / _BOX).body
    try:
        # A work folder of an earlier version has the name and nothing else in this file.
        name = (_plain(work / _BOX) if body is None else body).decode()
    except UnicodeDecodeError:
        return None
    return name[:-1] if re.fullmatch(rf"{NAME_PATTERN}\n", name) else None


def _plain(path: Path) -> bytes:
    try:
        return path.read_bytes() if path.is_file() and path.stat().st_size < _LONGEST else b""
    except OSError:
        return b""


def refuse_nesting(out: Path, work: Path) -> None:
    """Refuse an output folder inside the work folder or the other way round.

    What is in OUT leaves the box; what is in the work folder must not.

    Raises:
        UsageError: one is inside the other.
    """
    a, b = out.resolve(), work.resolve()
    if a == b or a in b.parents or b in a.parents:
        raise UsageError(
            f"-o {out} and the work folder {work}: one is inside the other; OUT is copied off the "
            "box, the work folder holds its images. Choose two separate folders"
        )


class WorkFolder:
    """The work folder, held by this agent alone while the context is open.

    Args:
        path: the folder; made with mode 0700 when missing.
        box: the box id, remembered in it.
    """

    def __init__(self, path: Path, box: str) -> None:
        self.path = path
        self._box = box
        self._lock = -1

    def __enter__(self) -> Self:
        """Make, lock and mark the folder.

        Raises:
            ResourceError: another agent holds it, or it cannot be made.
        """
        make_folder(self.path, mode=0o700, option="--work")
        self._lock = take_lock(
            self.path / "lock",
            busy=f"{self.path}: another agent is working here; one work folder has one agent. "
            "Wait for it, or choose another --work",
            instead="choose another --work",
        )
        try:
            if _remembered(self.path) != self._box:
                write_record(self.path / _BOX, f"{self._box}\n".encode())
        except BaseException:
            os.close(self._lock)  # nobody leaves a context that was not entered
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let the folder go."""
        os.close(self._lock)

    def branch(self, name: str) -> Path:
        """Return the folder of a branch's checkpoints, made when missing.

        Raises:
            ResourceError: it cannot be made.
        """
        folder = self.path / name
        make_folder(folder, mode=0o700, option="--work")
        return folder

"""A process that dies at its n-th call that changes the disk, and a parent that watches it."""

import gc
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from device_agent import _one_branch, checkpoint
from edge_stl.cli import main


DIED = 137
CALLS = (
    "chmod", "fdatasync", "fsync", "ftruncate", "link", "mkdir", "open", "remove", "rename",
    "replace", "rmdir", "symlink", "sync", "truncate", "unlink", "utime", "write",
)  # fmt: skip
_FLUSHES = {"fsync", "fdatasync", "sync"}
_CHANGES = os.O_CREAT | os.O_TRUNC


class Dying:
    """Counts the calls of this process that change the disk; dies before the ``at``-th one.

    A write is two points: before it, and with half of its bytes written.
    """

    def __init__(self, at: int, say: Callable[[int], None]) -> None:
        self.count, self.at, self.say = 0, at, say
        self.real = {name: getattr(os, name) for name in CALLS}

    def install(self) -> None:
        for name in CALLS:
            setattr(os, name, self._counted(name))

    def _counted(self, name: str) -> Callable[..., Any]:
        real = self.real[name]

        def call(*words: Any, **more: Any) -> Any:
            if name == "open" and not words[1] & _CHANGES:
                return real(*words, **more)
            if name == "write":
                if not stat.S_ISREG(os.fstat(words[0]).st_mode):
                    return real(*words)
                self.point()
                self.point(lambda: real(words[0], words[1][: len(words[1]) // 2]))
                return real(*words)
            self.point()
            return None if name in _FLUSHES else real(*words, **more)

        return call

    def point(self, first: Callable[[], object] = lambda: None) -> None:
        self.count += 1
        if self.count == self.at:
            first()
            self.say(self.count)
            os._exit(DIED)


def run(words: list[str], folder: Path, at: int = 0) -> tuple[int, int, dict[str, int]]:
    """Run a command in a child that dies at a point; 0 for never.

    Returns:
        its exit code; points it passed; the steps of the last checkpoint that it was told is
        written, by branch.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        kept: dict[str, int] = {}

        def say(count: int) -> None:
            real["write"](writing, json.dumps([count, kept]).encode())

        dying = Dying(at, say)
        real = dying.real
        code = 1
        try:
            gc.disable()  # what it would visit is shared with the parent until it is
            os.chdir(folder)
            _note_checkpoints(kept)
            dying.install()
            code = main(words)
            say(dying.count)
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    count, kept = json.loads(told) if told else (-1, {})
    return code, count, kept


def _note_checkpoints(kept: dict[str, int]) -> None:
    """Note of every branch how many steps its last acknowledged checkpoint has."""
    real = checkpoint.save

    def save(folder: Path, key: str, state: checkpoint.Checkpoint) -> None:
        real(folder, key, state)
        kept[folder.name] = int(state.tensors["steps_done"])

    _one_branch.checkpoint.save = save  # type: ignore[attr-defined]

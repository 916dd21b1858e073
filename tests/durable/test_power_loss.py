"""Whatever a power cut leaves on the disk, what was acknowledged is there, and nothing older.

A stand-in for the disk records what the routine asks of it. After every call all states are built
that POSIX allows to survive (bytes that were not flushed are missing, torn, zero or whole; any of
the names that were not flushed are undone, whatever came after them), and read with our own reader.
From each of them the run goes on, and the power goes again. After Pillai et al., "All file systems
are not created equal", OSDI 2014.
"""

import itertools
import os
import stat
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_stl.durable import _files, _records


FOLDER = Path("/d")
RECORD = FOLDER / "record"
Names = dict[str, int]


class Disk:
    """Stands in for `os`: one folder in memory, with what is flushed and what is not."""

    def __init__(self, files: dict[str, bytes], *, process: int = 100) -> None:
        self.path = types.SimpleNamespace(lexists=lambda p: str(p) in self.names)
        self.process = process
        self.live = dict(enumerate(files.values()))
        self.flushed = dict(self.live)
        self.names: Names = {name: i for i, name in enumerate(files)}
        self.flushed_names = dict(self.names)
        self.pending: list[dict[str, int | None]] = []
        self.opened: dict[int, list[int]] = {}  # descriptor -> [inode, position]; -1 is the folder
        self.after: Callable[[], None] = lambda: None

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("O_", "SEEK_")):
            return getattr(os, name)
        raise AttributeError(name)

    def getpid(self) -> int:
        return self.process

    def kill(self, process: int, _: int) -> None:
        if process != self.process:
            raise ProcessLookupError

    def listdir(self, _: Path) -> list[str]:
        return [Path(name).name for name in self.names]

    def open(self, path: Path, flags: int, _: int = 0) -> int:
        name = str(path)
        descriptor = len(self.opened) + 3
        if name == str(FOLDER):
            self.opened[descriptor] = [-1, 0]
            return descriptor
        if name not in self.names:
            if not flags & os.O_CREAT:
                raise FileNotFoundError(name)
            inode = len(self.live)
            self.live[inode] = self.flushed[inode] = b""
            self._rename({name: inode})
        inode = self.names[name]
        if flags & os.O_TRUNC:
            self.live[inode] = b""
        self.opened[descriptor] = [inode, 0]
        self.after()
        return descriptor

    def close(self, descriptor: int) -> None:
        self.opened[descriptor] = [-2, 0]

    def fstat(self, descriptor: int) -> Any:
        inode, _ = self.opened[descriptor]
        return types.SimpleNamespace(st_mode=stat.S_IFREG, st_size=len(self.live[inode]))

    def read(self, descriptor: int, count: int) -> bytes:
        inode, at = self.opened[descriptor]
        data = self.live[inode][at : at + count]
        self.opened[descriptor][1] += len(data)
        return data

    def write(self, descriptor: int, data: memoryview) -> int:
        inode, at = self.opened[descriptor]
        self.live[inode] = self.live[inode][:at] + bytes(data)
        self.opened[descriptor][1] += len(data)
        self.after()
        return len(data)

    def fsync(self, descriptor: int) -> None:
        inode, _ = self.opened[descriptor]
        if inode == -1:
            self.flushed_names = dict(self.names)
            self.pending.clear()
        else:
            self.flushed[inode] = self.live[inode]
        self.after()

    def replace(self, source: Path, target: Path) -> None:
        if source != target:
            if str(source) not in self.names:
                raise FileNotFoundError(str(source))
            self._rename({str(source): None, str(target): self.names[str(source)]})
        self.after()

    def unlink(self, path: Path) -> None:
        if str(path) not in self.names:
            raise FileNotFoundError(str(path))
        self._rename({str(path): None})
        self.after()

    def _rename(self, change: dict[str, int | None]) -> None:
        self.pending.append(change)
        self.names = _applied(self.names, change)

    def survivors(self) -> Iterator[dict[str, bytes]]:
        """Yield every content of the folder that a power cut may leave now."""
        count = len(self.pending)
        for happened in itertools.product((False, True), repeat=count):
            names = self.flushed_names
            for change in itertools.compress(self.pending, happened):
                names = _applied(names, change)
            outcomes = [self._outcomes(inode) for inode in names.values()]
            for contents in itertools.product(*outcomes):
                yield dict(zip(names, contents, strict=True))

    def _outcomes(self, inode: int) -> set[bytes]:
        live, flushed = self.live[inode], self.flushed[inode]
        if live == flushed:
            return {live}
        return {flushed, live[: len(live) // 2], bytes(len(live)), live}


def _applied(names: Names, change: dict[str, int | None]) -> Names:
    both = {**names, **change}
    return {name: inode for name, inode in both.items() if inode is not None}


class Routine:
    """Our routine on a disk of ours, perhaps with lines of its source changed."""

    def __init__(self, *changes: tuple[str, str]) -> None:
        self.files, self.records = (
            types.ModuleType("files"),
            types.ModuleType("records"),
        )
        sources = [Path(str(m.__file__)).read_text() for m in (_files, _records)]
        for old, new in changes:
            assert sum(source.count(old) for source in sources) == 1, old
            sources = [source.replace(old, new) for source in sources]
        for module, source in zip((self.files, self.records), sources, strict=True):
            module.__dict__["__name__"] = f"edge_stl.durable.{module.__name__}"
            sys.modules[module.__name__] = module  # dataclasses look their module up
            exec(compile(source, module.__name__, "exec"), module.__dict__)  # noqa: S102
        for name in ("open_regular", "remove", "write_durably"):
            setattr(self.records, name, getattr(self.files, name))

    def on(self, disk: Disk) -> None:
        self.files.os = self.records.os = disk  # type: ignore[attr-defined]

    def write(self, kind: str, number: int) -> None:
        if kind == "record":
            self.records.write_record(RECORD, body(number))
        else:
            self.files.write_durably(RECORD, body(number))

    def read(self, kind: str, files: dict[str, bytes]) -> int:
        """Return which content is there; 0 for none, -1 for something that nobody wrote."""
        self.on(Disk(files))
        plain = files.get(str(RECORD))
        data = self.records.read_record(RECORD).body if kind == "record" else plain
        if data is None:
            return 0
        return next((n for n in range(1, 9) if data == body(n)), -1)


def body(number: int) -> bytes:
    return f"content {number} ".encode() * 3


def explore(
    routine: Routine, kind: str, start: dict[str, bytes], *, known: int, cuts: int
) -> dict[str, int]:
    """Write twice with a power cut after every call, go on from every state, and count them."""
    found = {"states": 0, "lost": 0, "older": 0, "foreign": 0}
    todo, seen = [(start, known, cuts)], set()
    while todo:
        files, acknowledged, left = todo.pop()
        disk = Disk(files, process=100 + left)
        survivors: set[frozenset[tuple[str, bytes]]] = set()

        def cut(disk: Disk = disk, survivors: set[Any] = survivors) -> None:
            for state in disk.survivors():
                found["states"] += 1
                survivors.add(frozenset(state.items()))

        for number in (acknowledged + 1, acknowledged + 2):
            survivors.clear()
            disk.after = cut
            routine.on(disk)
            routine.write(kind, number)
            for state in survivors:
                got = routine.read(kind, dict(state))
                found["foreign"] += got < 0 or got > number
                found["lost"] += got == 0 and acknowledged > 0
                found["older"] += 0 < got < acknowledged
                if left > 1 and got > 0 and (state, got, left) not in seen:
                    seen.add((state, got, left))
                    todo.append((dict(state), got, left - 1))
            acknowledged = number
            survivors.clear()
            cut()
            for state in survivors:
                got = routine.read(kind, dict(state))
                found["foreign"] += got < 0
                found["lost"] += got == 0
                found["older"] += 0 < got < number
    return found


def whole(number: int) -> bytes:
    disk = Disk({})
    routine = Routine()
    routine.on(disk)
    routine.write("record", number)
    return disk.live[disk.names[str(RECORD)]]


DAMAGED = {str(RECORD): b"not what was written", f"{RECORD}.previous": whole(1)}


@pytest.mark.parametrize("kind", ["record", "file"])
def test_no_power_cut_loses_what_was_acknowledged(kind: str):
    found = explore(Routine(), kind, {}, known=0, cuts=3)

    assert found.pop("states") >= 1000
    assert found == {"lost": 0, "older": 0, "foreign": 0}


def test_the_generation_before_survives_the_writing_over_a_damaged_one():
    found = explore(Routine(), "record", DAMAGED, known=1, cuts=2)

    assert found.pop("states") > 100
    assert found == {"lost": 0, "older": 0, "foreign": 0}


NO_GENERATIONS = ("        if keep is not None:\n", "        if False:\n")
MUTANTS = {
    "no file fsync": [
        (
            "_write_all(descriptor, data)\n        os.fsync(descriptor)",
            "_write_all(descriptor, data)",
        )
    ],
    "no folder fsync": [
        (
            "        _sync_folder(path.parent)\n    except OSError as error:\n        with",
            "    except OSError as error:\n        with",
        )
    ],
    "write in place": [
        (
            'path.with_name(f".{path.name}.{os.getpid()}.tmp")\n    try:\n        remove',
            "path\n    try:\n        remove",
        ),
        NO_GENERATIONS,
    ],
    "unlink first": [
        (
            "        if keep is not None:\n            os.replace(path, keep)",
            "        with suppress(FileNotFoundError):\n            os.unlink(path)",
        ),
    ],
}


@pytest.mark.parametrize("kind", ["record", "file"])
@pytest.mark.parametrize("name", MUTANTS)
def test_a_routine_without_one_of_its_steps_is_caught(name: str, kind: str):
    found = explore(Routine(*MUTANTS[name]), kind, {}, known=0, cuts=1)

    assert found["lost"] + found["older"] + found["foreign"] > 0


def test_keeping_a_damaged_generation_is_caught():
    careless = ("previous_of(path) if _proved(path) is not None else None", "previous_of(path)")

    found = explore(Routine(careless), "record", DAMAGED, known=1, cuts=1)

    assert found["lost"] > 0

"""Dies at every call that changes the disk, goes on, and compares with a run that never died.

A program of its own, because it forks: everything is imported and run once, then every run is a
child. ``python crash_points.py INPUTS FOLDER [--points N] [--pairs N] [--part I/N]`` prints one
JSON object. After the crash tests of SQLite (test6.c): the 1st, 2nd, … n-th call until nothing is
left to die at, and after each the old or the new, never a third.

A killed process loses nothing that it handed to the system, so fsync is counted and not done here;
what a power cut takes is the business of ``tests/durable/test_power_loss.py``.
"""

import argparse
import contextlib
import gc
import hashlib
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from dying import DIED, run

from device_agent import _cache_build, _steps
from edge_stl.cli import main
from edge_stl.durable import read_record


GENERATIONS = 3
"""Files of a branch in its work folder: the newest, the one before, and one half-written."""


@dataclass
class Operation:
    """A command, where it starts, and what it must end with.

    Attributes:
        name: for the table.
        words: the command line, relative to its own folder.
        start: the folder that it starts from, copied for every run.
        finals: pattern of the files that count, in its folder.
        refused: exit code where the command was done already and is given once more.
    """

    name: str
    words: list[str]
    start: Path
    finals: str
    refused: int = 0
    points: int = 0
    recovery: int = 0
    old: dict[str, str] = field(default_factory=dict)
    new: dict[str, str] = field(default_factory=dict)
    listing: set[str] = field(default_factory=set)
    size: int = 0


def digests(folder: Path, pattern: str) -> dict[str, str]:
    """Return the files that count: what has a hidden name does not."""
    return {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.glob(pattern))
        if not p.name.startswith(".")
    }


def listing(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


def size(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def copied(start: Path, target: Path) -> Path:
    return Path(shutil.copytree(start, target))


def operations(inputs: Path, folder: Path) -> Iterator[Operation]:
    """Yield what a box and a desk write, each from where it starts."""
    plan, more, fleet = (str(inputs / name) for name in ("plan.toml", "more.toml", "fleet.onnx"))
    photos, later, holdout = (str(inputs / name) for name in ("photos", "later", "holdout"))
    branches = sorted(str(p) for p in (inputs / "branches").iterdir())
    box = ["--box", "cam07", "--work", "work", "-o", "out", "--threads", "1", "--branch", "all"]
    empty = folder / "empty"
    empty.mkdir()
    train = ["train", plan, photos, *box]
    yield Operation("train", train, empty, "out/*")
    trained = folder / "trained"
    trained.mkdir()
    _ok(run(train, trained)[0])
    again = ["train", more, later, *box]
    yield Operation("train over an old run", again, trained, "out/*")
    yield Operation("export", again, _before_export(again, trained, folder), "out/*")
    merge = ["merge", *branches, "-o", "ensemble.onnx"]
    merged = folder / "merged"
    merged.mkdir()
    _ok(run(merge, merged)[0])
    cascade = [*merge, "--cascade", "--cascade-loss", "1", "--holdout", holdout]
    yield Operation("merge", merge, empty, "*.onnx")
    yield Operation("merge --cascade", cascade, merged, "*.onnx")
    remove = ["merge", fleet, "--remove", "box1", "-o", "ensemble.onnx"]
    yield Operation("merge --remove", remove, merged, "*.onnx")
    yield Operation("split", ["split", fleet, "-o", "parts/of/it"], empty, "parts/of/it/*")
    new = ["plan", "new", "--classes", "bus,car", "--resolution", "8", "--levels", "1"]
    yield Operation("plan new", [*new, "-o", "plan.toml"], empty, "*.toml", refused=2)


def _before_export(words: list[str], trained: Path, folder: Path) -> Path:
    """Return a folder whose branches are trained to the end, with the files of an earlier run."""
    # the last file is written last: what was exported before goes back to what it was
    ready = copied(trained, folder / "ready")
    _ok(run(words, ready)[0])
    shutil.rmtree(ready / "out")
    copied(trained / "out", ready / "out")
    return ready


def _ok(code: int) -> None:
    if code:
        sys.exit(f"a run that nobody stopped ended with {code}")


def measure(operation: Operation, folder: Path) -> None:
    """Run it undisturbed: what it must end with, and how many points there are."""
    whole = copied(operation.start, folder / "whole")
    operation.old = digests(whole, operation.finals)
    code, operation.points, _ = run(operation.words, whole)
    _ok(code)
    operation.new = digests(whole, operation.finals)
    operation.listing, operation.size = listing(whole), size(whole)
    shutil.rmtree(whole)


def problems_of_death(operation: Operation, folder: Path, kept: dict[str, int]) -> Iterator[str]:
    """Yield what is wrong with the folder that a death left."""
    for name, digest in digests(folder, operation.finals).items():
        if digest not in {operation.old.get(name), operation.new.get(name)}:
            yield f"{name} is neither the old nor the new file"
    if size(folder) > 3 * operation.size:
        yield f"{size(folder)} bytes, a whole run needs {operation.size}"
    work = folder / "work"
    records = [work / "box", *work.glob("*/checkpoint.safetensors"), *work.glob("images/*.json")]
    for record in filter(Path.exists, records):
        read = read_record(record)
        if read.body is None or read.note is not None:
            yield f"{record.relative_to(folder)} is not whole: {read.note}"
    for record in work.glob("*/checkpoint.safetensors"):
        names = sorted(p.name for p in record.parent.iterdir())
        if len(names) > GENERATIONS:
            yield f"{record.parent.name} holds {names}"
    for name, steps in kept.items():
        done = _steps_done(work / name / "checkpoint.safetensors")
        if done < steps:
            yield f"a checkpoint of {name} with {steps} steps was acknowledged; {done} are there"


def _steps_done(path: Path) -> int:
    from safetensors.numpy import load

    return int(load(read_record(path).body or b"")["steps_done"])


def problems_of_recovery(operation: Operation, folder: Path) -> Iterator[str]:
    """Run the same command to its end, and yield what is not as if nothing had happened."""
    done = digests(folder, operation.finals) == operation.new
    code, _, _ = run(operation.words, folder)
    if code != 0 and not (done and code == operation.refused):
        yield f"the same command ended with {code}"
    if digests(folder, operation.finals) != operation.new:
        yield "other files than an undisturbed run"
    if listing(folder) != operation.listing:
        yield f"other names than an undisturbed run: {listing(folder) ^ operation.listing}"


def die_at(operation: Operation, at: int, folder: Path) -> tuple[int, list[str]]:
    """Die once, and return the exit code and what is wrong then."""
    code, _, kept = run(operation.words, folder, at)
    return code, list(problems_of_death(operation, folder, kept))


def try_point(operation: Operation, at: int, folder: Path, seconds: list[int]) -> list[str]:
    """Die at a point, once more in the recovery at each of ``seconds``, and recover."""
    bad: list[str] = []
    here = copied(operation.start, folder / "here")
    code, found = die_at(operation, at, here)
    if code != DIED:
        bad.append(f"ended with {code}, not in death")
    bad += found
    for second in seconds:
        twice = copied(here, folder / "twice")
        bad += die_at(operation, second, twice)[1]
        bad += problems_of_recovery(operation, twice)
        shutil.rmtree(twice)
    if not seconds:
        bad += problems_of_recovery(operation, here)
    shutil.rmtree(here)
    return [f"{operation.name}, point {at} {seconds or ''}: {problem}" for problem in bad]


def spread(points: list[int], wanted: int) -> list[list[int]]:
    """Return which points of each operation are tried: evenly, and some of each."""
    if wanted <= 0 or wanted >= sum(points):
        return [list(range(1, n + 1)) for n in points]
    least = [min(n, 6) for n in points]
    over = [n - m for n, m in zip(points, least, strict=True)]
    left = wanted - sum(least)
    shares = np.diff(np.floor(np.cumsum([0, *over]) * left / sum(over)).astype(int))
    return [
        [int(x) for x in np.linspace(1, n, m + share)]
        for n, m, share in zip(points, least, shares, strict=True)
    ]


def explore(inputs: Path, folder: Path, *, points: int, pairs: int, part: tuple[int, int]) -> Any:
    """Die at points of every operation, and return the counts and everything that was wrong."""
    began = time.monotonic()
    todo = list(operations(inputs, folder))
    for operation in todo:
        measure(operation, folder)
    tried = spread([o.points for o in todo], points)
    every = [(o, at) for o, chosen in zip(todo, tried, strict=True) for at in chosen]
    mine = every[part[0] - 1 :: part[1]]
    bad: list[str] = []
    for operation, at in mine:
        bad += try_point(operation, at, folder, [])
    draws = np.random.default_rng(20261122)
    double = [every[i] for i in draws.choice(len(every), min(pairs, len(every)), replace=False)]
    double = double[part[0] - 1 :: part[1]]
    for operation, at in double:
        seconds = [int(n) for n in draws.integers(1, max(2, operation.points - at), 2)]
        bad += try_point(operation, at, folder, seconds)
    return {
        "points": {o.name: o.points for o in todo},
        "tried": {o.name: sum(p is o for p, _ in mine) for o in todo},
        "pairs": 2 * len(double),
        "bad": bad,
        "seconds": round(time.monotonic() - began, 1),
    }


def warm(inputs: Path, folder: Path) -> None:
    """Run everything once in this process, so that no child has to import anything."""
    _steps.CHECKPOINT_SECONDS = -1  # every step is one that a death may not take
    _cache_build._SAVE_EVERY = -1  # and every image
    import onnxruntime  # noqa: F401  (starts a thread that sleeps until something ends)

    alone = _threads()
    folder.mkdir()
    before = Path.cwd()
    for operation in operations(inputs, folder):
        here = copied(operation.start, folder / "here")
        os.chdir(here)
        _ok(main(operation.words))
        os.chdir(before)
        shutil.rmtree(here)
    if _threads() != alone:
        sys.exit(f"{_threads()} threads, before it were {alone}; a fork would lose their work")
    gc.collect()
    gc.freeze()


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))  # noqa: PTH208


def console() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("inputs", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--points", type=int, default=0)
    parser.add_argument("--pairs", type=int, default=0)
    parser.add_argument("--part", default="1/1")
    given = parser.parse_args()
    inputs, folder = given.inputs.resolve(), given.folder.resolve()
    part = tuple(int(n) for n in given.part.split("/"))
    quiet = io.StringIO()
    folder.mkdir(parents=True)
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        try:
            warm(inputs, folder / "warm")
            (folder / "runs").mkdir()
            found = explore(
                inputs, folder / "runs", points=given.points, pairs=given.pairs, part=part
            )
        except SystemExit as end:
            sys.exit(f"{end}: {quiet.getvalue()[-500:]}")
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    console()

"""Boxes on one machine or a cluster: every box is the real agent in a process of its own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_stl.errors import EdgeStlError, Interrupted
from edge_stl.fleet._engine import Engine, carry_out, open_engine
from edge_stl.fleet._task import Ended, Task


@dataclass(frozen=True)
class Box:
    """One box of a fleet.

    Attributes:
        name: its box id.
        images: its image folder.
        out: where its branch files go.
        work: its work folder.
        branch: ``auto``, ``all`` or a branch's name.
        options: more arguments of ``edge-stl train``, like ``("--epochs", "3")``.
    """

    name: str
    images: Path
    out: Path
    work: Path
    branch: str = "auto"
    options: tuple[str, ...] = field(default=())

    def arguments(self, plan: Path, *, threads: int) -> tuple[str, ...]:
        """Return the arguments of ``edge-stl`` that train this box; paths are made absolute."""
        return (
            "train", str(plan.absolute()), str(self.images.absolute()),
            "-o", str(self.out.absolute()), "--box", self.name, "--branch", self.branch,
            "--work", str(self.work.absolute()), "--threads", str(threads), "--json",
            *self.options,
        )  # fmt: skip


def train_boxes(
    plan: Path,
    boxes: Sequence[Box],
    *,
    jobs: int,
    threads: int = 1,
    done: Callable[[Box, list[dict[str, Any]]], None] | None = None,
    engine: Engine | None = None,
) -> list[list[dict[str, Any]]]:
    """Run ``edge-stl train`` for every box.

    Args:
        plan: the plan file.
        boxes: the boxes, started in this order: those with the most work first ends soonest.
        jobs: processes at a time, where there is no ``engine``.
        threads: torch threads of each.
        done: called when a box has finished, with its rows.
        engine: what runs them, started; None is local processes.

    Returns:
        per box the rows of ``train --json``.

    Raises:
        Interrupted: the run was stopped; every box kept its checkpoint.
        EdgeStlError: a box failed; the sentence is that of its agent.
    """
    if engine is None:
        with open_engine("local", cpus=jobs * threads) as own:
            return train_boxes(plan, boxes, jobs=jobs, threads=threads, done=done, engine=own)
    results: dict[str, list[dict[str, Any]]] = {}
    failures: list[EdgeStlError] = []
    named = {f"box {box.name}": box for box in boxes}

    def told(task: Task, ended: Ended, attempts: int) -> bool:
        box = named[task.name]
        if ended.code == 0:
            results[box.name] = ended.rows
            if done is not None:
                done(box, ended.rows)
            return True
        failures.append(ended.error(task.name, attempts=attempts))
        return False

    tasks = [
        Task(
            name=name,
            arguments=box.arguments(plan, threads=threads),
            threads=threads,
            cpus=threads,
            lock=box.work.absolute().with_name(f".{box.work.name}.lock"),
        )
        for name, box in named.items()
    ]
    stopped = carry_out(engine, tasks, told=told)
    if stopped:
        raise Interrupted(
            f"stopped after {len(results)} of {len(boxes)} boxes; all of it is kept. The same "
            "command goes on there"
        )
    if failures:  # the first: those after it were asked to stop
        raise failures[0]
    return [results[box.name] for box in boxes]

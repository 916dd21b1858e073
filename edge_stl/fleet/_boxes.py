"""Boxes on one machine: every box is the real agent in a process of its own."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_stl.errors import EdgeStlError, Interrupted


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


def train_boxes(
    plan: Path,
    boxes: Sequence[Box],
    *,
    jobs: int,
    threads: int = 1,
    done: Callable[[Box, list[dict[str, Any]]], None] | None = None,
) -> list[list[dict[str, Any]]]:
    """Run ``edge-stl train`` for every box, ``jobs`` of them at a time.

    Args:
        plan: the plan file.
        boxes: the boxes, started in this order: those with the most work first ends soonest.
        jobs: processes at a time.
        threads: torch threads of each.
        done: called when a box has finished, with its rows.

    Returns:
        per box the rows of ``train --json``.

    Raises:
        Interrupted: the run was stopped; every box kept its checkpoint.
        EdgeStlError: a box failed; the sentence is that of its agent.
    """
    results: dict[str, list[dict[str, Any]]] = {}
    with ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
        running = {pool.submit(_train, plan, box, threads): box for box in boxes}
        try:
            for future in as_completed(running):
                box = running[future]
                results[box.name] = future.result()
                if done is not None:
                    done(box, results[box.name])
        except BaseException:
            # Those that run finish or stop by the same signal; those that wait never start.
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return [results[box.name] for box in boxes]


def _train(plan: Path, box: Box, threads: int) -> list[dict[str, Any]]:
    command = [
        sys.executable, "-m", "edge_stl", "train", str(plan), str(box.images),
        "-o", str(box.out), "--box", box.name, "--branch", box.branch,
        "--work", str(box.work), "--threads", str(threads), "--json", *box.options,
    ]  # fmt: skip
    ran = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if ran.returncode == 0:
        files: list[dict[str, Any]] = json.loads(ran.stdout)["files"]
        return files
    lines = ran.stderr.strip().splitlines()
    said = lines[-1].removeprefix("edge-stl: ") if lines else f"exit code {ran.returncode}"
    if ran.returncode in (Interrupted.exit_code, -2, -15):
        raise Interrupted(f"box {box.name}: {said}")
    error = EdgeStlError(f"box {box.name}: {said}")
    error.exit_code = ran.returncode if ran.returncode > 0 else 1
    raise error

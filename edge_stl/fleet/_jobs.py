"""Many jobs, each done once: what a job asks, its marker, and running what is left.

A job's folder holds::

    <folder>/lock         locked while the job runs
    <folder>/done.json    a record, written when it is done: what it asked, its rows, their sha256
    <folder>/work/        the agent's work folder, unless the job names another
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edge_stl import __version__
from edge_stl.durable import read_record
from edge_stl.errors import EdgeStlError, Interrupted
from edge_stl.fleet._engine import RETRIES, Engine, carry_out
from edge_stl.fleet._job_file import Job
from edge_stl.fleet._task import Ended, Task
from edge_stl.images import scan
from edge_stl.plan import read_plan


@dataclass(frozen=True)
class JobResult:
    """How a job ended; the row of ``train --jobs --json``.

    Attributes:
        name: the job's.
        line: its line in the jobs file.
        state: ``done`` or ``failed``.
        already: whether an earlier run had done it.
        attempts: how often its agent was started; 0 where it did not come to that.
        exit_code: 0, or that of the failure.
        error: the sentence of the failure.
        files: the rows of ``train --json``.
    """

    name: str
    line: int
    state: str
    already: bool = False
    attempts: int = 0
    exit_code: int = 0
    error: str | None = None
    files: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return asdict(self)


def run_jobs(
    jobs: Sequence[Job],
    *,
    engine: Engine,
    retries: int = RETRIES,
    told: Callable[[int, int], None] | None = None,
) -> list[JobResult]:
    """Do what is left of some jobs; one that fails does not stop the others.

    Args:
        jobs: the jobs.
        engine: what runs them, started.
        retries: further attempts for a job whose process was killed.
        told: called with how many jobs have ended, and how many there are.

    Returns:
        one result per job, in their order.

    Raises:
        Interrupted: a signal asked to stop; the same call goes on.
    """
    results: dict[str, JobResult] = {}
    named = {f"job {job.name}": job for job in jobs}

    def count() -> None:
        if told is not None:
            told(len(results), len(jobs))

    def end(task: Task, ended: Ended, attempts: int) -> bool:
        job = named[task.name]
        if ended.code == 0:
            result = JobResult(job.name, job.line, "done", attempts=attempts, files=ended.rows)
        else:
            error = ended.error(task.name, attempts=attempts)
            result = _failed(job, error, attempts=attempts)
        results[job.name] = result
        count()
        return True

    count()
    tasks = []
    for name, job in named.items():
        try:
            asks = digest(job)
        except EdgeStlError as error:
            results[job.name] = _failed(job, type(error)(f"{name}: {error}"))
            continue
        rows = done_already(job, asks)
        if rows is None:
            tasks.append(task_of(name, job, asks))
        else:
            results[job.name] = JobResult(job.name, job.line, "done", already=True, files=rows)
    count()
    if carry_out(engine, tasks, told=end, retries=retries):
        done = sum(result.state == "done" for result in results.values())
        raise Interrupted(
            f"stopped; {done} of {len(jobs)} jobs are done, and what the others did is kept. The "
            "same command goes on there"
        )
    return [results[job.name] for job in jobs]


def digest(job: Job) -> str:
    """Return the sha256 (hex) of what a job asks; another digest is another job.

    Where its files go is not in it: whether they are there is looked up.

    Raises:
        UsageError: its plan cannot be read.
        DataError: its images cannot be scanned.
    """
    plan = read_plan(job.plan)
    asked = job.asked
    facts = {
        "version": __version__,
        "plan": plan.digest,
        "images": scan(job.images, plan.classes).digest,
        "box": asked.box,
        "branch": asked.branch,
        "epochs": asked.epochs,
        "seed": asked.seed,
        "threads": asked.threads,
        "device": asked.device,
        "gpus": job.gpus > 0,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def done_already(job: Job, asks: str) -> list[dict[str, Any]] | None:
    """Return the rows of a job that is done: asked the same, and its files are there, unchanged.

    Returns:
        None where it has to be done, also when its marker is damaged.
    """
    body = read_record(_marker(job)).body
    if body is None:
        return None
    try:
        marker = json.loads(body)
        if (marker["format"], marker["asks"]) != (1, asks) or not marker["files"]:
            return None
        rows: list[dict[str, Any]] = marker["files"]
        for row in rows:
            path = job.out / Path(row["file"]).name
            if _sha256(path) != row["sha256"]:
                return None
            row["file"] = str(path)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return rows


def task_of(name: str, job: Job, asks: str) -> Task:
    """Return the call of the agent that does a job."""
    asked = job.asked
    options = [] if asked.epochs is None else ["--epochs", str(asked.epochs)]
    options += [] if asked.seed is None else ["--seed", str(asked.seed)]
    return Task(
        name=name,
        arguments=(
            "train", str(job.plan), str(job.images), "-o", str(job.out), "--box", asked.box,
            "--branch", asked.branch, "--work", str(job.work), "--threads", str(asked.threads),
            "--device", asked.device, "--json", *options,
        ),
        threads=asked.threads,
        cpus=job.cpus,
        gpus=job.gpus,
        lock=job.folder / "lock",
        marker=_marker(job),
        asks=asks,
    )  # fmt: skip


def _marker(job: Job) -> Path:
    return job.folder / "done.json"


def _failed(job: Job, error: EdgeStlError, *, attempts: int = 0) -> JobResult:
    return JobResult(
        job.name,
        job.line,
        "failed",
        attempts=attempts,
        exit_code=error.exit_code,
        error=str(error),
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

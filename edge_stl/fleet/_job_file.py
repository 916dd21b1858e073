"""A jobs file: one JSON object per line, each one call of the agent."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edge_stl.errors import UsageError
from edge_stl.plan import NAME_PATTERN, describe


_MAX_LINE = 100_000  # characters; a job is a few hundred
_JOB_NAME = r"^[a-z0-9][a-z0-9.-]{0,99}$"

Text = Annotated[str, Field(min_length=1, pattern=r"^[^\x00]+$")]
Name = Annotated[str, Field(pattern=f"^{NAME_PATTERN}$")]


class JobLine(BaseModel):
    """One line of a jobs file; paths are relative to the file.

    Attributes:
        plan: the plan file.
        images: the box's image folder.
        out: folder for the branch files.
        box: the box id.
        branch: ``auto``, ``all`` or a branch's name.
        name: of the job and its folder; by default the box, with the branch where one is named.
        epochs: instead of the plan's.
        seed: instead of the plan's.
        threads: of torch; part of the job, because the file's last digits depend on it.
        device: ``cpu``, ``cuda`` or ``auto``.
        work: the agent's work folder; by default in the job's folder.
        cpus: cores to keep for it; by default ``threads``.
        gpus: GPUs to keep for it, 0 to 1; by default 1 for ``cuda``, else 0. With 0 it sees none.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    plan: Text
    images: Text
    out: Text
    box: Name
    branch: Name = "auto"
    name: Annotated[str, Field(pattern=_JOB_NAME)] | None = None
    epochs: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=0)] | None = None
    threads: Annotated[int, Field(ge=1, le=4096)] = 1
    device: Literal["cpu", "cuda", "auto"] = "cpu"
    work: Text | None = None
    cpus: Annotated[float, Field(gt=0, le=4096)] | None = None
    gpus: Annotated[float, Field(ge=0, le=1)] | None = None

    @model_validator(mode="after")
    def _devices_agree(self) -> "JobLine":
        if self.device == "cuda" and self.gpus == 0:
            raise ValueError("gpus: 0 hides the GPU that device 'cuda' needs; expected more than 0")
        if self.device == "cpu" and self.gpus:
            raise ValueError(
                f"gpus: {self.gpus:g} for device 'cpu', which uses none; expected 0, or device "
                "'cuda' or 'auto'"
            )
        return self


@dataclass(frozen=True)
class Job:
    """One job, with absolute paths and every default filled in.

    Attributes:
        name: unique in its file.
        line: its line there, from 1.
        asked: what the line said.
        plan: the plan file.
        images: the image folder.
        out: folder for the branch files.
        folder: the job's own: its lock and its marker.
        work: the agent's work folder.
        cpus: cores to keep for it.
        gpus: GPUs to keep for it.
    """

    name: str
    line: int
    asked: JobLine
    plan: Path
    images: Path
    out: Path
    folder: Path
    work: Path
    cpus: float
    gpus: float


def read_jobs(path: Path, *, folder: Path) -> list[Job]:
    """Read a jobs file.

    Args:
        path: the file.
        folder: under it every job gets a folder of its name.

    Raises:
        UsageError: it cannot be read, a line is no job, or two jobs are in each other's way.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read ({error.strerror}); expected a file with one JSON object per "
            "line. See docs/jobs.md"
        ) from None
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path}: is not UTF-8 text ({error.reason} at byte {error.start}); expected one JSON "
            "object per line"
        ) from None
    jobs = [
        _job(_line(line, where=f"{path}:{number}"), number, path, folder)
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip()
    ]
    if not jobs:
        raise UsageError(f"{path}: holds no job; expected one JSON object per line")
    _refuse_rivals(jobs, path)
    return jobs


def take_shard(jobs: Sequence[Job], shard: str) -> list[Job]:
    """Return the jobs of one machine of several: the i-th of every n.

    Args:
        jobs: all.
        shard: ``i/n``, i from 1 to n.

    Raises:
        UsageError: it is no such thing.
    """
    first, _, count = shard.partition("/")
    # `isdecimal` also takes other scripts' digits, which `int` reads just as well.
    if not (first.isdecimal() and count.isdecimal() and 1 <= int(first) <= int(count)):
        raise UsageError(
            f"--shard {shard}: is no part; expected i/n with i from 1 to n, like 1/4 on the first "
            "of four machines and 4/4 on the last"
        )
    return list(jobs[int(first) - 1 :: int(count)])


def _line(line: str, *, where: str) -> JobLine:
    if len(line) > _MAX_LINE:
        raise UsageError(f"{where}: {len(line)} characters; expected at most {_MAX_LINE} in a line")
    try:
        document = json.loads(line, object_pairs_hook=_no_twice, parse_constant=_no_constant)
        if not isinstance(document, dict):
            raise ValueError("it is no JSON object")  # noqa: TRY004, TRY301  (one way out)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{where}: cannot be read ({error}); expected one JSON object per line, like "
            '{"plan": "plan.toml", "images": "cam07", "out": "out", "box": "cam07"}'
        ) from None
    try:
        return JobLine.model_validate_json(json.dumps(document))
    except ValidationError as error:
        raise UsageError(f"{where}: {describe(error, JobLine)}. See docs/jobs.md") from None


def _no_twice(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for key, value in pairs:
        if key in document:
            raise ValueError(f"{key!r} stands there twice")
        document[key] = value
    return document


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _job(asked: JobLine, line: int, path: Path, folder: Path) -> Job:
    here = path.absolute().parent
    named = asked.branch != "auto"
    name = asked.name or (f"{asked.branch}.{asked.box}" if named else asked.box)
    own = folder.absolute() / name
    gpus = asked.gpus if asked.gpus is not None else float(asked.device == "cuda")

    def place(text: str) -> Path:
        # `normpath` as well: two jobs that write `out` and `./out` are in each other's way.
        return Path(os.path.normpath(here / text))

    return Job(
        name=name,
        line=line,
        asked=asked,
        plan=place(asked.plan),
        images=place(asked.images),
        out=place(asked.out),
        folder=own,
        work=own / "work" if asked.work is None else place(asked.work),
        cpus=asked.cpus if asked.cpus is not None else float(asked.threads),
        gpus=gpus,
    )


def _refuse_rivals(jobs: Sequence[Job], path: Path) -> None:
    """Refuse two jobs with one name, one work folder, or one file to write.

    Raises:
        UsageError: naming both lines.
    """
    names: dict[str, Job] = {}
    works: dict[Path, Job] = {}
    files: dict[tuple[Path, str], list[Job]] = {}
    for job in jobs:
        where = f"{path}:{job.line}"
        first = names.setdefault(job.name, job)
        if first is not job:
            raise UsageError(
                f"{where}: name {job.name!r} is that of line {first.line}; expected each job to "
                'have its own. Give one of them another "name"'
            )
        first = works.setdefault(job.work, job)
        if first is not job:
            raise UsageError(
                f"{where}: work {job.asked.work!r} is that of line {first.line}; expected a work "
                'folder for each job. Leave "work" out'
            )
        same = files.setdefault((job.out, job.asked.box), [])
        for other in same:
            branches = {job.asked.branch, other.asked.branch}
            # `auto` and `all` may be any branch: only two different names are surely apart.
            if len(branches) == 1 or branches & {"auto", "all"}:
                raise UsageError(
                    f"{where}: may write the same file as line {other.line} (box "
                    f"{job.asked.box!r} in {job.asked.out!r}); expected files of their own. Give "
                    'one of them another "out" or "box"'
                )
        same.append(job)

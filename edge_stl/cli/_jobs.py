"""``edge-stl train --jobs``: many calls of the agent, each done once."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edge_stl.cli._extras import need_engine
from edge_stl.cli._output import ProgressReporter, percent, print_json, print_line, print_table


if TYPE_CHECKING:
    from edge_stl.fleet._engine import EngineName
    from edge_stl.fleet._jobs import JobResult

_ONE = {
    "plan_file": "PLAN", "images": "IMAGES", "out": "-o", "box": "--box", "branch": "--branch",
    "epochs": "--epochs", "seed": "--seed", "threads": "--threads", "device": "--device",
    "key": "--key",
    "time_budget": "--time-budget", "max_memory": "--max-memory", "max_celsius": "--max-celsius",
    "nice": "--nice",
    "progress": "--progress",
}  # fmt: skip
_MANY = {
    "shard": "--shard", "parallel": "--parallel", "retries": "--retries", "engine": "--engine",
    "ray_address": "--ray-address",
}  # fmt: skip


def given_options(context: typer.Context) -> set[str]:
    """Return the names of the parameters that stand on the command line."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {n for n, source in sources.items() if source and source.name == "COMMANDLINE"}


def refuse_beside_jobs(given: set[str]) -> None:
    """Refuse what each line of a jobs file says for itself.

    Raises:
        UsageError: some of it stands beside ``--jobs``.
    """
    from edge_stl.errors import UsageError

    wrong = [shown for name, shown in _ONE.items() if name in given]
    if wrong:
        raise UsageError(
            f"--jobs and {', '.join(wrong)}: each line of the jobs file says that for its job; "
            "expected one or the other. Put it into the lines, or leave --jobs out"
        )
    if "fresh" in given:
        raise UsageError(
            "--jobs and --fresh: a job that is done is not done again; expected one or the other. "
            "Delete the folder of a job to do it anew"
        )


def refuse_without_jobs(given: set[str]) -> None:
    """Refuse what only many jobs need.

    Raises:
        UsageError: some of it stands without ``--jobs``.
    """
    from edge_stl.errors import UsageError

    wrong = [shown for name, shown in _MANY.items() if name in given]
    if wrong:
        raise UsageError(f"{', '.join(wrong)}: is for many jobs; expected --jobs FILE beside it")


def train_jobs(
    path: Path,
    *,
    shard: str | None,
    work: Path | None,
    parallel: int | None,
    retries: int,
    engine: "EngineName",
    ray_address: str | None,
    json: bool,
    quiet: bool,
) -> None:
    """Run the jobs of a file and tell how they ended.

    Raises:
        UsageError: the file, the shard or the engine cannot be used.
        Interrupted: a signal asked to stop.
        typer.Exit: a job failed; with the exit code of the first of them in the file.
    """
    need_engine(engine, verb="training")
    from device_agent.job import usable_cores
    from edge_stl.fleet._engine import open_engine
    from edge_stl.fleet._job_file import read_jobs, take_shard
    from edge_stl.fleet._jobs import run_jobs

    folder = path.with_name(f"{path.name}.work") if work is None else work
    jobs = read_jobs(path, folder=folder)
    if shard is not None:
        jobs = take_shard(jobs, shard)
    cores = parallel or usable_cores()
    with (
        ProgressReporter(quiet=quiet or json) as reporter,
        open_engine(engine, cpus=cores, address=ray_address) as opened,
    ):
        results = run_jobs(
            jobs,
            engine=opened,
            retries=retries,
            told=lambda done, total: reporter.advance("jobs", done, total),
        )
    if json:
        print_json({"jobs": [result.to_dict() for result in results]})
    else:
        _print_jobs(results)
    failed = [result for result in results if result.state == "failed"]
    for result in failed:
        print(f"edge-stl: {result.error}", file=sys.stderr)
    if failed:
        raise typer.Exit(failed[0].exit_code)


def _print_jobs(results: Sequence["JobResult"]) -> None:
    rows = []
    for result in results:
        state = "done before" if result.already else result.state
        rows += [
            (
                result.name,
                state,
                row["branch"],
                row["box"],
                row["images"],
                percent(row["validation"]["accuracy"]),
                f"{row['seconds']:.1f}",
            )
            for row in result.files
        ] or [(result.name, state, "", "", "", "", "")]
    columns = ("job", "state", "branch", "box", "images", "validation", "seconds")
    print_table("", columns, rows, left=4)
    for result in results:
        for row in result.files:
            print_line(f"{row['file']}  sha256 {row['sha256']}")
    done = sum(result.state == "done" for result in results)
    print_line(f"{done} of {len(results)} jobs are done")

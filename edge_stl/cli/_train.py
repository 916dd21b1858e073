"""``edge-stl train``: the agent's job on one box, or the many jobs of a file."""

import enum
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_stl._parent import began
from edge_stl.cli import _options as opt
from edge_stl.cli._jobs import given_options, refuse_beside_jobs, refuse_without_jobs, train_jobs
from edge_stl.cli._output import percent, print_json, print_line, print_table
from edge_stl.cli._progress import ProgressKind, progress_reporter


if TYPE_CHECKING:
    from device_agent._budget import Budget


class Device(enum.StrEnum):
    """Where torch computes."""

    cpu = "cpu"
    cuda = "cuda"
    auto = "auto"


_BUDGETS = "Budgets"
_MANY = "Many jobs: instead of PLAN and IMAGES"


def train(
    context: typer.Context,
    plan_file: Annotated[
        Path | None,
        typer.Argument(metavar="PLAN", help="The plan file.", show_default=False),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Argument(
            metavar="IMAGES",
            help="A folder of class folders, or a folder with labels.csv (file_name,label).",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            help="Folder for the branch files: what you copy off the box.",
            show_default=False,
        ),
    ] = None,
    box: opt.Box = None,
    branch: Annotated[
        str,
        typer.Option(help="auto: what only a box this fine can train; all: all it can; or a name."),
    ] = "auto",
    epochs: opt.Epochs = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Instead of the plan's.", show_default=False)
    ] = None,
    threads: opt.Threads = None,
    work: Annotated[
        Path | None,
        typer.Option(
            help="Folder for cache and checkpoints; stays on the box. With --jobs: for the jobs' "
            "folders, by default FILE.work.",
            show_default=False,
        ),
    ] = None,
    time_budget: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Stop after 45s, 90m or 1h30m, with a checkpoint; the same command goes on.",
            show_default=False,
            rich_help_panel=_BUDGETS,
        ),
    ] = None,
    max_memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Stay within 600M, 1.5G or 700MiB of resident memory; tried out before it trains.",
            show_default=False,
            rich_help_panel=_BUDGETS,
        ),
    ] = None,
    max_celsius: Annotated[
        str | None,
        typer.Option(
            metavar="DEGREES",
            help="Pause at this temperature; by default 5 below where the machine switches itself "
            "off; off: never.",
            show_default=False,
            rich_help_panel=_BUDGETS,
        ),
    ] = None,
    nice: Annotated[
        int,
        typer.Option(
            min=0,
            max=19,
            help="Give way to other programs: 0 not at all, 19 to all of them.",
            rich_help_panel=_BUDGETS,
        ),
    ] = 0,
    device: Annotated[
        Device, typer.Option(help="auto takes a GPU when there is one.")
    ] = Device.cpu,
    key: opt.Key = None,
    fresh: Annotated[bool, typer.Option(help="Forget what a stopped run left.")] = False,
    progress: Annotated[
        ProgressKind,
        typer.Option(help="bar: on a terminal alone; json: one JSON object per line on stderr."),
    ] = ProgressKind.bar,
    # What `agent watch` says: the images of a snapshot alone. A person has no such file.
    only_images: Annotated[Path | None, typer.Option(hidden=True)] = None,
    jobs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="One JSON object per line: plan, images, out, box, ... (docs/jobs.md).",
            show_default=False,
            rich_help_panel=_MANY,
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Every N-th job from the I-th on: 1/4 on the first of four machines.",
            show_default=False,
            rich_help_panel=_MANY,
        ),
    ] = None,
    parallel: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Cores to use on this machine; by default all.",
            show_default=False,
            rich_help_panel=_MANY,
        ),
    ] = None,
    retries: Annotated[
        int,
        typer.Option(
            min=0,
            help="Further attempts for a job whose process was killed.",
            rich_help_panel=_MANY,
        ),
    ] = 2,
    engine: opt.Engine = opt.EngineName.local,
    ray_address: opt.RayAddress = None,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Train this box's branches on its own images and write one file each.

    Stop it with Ctrl-C at any time: the same command goes on where it stopped. With --jobs, many
    such jobs, each done once.
    """
    given = given_options(context)
    if jobs is not None:
        refuse_beside_jobs(given)
        if key is not None and not quiet:  # by EDGE_STL_KEY
            typer.echo("note: EDGE_STL_KEY is the key of one box; jobs are not signed", err=True)
        train_jobs(
            jobs,
            shard=shard,
            work=work,
            parallel=parallel,
            retries=retries,
            engine="ray" if engine is opt.EngineName.ray else "local",
            ray_address=ray_address,
            json=json,
            quiet=quiet,
        )
        return
    refuse_without_jobs(given)
    plan_file, images, out = _needed(plan_file, images, out)
    from device_agent.job import Job, run_job, usable_cores
    from device_agent.snapshot import need_snapshot
    from device_agent.stop import StopRequest
    from device_agent.work import refuse_nesting, resolve_work
    from edge_stl.images import as_utf_8
    from edge_stl.plan import read_plan

    budget = budget_of(time_budget, max_memory, max_celsius)
    plan = read_plan(plan_file)
    folder, box_id = resolve_work(plan, work=work, box=box)
    refuse_nesting(out, folder)
    settings: dict[str, object] = {"device": _device(device)}
    settings |= {} if epochs is None else {"epochs": epochs}
    settings |= {} if seed is None else {"seed": seed}
    job = Job(
        plan=plan,
        images=images,
        out=out,
        work=folder,
        box=box_id,
        branch=branch,
        settings=settings,
        threads=threads or usable_cores(),
        fresh=fresh,
        key=key,
        budget=budget,
        only=None if only_images is None else need_snapshot(only_images).images,
    )
    os.nice(nice)
    with (
        StopRequest(at_once=True) as stop,
        progress_reporter(progress, quiet=quiet or json) as reporter,
    ):
        files = run_job(job, reporter=reporter, should_stop=reporter.living(stop))
    if json:
        left_out = [
            {"file": as_utf_8(name), "reason": reason} for name, reason in files.left_out_files
        ]
        print_json({"files": [asdict(f) for f in files], "left_out_files": left_out})
        return
    print_table(
        "",
        ("branch", "box", "images", "classes", "px", "validation", "log-loss", "seconds"),
        [
            (
                f.branch,
                f.box,
                f.images,
                f.classes_seen,
                f.native_resolution,
                percent(f.validation["accuracy"]),
                f"{f.validation['log_loss']:.3f}",
                f"{f.seconds:.1f}",
            )
            for f in files
        ],
        left=2,
    )
    for f in files:
        print_line(f"{f.file}  sha256 {f.sha256}")
        if f.signature is not None:
            print_line(
                f"{f.signature['file']}  number {f.signature['counter']}, key {f.signature['key']}"
            )


def _needed(plan: Path | None, images: Path | None, out: Path | None) -> tuple[Path, Path, Path]:
    from edge_stl.errors import UsageError

    if plan is None or images is None:
        missing = "PLAN" if plan is None else "IMAGES"
        raise UsageError(f"Missing argument '{missing}'. See --help")
    if out is None:
        raise UsageError("Missing option '-o' / '--out'. See --help")
    return plan, images, out


def budget_of(time_budget: str | None, max_memory: str | None, max_celsius: str | None) -> "Budget":
    from device_agent._budget import Budget, bytes_of, celsius_of, seconds_of

    until = None if time_budget is None else began() + seconds_of(time_budget)
    return Budget(
        until=until,
        time=time_budget or "",
        memory=None if max_memory is None else bytes_of(max_memory),
        celsius=None if max_celsius is None else celsius_of(max_celsius),
    )


def _device(device: Device) -> str:
    from edge_stl.errors import ResourceError, UsageError

    if device is Device.cpu:
        return "cpu"
    try:
        import torch
    except ImportError:
        raise UsageError("training needs torch: pip install 'edge-stl[train]'") from None

    if torch.cuda.is_available():
        return "cuda"
    if device is Device.cuda:
        raise ResourceError(
            "--device cuda: torch sees no CUDA device here; expected one. Use --device cpu, or "
            "install the torch build made for this machine"
        )
    return "cpu"

"""``edge-stl cotrain``: one box of a group that trains one branch together."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_stl.cli import _options as opt
from edge_stl.cli._extras import need
from edge_stl.cli._output import percent, print_json, print_line, print_table
from edge_stl.cli._progress import ProgressKind, progress_reporter


if TYPE_CHECKING:
    from device_agent.cotrain.job import GroupJob

_CHANGES = "Instead of what the group file says; the same on every box"
_TOGETHER = 10.0  # seconds in which torchrun hands a Ctrl-C on that came to both


def cotrain(
    method: Annotated[
        str,
        typer.Argument(
            metavar="METHOD",
            help="full, random, choco, jwins, ngc, compngc, pca, fedavg or feddip.",
            show_default=False,
        ),
    ],
    plan_file: opt.PlanFile,
    images: opt.ImageFolder,
    group: Annotated[
        Path,
        typer.Option(
            metavar="group.toml",
            help="The boxes in rank order, and how they train; the same file on every box.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--out",
            help="Folder for the branch file; the first box of the group writes it.",
            show_default=False,
        ),
    ],
    box: opt.Box = None,
    work: opt.Work = None,
    threads: opt.Threads = None,
    rounds: Annotated[
        int | None,
        typer.Option(min=1, help="Of the run.", show_default=False, rich_help_panel=_CHANGES),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(help="Learning rate.", show_default=False, rich_help_panel=_CHANGES),
    ] = None,
    graph: Annotated[
        str | None,
        typer.Option(
            help="Who sends to whom: ring, torus, full, regular:K, or a file of edges.",
            show_default=False,
            rich_help_panel=_CHANGES,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0, help="Of all that is drawn.", show_default=False, rich_help_panel=_CHANGES
        ),
    ] = None,
    peer_timeout: Annotated[
        float,
        typer.Option(
            min=1.0, help="Go on without a box that nothing was heard of for so many seconds."
        ),
    ] = 60.0,
    boxes_here: Annotated[
        bool,
        typer.Option(
            "--boxes-here",
            help="A trial on one machine under torchrun: box and its folders are IMAGES/ID, "
            "WORK/ID, by rank.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Check plan and group, tell how many bytes each box will send, and stop.",
        ),
    ] = False,
    key: opt.Key = None,
    progress: Annotated[
        ProgressKind,
        typer.Option(help="bar: on a terminal alone; json: one JSON object per line on stderr."),
    ] = ProgressKind.bar,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Train one branch together with the other boxes of a group, and write one file for all.

    Every box starts this, under torchrun or with meet = "ADDRESS:PORT" in the group file. Nothing
    is encrypted: use it inside a VPN; public addresses are refused. Ctrl-C: the same command on
    all boxes goes on.
    """
    need("torch", "onnx", "onnxruntime", verb="cotrain", extra="train")
    need("networkx", verb="cotrain", extra="cotrain")
    from device_agent.stop import StopRequest

    changes = {"rounds": rounds, "rate": rate, "graph": graph, "seed": seed}
    given = {name: value for name, value in changes.items() if value is not None}
    if dry_run:
        _forecast(method, plan_file, group, given, as_json=json)
        return
    with (
        StopRequest(at_once=True, together=_TOGETHER) as stop,
        progress_reporter(progress, quiet=quiet or json) as reporter,
    ):
        from device_agent.cotrain.job import run_group_job

        asked = _asked(
            method,
            plan_file,
            images,
            group,
            out,
            box=box,
            work=work,
            boxes_here=boxes_here,
            changes=given,
            threads=threads,
            key=key,
            peer_timeout=peer_timeout,
        )
        document = run_group_job(asked, reporter=reporter, should_stop=reporter.living(stop))
    if json:
        print_json(document)
    else:
        _print(document)


def _forecast(
    method: str, plan_file: Path, group: Path, changes: dict[str, Any], *, as_json: bool
) -> None:
    from device_agent.cotrain._forecast import forecast_document
    from device_agent.cotrain._group import read_group
    from edge_stl.plan import read_plan

    plan = read_plan(plan_file)
    document = forecast_document(read_group(group, method, plan, changes), plan)
    if as_json:
        print_json(document)
        return
    print_table(
        "",
        ("box", "neighbours", "messages", "MB to send"),
        [
            (row["box"], row["neighbours"], row["messages"], f"{row['bytes'] / 1e6:.2f}")
            for row in document["boxes"]
        ],
    )
    print_line(
        f"{document['method']}, {document['rounds']} rounds, a model of {document['parameters']:,} "
        f"numbers: about {document['bytes_total'] / 1e6:.2f} MB from all boxes together"
    )


def _asked(
    method: str,
    plan_file: Path,
    images: Path,
    group: Path,
    out: Path,
    *,
    box: str | None,
    work: Path | None,
    boxes_here: bool,
    changes: dict[str, Any],
    threads: int | None,
    key: Path | None,
    peer_timeout: float,
) -> "GroupJob":
    from device_agent.cotrain._group import read_group
    from device_agent.cotrain._meeting import place_of
    from device_agent.cotrain.job import GroupJob
    from device_agent.job import Job, usable_cores
    from device_agent.work import refuse_nesting, resolve_work
    from edge_stl.plan import read_plan

    plan = read_plan(plan_file)
    run = read_group(group, method, plan, changes)
    if boxes_here:
        box = _box_of_rank(run.group.boxes)
        images, work = images / box, None if work is None else work / box
    folder, box_id = resolve_work(plan, work=work, box=box)
    refuse_nesting(out, folder)
    job = Job(
        plan=plan,
        images=images,
        out=out,
        work=folder,
        box=box_id,
        branch=run.group.branch,
        threads=threads or usable_cores(),
        key=key,
    )
    place = place_of(run.group.boxes, box_id, meet=run.group.meet)
    return GroupJob(job, run, place, peer_timeout=peer_timeout)


def _box_of_rank(boxes: tuple[str, ...]) -> str:
    from edge_stl.errors import UsageError

    rank = os.environ.get("RANK", "")
    if not rank.isdecimal() or int(rank) >= len(boxes):
        raise UsageError(
            f"--boxes-here: rank {rank or 'unknown'}; expected 0 to {len(boxes) - 1}. Start it "
            f"with torchrun --standalone --nproc-per-node {len(boxes)} -m edge_stl cotrain …"
        )
    return boxes[int(rank)]


def _print(document: dict[str, Any]) -> None:
    if document["file"] is None:
        print_line(
            f"{document['branch']}.{document['group']}.onnx  written by {document['written_by']}  "
            f"sha256 {document['sha256']}"
        )
    else:
        _print_file(document)
    boxes, total = document["bytes"]["boxes"], document["bytes"]["total"]
    unknown = [row["box"] for row in boxes if row["bytes"] is None]
    some = f"{len(boxes) - len(unknown)} of" if unknown else "all"
    print_line(
        f"sent: {document['sent']['bytes'] / 1e6:.2f} MB from this box, {total['bytes'] / 1e6:.2f} "
        f"MB from {some} {len(boxes)} boxes together"
        + (f"; not known of {', '.join(unknown)} (lost)" if unknown else "")
    )


def _print_file(document: dict[str, Any]) -> None:
    sent, validation = document["sent"], document["validation"]
    print_table(
        "",
        ("branch", "group", "method", "boxes", "images", "validation", "log-loss", "MB sent"),
        [
            (
                document["branch"],
                document["group"],
                document["method"],
                len(document["members"]),
                document["images"],
                percent(validation["accuracy"]),
                f"{validation['log_loss']:.3f}",
                f"{sent['bytes'] / 1e6:.2f}",
            )
        ],
        left=3,
    )
    print_line(f"{document['file']}  sha256 {document['sha256']}")
    if document["signature"] is not None:
        signature = document["signature"]
        print_line(f"{signature['file']}  number {signature['counter']}, key {signature['key']}")

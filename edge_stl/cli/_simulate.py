"""``edge-stl simulate``: a whole fleet on one machine."""

from pathlib import Path
from typing import Annotated, Any

import typer

from edge_stl.cli import _options as opt
from edge_stl.cli._extras import need
from edge_stl.cli._merge import DataFreeWeights
from edge_stl.cli._output import ProgressReporter, percent, print_json, print_line, print_table


def simulate(
    plan_file: opt.PlanFile,
    images: opt.ImageFolder,
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--out",
            help="Keeps box folders, branch files, ensemble and results.",
            show_default=False,
        ),
    ],
    test: Annotated[
        Path | None,
        typer.Option(
            help="Test images; without them a fifth of IMAGES is held out.", show_default=False
        ),
    ] = None,
    boxes: Annotated[int, typer.Option(min=1, help="Number of boxes.")] = 3,
    resolutions: Annotated[
        str | None,
        typer.Option(
            help="Native resolutions, given to the boxes in turn, like 16,32,64; by default those "
            "that the plan's branches need.",
            show_default=False,
        ),
    ] = None,
    branch: Annotated[
        str, typer.Option(help="What each box trains: auto, all, or a name.")
    ] = "auto",
    weights: Annotated[
        DataFreeWeights, typer.Option(help="Rule of the merge.")
    ] = DataFreeWeights.reliability,
    centralized: Annotated[
        bool,
        typer.Option(
            "--centralized", help="Also train one network on all images at full resolution."
        ),
    ] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Repetitions.")] = 1,
    epochs: opt.Epochs = None,
    jobs: opt.Jobs = None,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Split a folder over boxes on one machine, train by the real agent, merge, evaluate."""
    need("torch", "onnx", "onnxruntime", verb="simulating", extra="train")
    from device_agent.job import usable_cores
    from edge_stl.fleet._simulate import Simulation, simulate as run
    from edge_stl.plan import read_plan

    what = Simulation(
        plan=read_plan(plan_file),
        images=images,
        test=test,
        boxes=boxes,
        resolutions=_numbers(resolutions),
        branch=branch,
        weights=weights.value,
        centralized=centralized,
        seeds=seeds,
        epochs=epochs,
        jobs=jobs or usable_cores(),
        out=out,
    )
    with ProgressReporter(quiet=quiet or json) as reporter:
        document = run(what, progress=lambda name, d, t: reporter.advance(f"{name}: boxes", d, t))
    if json:
        print_json(document)
        return
    print_simulation(document)
    print_line(f"everything is under {out}")


def _numbers(text: str | None) -> tuple[int, ...]:
    from edge_stl.errors import UsageError

    if text is None:
        return ()
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"--resolutions {text}: expected numbers with commas between, like 16,32,64"
        ) from None


def print_simulation(document: dict[str, Any]) -> None:
    """Print the boxes of the first seed, and mean and spread over all seeds."""
    first, mean, std = document["seeds"][0], document["mean"], document["std"]
    count = len(document["seeds"])
    columns = ("box", "branch", "px", "images", "parameters", "seconds", "file bytes", "accuracy")
    rows = [
        (
            row["box"],
            row["branch"],
            row["native_resolution"],
            row["images"],
            f"{row['parameters']:,}",
            f"{row['seconds']:.1f}",
            f"{row['bytes']:,}",
            percent(row["accuracy"]),
        )
        for row in first["boxes"]
    ]
    total = sum(row["seconds"] for row in first["boxes"])
    rows.append(
        (
            "ensemble",
            "",
            "",
            sum(r["images"] for r in first["boxes"]),
            "",
            f"{total:.1f}",
            f"{first['ensemble']['bytes']:,}",
            percent(first["ensemble"]["accuracy"]),
        )
    )
    if first["centralized"] is not None:
        central = first["centralized"]
        rows.append(
            (
                "centralized",
                "",
                "",
                central["images"],
                f"{central['parameters']:,}",
                f"{central['seconds']:.1f}",
                "",
                percent(central["accuracy"]),
            )
        )
    print_table("first seed" if count > 1 else "", columns, rows, left=2)

    def spread(key: str) -> str:
        return f" ± {100 * std[key]:.2f}" if count > 1 else ""

    print_line(
        f"{count} seed{'s' * (count > 1)}: ensemble {percent(mean['accuracy'])}{spread('accuracy')}"
        f", best box {percent(mean['best_box'])}{spread('best_box')}, gain "
        f"{100 * mean['gain']:.2f} points{spread('gain')}"
        + (f", centralized {percent(mean['centralized'])}" if "centralized" in mean else "")
    )
    print_line("bytes exchanged in training: 0")

"""``edge-stl demo``: the whole way on one machine, pictures at the end."""

from pathlib import Path
from typing import Annotated

import typer

from edge_stl.cli import _options as opt
from edge_stl.cli._extras import need
from edge_stl.cli._output import ProgressReporter, percent, print_json, print_line, print_table


def demo(
    data: Annotated[
        Path | None,
        typer.Option(
            help="Your own folder of class folders (or with train and test in it); without it, "
            "scikit-learn's handwritten digits.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="Where everything goes.")] = Path(
        "demo-out"
    ),
    seeds: Annotated[int, typer.Option(min=1, help="Repetitions.")] = 3,
    jobs: opt.Jobs = None,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Run the whole way on one machine: plan, four boxes, merge, evaluation, report."""
    need("torch", "onnx", "onnxruntime", "matplotlib", verb="the demo", extra="demo")
    from device_agent.job import usable_cores
    from edge_stl.fleet._demo import as_rows, next_commands, run_demo

    if not (quiet or json):
        typer.echo(
            "four boxes, two of them with coarse cameras, no box sees another's images", err=True
        )
    with ProgressReporter(quiet=quiet or json) as reporter:
        result = run_demo(
            data,
            out,
            seeds=seeds,
            jobs=jobs or usable_cores(),
            progress=lambda name, d, t: reporter.advance(f"{name}: boxes", d, t),
        )
    document = result.document
    if json:
        print_json(document)
        return
    mean, std, count = document["mean"], document["std"], len(document["seeds"])

    def spread(value: float) -> str:
        return f" ± {100 * value:.2f}" if count > 1 else ""

    print_table(
        "",
        ("box", "branch", "camera", "images", "test accuracy"),
        [
            *(
                (
                    row["box"],
                    row["branch"],
                    f"{row['native_resolution']} px",
                    row["images"],
                    percent(row["accuracy"]) + spread(row["spread"]),
                )
                for row in as_rows(document)
            ),
            ("ensemble", "", f"{result.plan.input.resolution} px",
             sum(row["images"] for row in document["seeds"][0]["boxes"]),
             percent(mean["accuracy"]) + spread(std["accuracy"])),
        ],
        left=2,
    )  # fmt: skip
    print_line(
        f"mean of {count} seed{'s' * (count > 1)}: the ensemble is {100 * mean['gain']:.2f} points "
        "above the best single box; bytes exchanged in training: 0"
    )
    for name, what in (
        ("ensemble.onnx", "the ensemble"),
        ("picture.png", "what each box sees and how it votes"),
        ("report.html", "all of this on one page"),
    ):
        print_line(f"{out / name}  {what}")
    print_line("\nNext, try:")
    for command in next_commands(result):
        print_line(f"  {command}")

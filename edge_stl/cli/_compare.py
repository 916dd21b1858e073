"""``edge-stl compare``: accuracy against bytes, method by method."""

from pathlib import Path
from typing import Annotated

import typer

from edge_stl.cli import _options as opt
from edge_stl.cli._extras import need
from edge_stl.cli._output import ProgressReporter, print_json, print_line, print_table


def compare(
    plan_file: opt.PlanFile,
    images: opt.ImageFolder,
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--out",
            help="Keeps finished runs, tables and the picture.",
            show_default=False,
        ),
    ],
    methods: Annotated[
        str,
        typer.Option(
            help="Names with commas between: ensemble, alone, full, random, choco, jwins, ngc, "
            "compngc, pca, fedavg, feddip, centralized."
        ),
    ] = "ensemble,alone,full,centralized",
    test: Annotated[
        Path | None,
        typer.Option(
            help="Test images; without them a fifth of IMAGES is held out.", show_default=False
        ),
    ] = None,
    branch: Annotated[
        str | None,
        typer.Option(
            help="The branch that all boxes train; by default the plan's last.",
            show_default=False,
        ),
    ] = None,
    boxes: Annotated[int, typer.Option(min=2, help="Number of boxes.")] = 8,
    graph: Annotated[
        str, typer.Option(help="ring, torus, full, regular:K, or a file of edges.")
    ] = "ring",
    split: Annotated[
        str,
        typer.Option(
            help="iid: boxes alike; dirichlet:A: random shares of every class, the smaller A the "
            "less alike; classes:K: K random classes per box."
        ),
    ] = "iid",
    rounds: Annotated[int, typer.Option(min=1, help="Exchanges.")] = 50,
    steps: Annotated[
        int, typer.Option(min=1, help="Minibatches of a box between two exchanges.")
    ] = 4,
    batch: Annotated[int, typer.Option(min=1, help="Images of a minibatch.")] = 16,
    rates: Annotated[
        str,
        typer.Option(help="Learning rates to choose from on validation images, per method."),
    ] = "0.02,0.05,0.1,0.2",
    schedule: Annotated[
        str, typer.Option(help="Of the learning rate: constant, cosine, step.")
    ] = "cosine",
    momentum: Annotated[float, typer.Option(help="Of the local steps, 0 to below 1.")] = 0.0,
    kept: Annotated[
        float, typer.Option(help="Share of a model that random and choco send, above 0 to 1.")
    ] = 0.2,
    settings: Annotated[
        Path | None,
        typer.Option(
            help="TOML file with settings of methods, like [jwins]; a group file of cotrain will "
            "do. By default those of the authors.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Repetitions.")] = 1,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Train one branch by every method on one machine; tell accuracy and bytes of each."""
    need("torch", "onnx", "onnxruntime", verb="comparing", extra="train")
    import torch

    from device_agent.cotrain._group import read_tables
    from edge_stl.durable import write_durably
    from edge_stl.fleet._compare import Comparison, compare as run
    from edge_stl.fleet._compare_page import COLUMNS, as_csv, edge_line, picture, table_rows
    from edge_stl.fleet._split import read_split
    from edge_stl.plan import read_plan

    plan = read_plan(plan_file)
    what = Comparison(
        plan=plan,
        branch=branch or plan.branches[-1].name,
        images=images,
        out=out,
        test=test,
        methods=tuple(part for part in methods.split(",") if part),
        boxes=boxes,
        graph=graph,
        split=read_split(split),
        rounds=rounds,
        steps=steps,
        batch=batch,
        rates=_rates(rates),
        schedule=schedule,
        momentum=momentum,
        kept=_share(kept),
        seeds=seeds,
        tables={} if settings is None else read_tables(settings),
    )
    torch.set_num_threads(1)
    with ProgressReporter(quiet=quiet or json) as reporter:
        document = run(
            what,
            told=reporter.note,
            progress=lambda label, d, t: reporter.advance("runs", d - 1, t, label),
        )
    write_durably(out / "compare.csv", as_csv(document))
    write_durably(out / "compare.png", picture(document))
    if json:
        print_json(document)
        return
    print_table("", COLUMNS, table_rows(document), left=1)
    edge = edge_line(document)
    if edge is not None:
        print_line(edge)
    print_line(
        f"{out / 'compare.png'}: accuracy over bytes; compare.csv and results.json beside it"
    )


def _rates(text: str) -> tuple[float, ...]:
    from edge_stl.errors import UsageError

    try:
        rates = tuple(sorted({float(part) for part in text.split(",")}))
    except ValueError:
        rates = ()
    if not rates or not all(0 < rate < float("inf") for rate in rates):
        raise UsageError(
            f"--rates {text}: expected numbers above 0 with commas between, like 0.02,0.05"
        )
    return rates


def _share(kept: float) -> float:
    from edge_stl.errors import UsageError

    if not 0 < kept <= 1:
        raise UsageError(f"--kept {kept:g}: expected a share above 0, at most 1, like 0.2")
    return kept

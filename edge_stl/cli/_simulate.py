"""``edge-stl simulate``: a whole fleet on one machine."""

import enum
from pathlib import Path
from typing import Annotated, Any

import typer

from edge_stl.cli import _options as opt
from edge_stl.cli._extras import need, need_engine
from edge_stl.cli._merge import DataFreeWeights
from edge_stl.cli._output import ProgressReporter, percent, print_json, print_line, print_table


class Share(enum.StrEnum):
    """Which images a box sees."""

    disjoint = "disjoint"
    all = "all"


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
    boxes: Annotated[
        int | None,
        typer.Option(min=1, help="Number of boxes; by default 3.", show_default=False),
    ] = None,
    repeat: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Instead of --boxes: so many boxes at each native resolution.",
            show_default=False,
        ),
    ] = None,
    resolutions: Annotated[
        str | None,
        typer.Option(
            help="Native resolutions, given to the boxes in turn, like 16,32,64; by default those "
            "that the plan's branches need.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[
        str,
        typer.Option(
            help="iid: boxes alike; dirichlet:A: random shares of every class, the smaller A the "
            "less alike; classes:K: K random classes per box."
        ),
    ] = "iid",
    share: Annotated[
        Share,
        typer.Option(help="disjoint: every image to one box; all: every image to every box."),
    ] = Share.disjoint,
    camera: Annotated[
        str,
        typer.Option(
            help="How coarse boxes' images came to be coarse: box, bilinear, bicubic, lanczos, "
            "nearest, or jpeg:Q, a JPEG file of quality Q."
        ),
    ] = "box",
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
    engine: opt.Engine = opt.EngineName.local,
    ray_address: opt.RayAddress = None,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Split a folder over boxes on one machine, train by the real agent, merge, evaluate."""
    need("onnx", "onnxruntime", verb="simulating", extra="train")
    need_engine(engine.value, verb="simulating")
    from device_agent.job import usable_cores
    from edge_stl.fleet._camera import read_camera
    from edge_stl.fleet._settings import Simulation, box_count
    from edge_stl.fleet._simulate import simulate as run
    from edge_stl.fleet._split import read_split
    from edge_stl.plan import read_plan

    plan = read_plan(plan_file)
    natives = _numbers(resolutions)
    what = Simulation(
        plan=plan,
        images=images,
        test=test,
        boxes=box_count(plan, natives, boxes=boxes, repeat=repeat),
        resolutions=natives,
        split=read_split(split),
        share=share.value,
        camera=read_camera(camera),
        branch=branch,
        weights=weights.value,
        centralized=centralized,
        seeds=seeds,
        epochs=epochs,
        jobs=jobs or usable_cores(),
        engine="ray" if engine is opt.EngineName.ray else "local",
        ray_address=ray_address,
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
    mean, std, count = document["mean"], document["std"], len(document["seeds"])
    columns = ("box", "branch", "px", "images", "parameters", "seconds", "bytes", "accuracy",
               "without it")  # fmt: skip
    rows = _rows(document["seeds"][0], share=document["settings"]["share"])
    print_table("first seed" if count > 1 else "", columns, rows, left=2)

    def spread(key: str, scale: float = 100, digits: int = 2) -> str:
        return f" ± {scale * std[key]:.{digits}f}" if count > 1 else ""

    print_line(
        f"{count} seed{'s' * (count > 1)}: ensemble {percent(mean['accuracy'])}{spread('accuracy')}"
        f", best box {percent(mean['best_box'])}{spread('best_box')}, gain "
        f"{100 * mean['gain']:.2f} points{spread('gain')}"
        + (f", centralized {percent(mean['centralized'])}" if "centralized" in mean else "")
    )
    print_line(
        f"ensemble: macro accuracy {percent(mean['macro_accuracy'])}{spread('macro_accuracy')}, "
        f"log-loss {mean['log_loss']:.3f}{spread('log_loss', 1, 3)}, "
        f"ECE {mean['ece']:.3f}{spread('ece', 1, 3)}"
    )
    spreads = {row["resolution"]: row for row in std["resolutions"]}
    for row in mean["resolutions"]:
        beside = f" ± {100 * spreads[row['resolution']]['accuracy']:.2f}" if count > 1 else ""
        print_line(
            f"for cameras of {row['resolution']} px (merge --resolution {row['resolution']}): "
            f"{percent(row['accuracy'])}{beside}"
        )
    print_line("bytes exchanged in training: 0")


def _rows(seed: dict[str, Any], *, share: str) -> list[tuple[Any, ...]]:
    """Return the table's rows of one seed: branch files, ensemble, centralized network."""
    without = {row["box"]: percent(row["accuracy"]) for row in seed["without"]}
    rows: list[tuple[Any, ...]] = [
        (
            row["box"],
            row["branch"],
            row["native_resolution"],
            row["images"],
            f"{row['parameters']:,}",
            f"{row['seconds']:.1f}",
            f"{row['bytes']:,}",
            percent(row["accuracy"]),
            # Of the box, not of the branch: it stands in the box's first row alone.
            without.pop(row["box"], ""),
        )
        for row in seed["boxes"]
    ]
    images = {row["box"]: row["images"] for row in seed["boxes"]}.values()
    total = sum(row["seconds"] for row in seed["boxes"])
    ensemble = seed["ensemble"]
    rows.append(
        ("ensemble", "", "", max(images) if share == "all" else sum(images), "", f"{total:.1f}",
         f"{ensemble['bytes']:,}", percent(ensemble["accuracy"]), "")
    )  # fmt: skip
    if seed["centralized"] is not None:
        central = seed["centralized"]
        rows.append(
            ("centralized", "", "", central["images"], f"{central['parameters']:,}",
             f"{central['seconds']:.1f}", "", percent(central["accuracy"]), "")
        )  # fmt: skip
    return rows

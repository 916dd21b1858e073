"""``edge-stl predict`` and ``edge-stl evaluate``: what a box or a desk does with an ensemble."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from edge_stl.cli import _options as opt
from edge_stl.cli._output import ProgressReporter, percent, print_json, print_line, print_table
from edge_stl.cli._slot import Slot, open_ensemble, split_paths


Threshold = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="Of a cascade: how sure a coarse answer must be, from 0 (always enough) to 1 (never)."
        "  [default: the file's]",
        show_default=False,
    ),
]


def predict(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="ENSEMBLE IMAGE…",
            help="An ensemble file and image files; with --slot image files alone.",
            show_default=False,
        ),
    ],
    slot: Slot = None,
    threads: Annotated[int, typer.Option(min=0, help="Threads; 0 takes every core.")] = 0,
    threshold: Threshold = None,
    trust: opt.TrustFile = None,
    json: opt.Json = False,
) -> None:
    """Say what images show. Needs numpy, onnxruntime and Pillow only."""
    from edge_stl.errors import DataError

    ensemble, images = split_paths(paths, slot, what="image files")
    model = open_ensemble(ensemble, slot, trust=trust, threads=threads, threshold=threshold)
    rows: list[dict[str, Any]] = []
    for path in images:
        try:
            probabilities = model(path)[0]
        except DataError as error:
            rows.append({"image": str(path), "error": str(error)})
        else:
            best = int(probabilities.argmax())
            rows.append(
                {
                    "image": str(path),
                    "label": model.classes[best],
                    "probability": round(float(probabilities[best]), 6),
                }
            )
        last = rows[-1]
        if "error" in last and len(images) > 1 and not json:
            typer.echo(f"edge-stl: {last['error']}", err=True)
        elif "error" not in last and not json:
            print_line(f"{last['image']}  {last['label']}  {percent(last['probability'])}")
    if json:
        print_json({"predictions": rows})
    failed = [row for row in rows if "error" in row]
    if failed:
        if len(images) == 1:
            raise DataError(failed[0]["error"])
        raise DataError(f"predict: {len(failed)} of {len(images)} images have no answer")


def evaluate(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="ENSEMBLE IMAGES",
            help="An ensemble file, and a folder of class folders or with labels.csv "
            "(file_name,label); with --slot the folder alone.",
            show_default=False,
        ),
    ],
    slot: Slot = None,
    threads: Annotated[int, typer.Option(min=0, help="Threads; 0 takes every core.")] = 0,
    threshold: Threshold = None,
    trust: opt.TrustFile = None,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Measure an ensemble, and every branch in it alone, on labelled images."""
    from edge_stl.predict import evaluate as run

    ensemble, (images,) = split_paths(paths, slot, what="one folder of images", most=1)
    model = open_ensemble(ensemble, slot, trust=trust, threads=threads, threshold=threshold)
    with ProgressReporter(quiet=quiet or json) as reporter:
        result = run(model, images, progress=lambda d, t: reporter.advance("evaluating", d, t))
    rows: list[dict[str, Any]] = []
    for identity, accuracy in result.branches.items():
        branch, box = identity.split(".", 1)
        rows.append({"branch": branch, "box": box, "accuracy": accuracy})
    use = result.cascade
    if json:
        document = {**result.scores.to_dict(), "branches": rows, "left_out": result.left_out}
        print_json(document | {"cascade": use and asdict(use)})
        return
    scores = result.scores
    print_table(
        "",
        ("", "accuracy"),
        [
            *((f"{r['branch']}.{r['box']} alone", percent(r["accuracy"])) for r in rows),
            ("ensemble", percent(scores.accuracy)),
        ],
    )
    print_line(
        f"{scores.images} images: macro accuracy {percent(scores.macro_accuracy)}, log-loss "
        f"{scores.log_loss:.4f}, calibration error {percent(scores.ece)}"
    )
    if use is not None:
        stops = zip(model.stages, use.stopped, strict=True)
        print_line(
            f"threshold {use.threshold:g}: {percent(use.multiply_adds / use.multiply_adds_full)} "
            f"of the multiply-adds, {use.multiply_adds:,.0f} of {use.multiply_adds_full:,} an "
            f"image; answered at {', '.join(f'{s.resolution} px {n}' for s, n in stops)}"
        )
    if result.left_out and not quiet:
        counts = ", ".join(f"{n} {reason}" for reason, n in result.left_out.items())
        typer.echo(f"left out: {counts}", err=True)

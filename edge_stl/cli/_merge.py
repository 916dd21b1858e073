"""``edge-stl merge`` and ``edge-stl split``."""

import enum
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from edge_stl.cli import _options as opt
from edge_stl.cli._holdout import holdout_document, print_holdout
from edge_stl.cli._output import ProgressReporter, print_json, print_line, print_table


class Weights(enum.StrEnum):
    """How much each branch counts."""

    reliability = "reliability"
    uniform = "uniform"
    geometric = "geometric"
    plan = "plan"
    fitted = "fitted"


class DataFreeWeights(enum.StrEnum):
    """The rules that need no labelled images at the desk."""

    reliability = "reliability"
    uniform = "uniform"
    geometric = "geometric"
    plan = "plan"


class Layout(enum.StrEnum):
    """Order of the input's axes."""

    nhwc = "nhwc"
    nchw = "nchw"


def merge(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE…",
            help="Branch files, or one ensemble with --remove or --add.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Where the ensemble goes.", show_default=False)
    ],
    weights: Annotated[
        Weights | None,
        typer.Option(
            help="reliability: by what the boxes measured on their validation images; uniform; "
            "geometric: halved from rank to rank; plan: as the plan declares; fitted: on the "
            "images of --holdout.  [default: reliability]",
            show_default=False,
        ),
    ] = None,
    holdout: Annotated[
        Path | None,
        typer.Option(
            metavar="IMAGES",
            help="Labelled images that no box trained on, for --weights fitted: a folder of class "
            "folders, or one with labels.csv.",
            show_default=False,
        ),
    ] = None,
    layout: Annotated[
        Layout | None,
        typer.Option(help="Axes of the input.  [default: nhwc]", show_default=False),
    ] = None,
    remove: Annotated[
        list[str] | None,
        typer.Option(
            help="Take a box, or branch.box, out of the ensemble; may be repeated.",
            show_default=False,
        ),
    ] = None,
    add: Annotated[
        list[Path] | None,
        typer.Option(
            help="Put a branch file into the ensemble; may be repeated.", show_default=False
        ),
    ] = None,
    skip_refused: Annotated[
        bool, typer.Option("--skip-refused", help="Merge the others when files are refused.")
    ] = False,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Merge branch files into one ensemble file that plain onnxruntime runs. No torch needed."""
    _need_merge_extra()
    from edge_stl.durable import write_durably
    from exporter.ensemble import Options
    from exporter.merge import merge_paths

    options = Options(
        weights=(weights or Weights.reliability).value, layout=(layout or Layout.nhwc).value
    )
    with ProgressReporter(quiet=quiet or json) as reporter:
        how: dict[str, Any] = {
            "skip_refused": skip_refused,
            "holdout": holdout,
            "progress": lambda done, total: reporter.advance("running the branches", done, total),
        }
        if remove or add:
            merged = _change(files, remove or [], add or [], weights, layout, how)
        else:
            merged = merge_paths(files, options=options, **how)
    write_durably(out, merged.model)
    rows = [
        {
            "branch": f.manifest.branch,
            "box": f.manifest.box,
            "weight": weight,
            "images": sum(f.manifest.images.train),
            "largest_change": merged.largest_change(index),
        }
        for index, (f, weight) in enumerate(zip(merged.files, merged.weights, strict=True))
    ]
    for camera in merged.cameras:
        if camera.warning is not None and not quiet:
            typer.echo(f"warning: {camera.warning}", err=True)
    if json:
        print_json(
            {
                "output": str(out),
                "sha256": merged.sha256,
                "weights": merged.options.weights,
                "layout": merged.options.layout,
                "branches": rows,
                "refused": [{"file": r.file, "reasons": list(r.reasons)} for r in merged.refused],
                "holdout": holdout_document(merged.holdout),
                "cameras": [
                    asdict(camera) | {"warning": camera.warning} for camera in merged.cameras
                ],
            }
        )
        return
    if not quiet:
        _print_rows(rows)
        if merged.holdout is not None:
            print_holdout(merged.holdout)
        for refusal in merged.refused:
            typer.echo(f"left out: {refusal}", err=True)
    print_line(f"{out}  sha256 {merged.sha256}")


def _print_rows(rows: list[dict[str, Any]]) -> None:
    print_table(
        "",
        ("branch", "box", "weight", "images", "moves a probability by at most"),
        [
            (
                r["branch"],
                r["box"],
                f"{r['weight']:.4f}",
                r["images"],
                f"{r['largest_change']:.3f}",
            )
            for r in rows
        ],
        left=2,
    )


def _change(
    files: list[Path],
    remove: list[str],
    add: list[Path],
    weights: Weights | None,
    layout: Layout | None,
    how: dict[str, Any],
) -> Any:
    from edge_stl.errors import UsageError
    from exporter.ensemble import Options
    from exporter.merge import change_ensemble
    from exporter.read import read_bytes
    from exporter.split import members_of

    if len(files) != 1:
        raise UsageError(
            f"--remove and --add change exactly one ensemble; {len(files)} files were named"
        )
    data, name = read_bytes(files[0]), files[0].name
    old = members_of(data, name=name).options
    options = Options(
        weights=weights.value if weights else old.weights,
        layout=layout.value if layout else old.layout,
    )
    return change_ensemble(data, name=name, remove=remove, add=add, options=options, **how)


def split(
    ensemble: opt.EnsembleFile,
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Folder for the branch files.", show_default=False)
    ],
    json: opt.Json = False,
) -> None:
    """Give every branch file back, byte for byte, as it went into the ensemble."""
    _need_merge_extra()
    from edge_stl.durable import make_folder, write_durably
    from exporter.read import read_bytes
    from exporter.split import branch_bytes, members_of

    content = members_of(read_bytes(ensemble), name=ensemble.name)
    make_folder(out)
    written = []
    for file in content.files:
        path = out / f"{file.manifest.id}.onnx"
        write_durably(path, branch_bytes(file))
        written.append(
            {
                "branch": file.manifest.branch,
                "box": file.manifest.box,
                "file": str(path),
                "sha256": file.sha256,
            }
        )
    if json:
        print_json({"files": written})
        return
    for row in written:
        print_line(f"{row['file']}  sha256 {row['sha256']}")


def _need_merge_extra() -> None:
    from edge_stl.cli._extras import need

    need("onnx", "onnxruntime", verb="merging", extra="merge")

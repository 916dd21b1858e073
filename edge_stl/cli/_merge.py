"""``edge-stl merge`` and ``edge-stl split``."""

import enum
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from edge_stl.cli import _options as opt
from edge_stl.cli._audit import audit_document, print_audit
from edge_stl.cli._cascade import cascade_document, cascade_options, print_cascade
from edge_stl.cli._groups import print_groups
from edge_stl.cli._holdout import holdout_document, print_holdout
from edge_stl.cli._output import ProgressReporter, print_json, print_line, print_table
from edge_stl.cli._seal import Seal, StartNumbersAnew


_Cascade = tuple[bool | None, float | None, float | None]  # --cascade, --threshold, --cascade-loss


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


class Robust(enum.StrEnum):
    """What holds against a hostile box."""

    median = "median"
    none = "none"


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
            help="Labelled images that no box trained on: boxes that they speak against are left "
            "out; also for --weights fitted and the threshold of --cascade. A folder of class "
            "folders, or one with labels.csv.",
            show_default=False,
        ),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="BOX",
            help="Let this box answer whatever --holdout says; that is recorded. May be repeated.",
            show_default=False,
        ),
    ] = None,
    layout: Annotated[
        Layout | None,
        typer.Option(help="Axes of the input.  [default: nhwc]", show_default=False),
    ] = None,
    resolution: Annotated[
        int | None,
        typer.Option(
            metavar="r",
            help="Rows and columns of the input, for cameras coarser than the plan: one of the "
            "plan's resolutions below its own. Branches whose bands do not exist there are left "
            "out.  [default: the plan's]",
            show_default=False,
        ),
    ] = None,
    robust: Annotated[
        Robust | None,
        typer.Option(
            help="median: of the boxes that saw a class, instead of weights, for five boxes or "
            "more of which one may be hostile.  [default: none]",
            show_default=False,
        ),
    ] = None,
    cascade: Annotated[
        bool | None,
        typer.Option(
            "--cascade/--no-cascade",
            help="Answer from the coarse branches, and compute the finer ones only when that is "
            "not sure enough. Needs --holdout or --threshold.",
            show_default=False,
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="With --cascade: how sure a coarse answer must be, from 0 (always enough) to 1 "
            "(never).  [default: chosen on --holdout]",
            show_default=False,
        ),
    ] = None,
    cascade_loss: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="With --cascade: accuracy that it may lose on the images of --holdout, from 0 to "
            "1.  [default: 0.003]",
            show_default=False,
        ),
    ] = None,
    remove: Annotated[
        list[str] | None,
        typer.Option(
            help="Take a box, or branch.box, out of the ensemble; may be repeated.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="With --remove: a box takes the files with it that it trained together with "
            "others.",
        ),
    ] = False,
    add: Annotated[
        list[Path] | None,
        typer.Option(
            help="Put a branch file into the ensemble; may be repeated.", show_default=False
        ),
    ] = None,
    skip_refused: Annotated[
        bool, typer.Option("--skip-refused", help="Merge the others when files are refused.")
    ] = False,
    trust: opt.TrustFile = None,
    start_numbers_anew: StartNumbersAnew = False,
    key: opt.Key = None,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Merge branch files into one ensemble file that plain onnxruntime runs. No torch needed."""
    _need_merge_extra()
    from edge_stl.durable import write_durably
    from edge_stl.errors import UsageError
    from exporter.merge import merge_paths
    from exporter.signed import signed_table
    from exporter.weighing import mean_weight

    chosen = (cascade, threshold, cascade_loss)
    seal = Seal(trust, anew=start_numbers_anew, key=key)
    with ProgressReporter(quiet=quiet or json) as reporter:
        how: dict[str, Any] = {
            "skip_refused": skip_refused,
            "holdout": holdout,
            "keep": keep or [],
            "gate": seal.gate,
            "progress": lambda done, total: reporter.advance("running the branches", done, total),
        }
        if force and not remove:
            raise UsageError("--force: is for --remove; expected that beside it. Leave it out")
        if remove or add:
            given = {"remove": remove or [], "force": force, "add": add or []}
            merged = _change(files, weights, layout, resolution, robust, chosen, given | how)
        else:
            if weights is None and robust is None:
                weights = seal.default_weights(holdout)
            options = _chosen(None, weights, layout, resolution, robust, chosen)
            merged = merge_paths(files, options=options, **how)
    write_durably(out, merged.model)
    signature = seal.close(out, merged)
    rows = [
        {
            "branch": f.manifest.branch,
            "box": f.manifest.box,
            "weight": None if merged.options.robust else mean_weight(own),
            "images": sum(f.manifest.images.train),
            "largest_change": merged.largest_change(index),
            "cotrained": f.manifest.cotrained and f.manifest.cotrained.model_dump(mode="json"),
        }
        for index, (f, own) in enumerate(zip(merged.files, merged.weights, strict=True))
    ]
    for camera in merged.cameras:
        if camera.warning is not None and not quiet:
            typer.echo(f"warning: {camera.warning}", err=True)
    if json:
        print_json(
            {
                "output": str(out),
                "sha256": merged.sha256,
                "weights": None if merged.options.robust else merged.options.weights,
                "scale": None if merged.options.robust else merged.scale,
                "robust": merged.options.robust,
                "layout": merged.options.layout,
                "resolution": merged.options.side(merged.files[0].plan),
                "branches": rows,
                "refused": [{"file": r.file, "reasons": list(r.reasons)} for r in merged.refused],
                "left_out": [
                    {"branch": f.manifest.branch, "box": f.manifest.box} for f in merged.left_out
                ],
                "warnings": list(merged.warnings),
                "holdout": holdout_document(merged.holdout),
                "audit": audit_document(merged.audit),
                "cascade": cascade_document(merged),
                "signed": signed_table(merged.files),
                "signature": signature,
                "cameras": [
                    asdict(camera) | {"warning": camera.warning} for camera in merged.cameras
                ],
            }
        )
        return
    if not quiet:
        _tell(merged, rows)
    print_line(f"{out}  sha256 {merged.sha256}")
    if signature is not None:
        print_line(f"{signature['file']}  number {signature['counter']}, key {signature['key']}")


def _tell(merged: Any, rows: list[dict[str, Any]]) -> None:
    """Print the table and what a holdout taught to stdout, what a person must know to stderr."""
    _print_rows(rows)
    print_groups(rows)
    if merged.holdout is not None:
        print_holdout(merged.holdout)
    if merged.audit is not None:
        print_audit(merged.audit)
    print_cascade(merged, holdout_told=merged.holdout is not None)
    for refusal in merged.refused:
        typer.echo(f"refused: {refusal}", err=True)
    if merged.left_out:
        gone = ", ".join(f.manifest.id for f in merged.left_out)
        typer.echo(
            f"left out: {len(merged.left_out)} branch files whose bands do not exist at "
            f"{merged.options.resolution} px: {gone}",
            err=True,
        )
    for warning in merged.warnings:
        typer.echo(f"warning: {warning}", err=True)


def _print_rows(rows: list[dict[str, Any]]) -> None:
    print_table(
        "",
        ("branch", "box", "weight", "images", "moves a probability by at most"),
        [
            (
                r["branch"],
                r["box"],
                _number(r["weight"], 4),
                r["images"],
                _number(r["largest_change"], 3),
            )
            for r in rows
        ],
        left=2,
    )


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _chosen(
    old: Any,
    weights: Weights | None,
    layout: Layout | None,
    resolution: int | None,
    robust: Robust | None,
    gate: _Cascade,
) -> Any:
    """Return the options that were given; for the others those of ``old``, else the defaults."""
    from edge_stl.errors import UsageError
    from exporter.options import DEFAULT_WEIGHTS, Options

    before = old or Options()
    rule = before.robust if robust is None else (None if robust == Robust.none else robust.value)
    if rule is not None and weights is not None:
        kept = "" if robust else ", with which the ensemble was made,"
        raise UsageError(
            f"--weights {weights.value}: --robust {rule}{kept} weighs nothing, every box speaks "
            "once; expected one of the two. "
            + ("Leave one out" if robust else "Leave it out, or add --robust none")
        )
    chosen = before.weights if weights is None else weights.value
    return Options(
        weights=DEFAULT_WEIGHTS if rule else chosen,
        layout=layout.value if layout else before.layout,
        resolution=before.resolution if resolution is None else resolution,
        robust=rule,
        **cascade_options(before, *gate),
    )


def _change(
    files: list[Path],
    weights: Weights | None,
    layout: Layout | None,
    resolution: int | None,
    robust: Robust | None,
    cascade: _Cascade,
    how: dict[str, Any],
) -> Any:
    from edge_stl.errors import UsageError
    from exporter.merge import change_ensemble
    from exporter.read import read_bytes
    from exporter.split import members_of

    if len(files) != 1:
        raise UsageError(
            f"--remove and --add change exactly one ensemble; {len(files)} files were named"
        )
    name = files[0].name
    gate = how["gate"]
    data = read_bytes(files[0]) if gate is None else gate.read_ensemble(files[0])
    content = members_of(data, name=name)
    del data  # not needed any more
    options = _chosen(content.options, weights, layout, resolution, robust, cascade)
    return change_ensemble(content, name=name, options=options, **how)


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

"""``edge-stl inspect`` and ``edge-stl check``."""

import enum
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from edge_stl.cli import _options as opt
from edge_stl.cli._cascade import print_stages
from edge_stl.cli._extras import need
from edge_stl.cli._groups import print_groups
from edge_stl.cli._output import percent, print_json, print_line, print_table


ModelFile = Annotated[
    Path, typer.Argument(metavar="FILE", help="A branch file or an ensemble.", show_default=False)
]


_DENSE = 0.01
"""Share of zero weights up to which a branch is not called sparse."""


class Target(enum.StrEnum):
    """A runtime to check for."""

    portable = "portable"
    jetpack5 = "jetpack5"
    jetpack6 = "jetpack6"
    web = "web"
    latest = "latest"


def inspect(file: ModelFile, json: opt.Json = False) -> None:
    """Show what a file says of itself: classes, branches, boxes, scores, versions."""
    need("onnx", "onnxruntime", verb="inspecting", extra="merge")
    from exporter.inspect import inspect_path

    document = inspect_path(file)
    if json:
        print_json(document)
        return
    deflated = f" ({document['bytes_deflated']:,} deflated)" if "bytes_deflated" in document else ""
    print_line(
        f"{document['file']}: {document['kind']}, {document['bytes']:,} bytes{deflated}, opset "
        f"{document['opset']}, IR version {document['ir_version']}, sha256 {document['sha256']}"
    )
    if document["kind"] == "other":
        return
    print_line(
        f"plan {document['plan']} (digest {document['plan_digest'][:12]}), "
        f"{document['resolution']} px, {len(document['classes'])} classes: "
        f"{', '.join(document['classes'])}"
    )
    weighted = document["kind"] == "ensemble" and document["robust"] is None
    sparse = any(r["zeros"] > _DENSE for r in document["branches"])
    print_table(
        "",
        ("branch", "box", "network", "px", "images", "classes", "validation", "log-loss")
        + (("zeros",) if sparse else ())
        + (("weight",) if weighted else ()),
        [
            (
                r["branch"],
                r["box"],
                r["network"],
                r["native_resolution"],
                r["images"],
                r["classes_seen"],
                percent(r["validation"]["accuracy"]),
                f"{r['validation']['log_loss']:.3f}",
                *((percent(r["zeros"]),) if sparse else ()),
                *((f"{r['weight']:.4f}",) if weighted else ()),
            )
            for r in document["branches"]
        ],
        left=3,
    )
    print_groups(document["branches"], settings=True)
    if document.get("robust"):
        print_line(f"nothing is weighted: the {document['robust']} over the boxes answers")
    if document["kind"] == "ensemble":
        print_line(f"branches: {signed_text(document['signed'])}")
    if document["graphs"]:
        print_line(f"graphs of their own, not run here: {', '.join(document['graphs'])}")
    if document.get("cascade"):
        kept = document["cascade"]
        chosen = f", chosen on {kept['images']} holdout images" if kept["images"] else ""
        print_stages(kept["stages"])
        print_line(f"a cascade with confidence threshold {kept['threshold']:g}{chosen}")
    for what, rows in (document.get("audit") or {}).items():
        said = "in quarantine" if what == "quarantined" else "kept in spite of a holdout"
        for row in rows:
            print_line(f"{said}: {row['box']}: {row['reason']}")
    if document.get("holdout"):
        biases = zip(document["classes"], document["holdout"]["bias"], strict=True)
        print_line(
            f"weights fitted on {document['holdout']['images']} holdout images; biases "
            + ", ".join(f"{name} {bias:+.4f}" for name, bias in biases)
        )


def signed_text(signed: dict[str, list[str]] | None) -> str:
    """Return whether the branches of an ensemble were signed, and with whose keys."""
    if signed is None:
        return "unsigned"
    return "signed, " + ", ".join(f"{box} with key {' and '.join(k)}" for box, k in signed.items())


def check(
    file: ModelFile,
    target: Annotated[Target, typer.Option(help="The runtime to check for.")] = Target.portable,
    accept_graphs: opt.AcceptGraphs = False,
    json: opt.Json = False,
) -> None:
    """Check a file: whole, canonical, its test vectors, and whether the target loads it."""
    need("onnx", "onnxruntime", verb="checking", extra="merge")
    from edge_stl.errors import CheckError
    from exporter.verify import check_path

    findings = check_path(file, target=target.value, accept_graphs=accept_graphs)
    if json:
        print_json(
            {"ok": not findings, "target": target.value, "findings": [asdict(f) for f in findings]}
        )
    else:
        for finding in findings:
            print_line(f"{finding.where}: {finding.what}. Fix: {finding.fix}")
    if findings:
        raise CheckError(
            f"{file}: {len(findings)} finding{'s' * (len(findings) > 1)} for target "
            f"{target.value}; expected none"
        )
    if not json:
        print_line(f"{file}: ok for {target.value}")

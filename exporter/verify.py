"""``check``: does a file hold what it must, and will the target load it?"""

from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto

from edge_stl.errors import CheckError, EdgeStlError
from exporter import names
from exporter._graph import all_graphs
from exporter._judge import judge
from exporter._session import check_model
from exporter.branch import VECTOR_TOLERANCE, vector_difference
from exporter.ensemble import build_ensemble
from exporter.own_judge import unfit
from exporter.read import BranchFile, Unusable, branch_from_bytes, kind_of, parse_model, read_bytes
from exporter.split import Content, branch_bytes, members_of
from exporter.vector import TOLERANCE, answer_difference, vector_image


@dataclass(frozen=True)
class Target:
    """What a runtime loads at most.

    Attributes:
        opset: highest opset of the default domain.
        ir_version: highest file-format number.
        subgraphs: whether ``If`` and its kind are safe.
        portable_operators: whether only the operators of our own graphs are known to load.
    """

    opset: int
    ir_version: int
    subgraphs: bool
    portable_operators: bool = True


TARGETS = {
    "portable": Target(opset=17, ir_version=8, subgraphs=False),
    "jetpack5": Target(opset=17, ir_version=9, subgraphs=False),
    "jetpack6": Target(opset=17, ir_version=9, subgraphs=True),
    "web": Target(opset=20, ir_version=10, subgraphs=True),
    "latest": Target(opset=26, ir_version=13, subgraphs=True, portable_operators=False),
}
"""Limits of the runtimes: TensorRT 8.5 and onnxruntime 1.16 (JetPack 5), TensorRT 8.6 and
onnxruntime 1.17 (JetPack 6.0), onnxruntime-web, onnxruntime 1.31."""


@dataclass(frozen=True)
class Finding:
    """One thing that is not as the target needs it."""

    what: str
    where: str
    fix: str


def check_path(
    path: Path, *, target: str = "portable", accept_graphs: bool = False
) -> list[Finding]:
    """Check a file: the integrity of ours, and the limits of the target for any ONNX model.

    Args:
        path: a branch file, an ensemble, or any ONNX model.
        target: one of `TARGETS`.
        accept_graphs: run networks of the user's own too, in a limited child process.

    Returns:
        the findings, empty when all is well.

    Raises:
        DataError: the file cannot be read.
    """
    data = read_bytes(path)
    try:
        model = parse_model(data)
    except Unusable as verdict:
        return [Finding(str(verdict), path.name, "copy the file again from where it was made")]
    integrity, ours = _integrity(data, kind_of(model), path.name, accept_graphs=accept_graphs)
    findings = []
    try:
        if ours:
            check_model(data, path.name)
        else:
            judge(data, path.name)
    except CheckError as error:
        what = str(error).removeprefix(f"{path.name}: ")
        findings.append(Finding(what, path.name, "make the file again"))
    return findings + lint(model, target=target) + integrity


def lint(model: onnx.ModelProto, *, target: str) -> list[Finding]:
    """Compare a model with what a target loads: versions, operators, shapes, one file."""
    limits = TARGETS[target]
    findings = []
    opsets = {opset.domain or "ai.onnx": opset.version for opset in model.opset_import}
    if opsets.get("ai.onnx", 0) > limits.opset:
        findings.append(
            Finding(
                f"opset {opsets['ai.onnx']}, {target} loads up to {limits.opset}",
                "opset_import",
                f"export at opset {limits.opset}",
            )
        )
    if model.ir_version > limits.ir_version:
        findings.append(
            Finding(
                f"IR version {model.ir_version}, {target} loads up to {limits.ir_version}",
                "ir_version",
                f"save with IR version {limits.ir_version}",
            )
        )
    findings += [
        Finding(f"operators of domain {domain}", "opset_import", "use standard operators only")
        for domain in sorted(opsets)
        if domain != "ai.onnx"
    ]
    if model.functions:
        findings.append(Finding("local functions", "functions", "inline them"))
    findings += _node_findings(model, limits, target)
    findings += _tensor_findings(model)
    return findings


def _node_findings(model: onnx.ModelProto, limits: Target, target: str) -> list[Finding]:
    findings = []
    consumers: dict[str, set[str]] = {}
    graphs = list(all_graphs(model.graph))
    for depth, node in [(i, node) for i, graph in enumerate(graphs) for node in graph.node]:
        for name in node.input:
            consumers.setdefault(name, set()).add(node.op_type)
        has_subgraph = any(
            attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
            for attribute in node.attribute
        )
        if has_subgraph and not limits.subgraphs:
            if depth and node.op_type == "If":
                continue  # inside another's body: the same finding again
            findings.append(
                Finding(
                    f"{node.op_type} with a subgraph",
                    node.name,
                    f"{target} may refuse it; merge without --cascade"
                    if node.op_type == "If"
                    else "avoid it",
                )
            )
        elif (
            limits.portable_operators
            and not has_subgraph
            and node.op_type not in names.PORTABLE_OPERATORS
        ):
            findings.append(
                Finding(
                    f"operator {node.op_type} is not on the list that was checked for {target}",
                    node.name,
                    "replace it, or try it on the target",
                )
            )
    for entry in model.graph.input:
        uint8 = entry.type.tensor_type.elem_type == TensorProto.UINT8
        if uint8 and consumers.get(entry.name, set()) - {"Cast"}:
            findings.append(
                Finding("uint8 input not followed by Cast alone", entry.name, "put a Cast first")
            )
    return findings


def _tensor_findings(model: onnx.ModelProto) -> list[Finding]:
    findings = [
        Finding("tensor kept in another file", tensor.name, "save the model as one file")
        for graph in all_graphs(model.graph)
        for tensor in graph.initializer
        if tensor.data_location == TensorProto.EXTERNAL
    ]
    for entry in (*model.graph.input, *model.graph.output):
        dims = entry.type.tensor_type.shape.dim
        loose = [i for i, dim in enumerate(dims) if i > 0 and not dim.HasField("dim_value")]
        if loose:
            findings.append(
                Finding(f"dimensions {loose} are not fixed", entry.name, "fix all but the batch")
            )
    return findings


def _integrity(
    data: bytes, kind: str | None, name: str, *, accept_graphs: bool
) -> tuple[list[Finding], bool]:
    """Check what only our own files promise: canonical bytes, digests, test vectors.

    Returns:
        the findings, and whether the file is byte for byte what we build of its numbers: only
        then may this process load it.
    """
    if kind == names.BRANCH:
        try:
            file = branch_from_bytes(data, name=name, accept_graphs=accept_graphs)
        except Unusable as verdict:
            return [
                Finding(reason, name, "copy the original from its box")
                for reason in verdict.reasons
            ], False
        return _vector_findings(file), True
    if kind != names.ENSEMBLE:
        return [], False
    return _ensemble_integrity(data, name, accept_graphs=accept_graphs)


def _ensemble_integrity(
    data: bytes, name: str, *, accept_graphs: bool
) -> tuple[list[Finding], bool]:
    """As `_integrity`, of an ensemble."""
    try:
        content = members_of(data, name=name)
    except EdgeStlError as error:
        what = str(error).removeprefix(f"{name}: ")
        return [Finding(what, name, "merge the branch files again")], False
    not_run = [
        f for file in content.files for f in _graph_findings(file, accept_graphs=accept_graphs)
    ]
    if not_run:
        return not_run, False
    findings = [f for file in content.files for f in _vector_findings(file)]
    rebuilt = build_ensemble(
        content.files,
        content.weights,
        options=content.options,
        scale=content.scale,
        fitted=content.fitted,
        cascade=content.cascade,
        audit=content.verdicts.to_document() if content.verdicts else None,
        vector=content.vector,
        made_by=content.made_by,
    )
    findings += _answer_findings(content, rebuilt, name)  # never the graph of a stranger
    if rebuilt == data:
        return findings, True
    findings.append(
        Finding(
            "not byte for byte what merge writes for its branches: edited, saved by another "
            "program",
            name,
            "merge the branch files again",
        )
    )
    return findings, False


def _graph_findings(file: BranchFile, *, accept_graphs: bool) -> list[Finding]:
    """Look at a graph in an ensemble, in a limited child process, before this process runs it."""
    if file.own is None:
        return []
    if not accept_graphs:
        network = file.plan.branch(file.manifest.branch).network
        return [
            Finding(
                f"a graph of its own ({network}), of which nothing was run",
                file.manifest.id,
                "check it with --accept-graphs if you trust that box",
            )
        ]
    reason = unfit(branch_bytes(file), file.manifest, file.plan)
    if reason is None:
        return []
    return [Finding(f"its graph: {reason}", file.manifest.id, "take it out with merge --remove")]


def _answer_findings(content: Content, data: bytes, name: str) -> list[Finding]:
    """Ask an ensemble its own test vector."""
    if content.vector is None:
        return [Finding("no test vector: merged by an earlier version", name, "merge it again")]
    image = vector_image(content.files[0], content.options)
    gated = content.cascade is not None
    difference = answer_difference(data, content.vector, image, content.options, cascade=gated)
    if difference <= TOLERANCE:
        return []
    return [
        Finding(
            f"answers its test vector with a difference of {difference:.1e}, expected at most "
            f"{TOLERANCE:.0e}",
            name,
            "merge the branch files again, or report this machine's onnxruntime",
        )
    ]


def _vector_findings(file: BranchFile) -> list[Finding]:
    model = branch_bytes(file)
    difference = vector_difference(file.manifest, file.plan, model)
    if difference <= VECTOR_TOLERANCE:
        return []
    return [
        Finding(
            f"test vector differs by {difference:.1e}, expected at most {VECTOR_TOLERANCE:.0e}",
            file.manifest.id,
            "train the branch again, or report this machine's onnxruntime",
        )
    ]

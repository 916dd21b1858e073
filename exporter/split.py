"""The branch files back out of an ensemble, byte for byte, proved by their sha256."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edge_stl.errors import DataError, EdgeStlError, IntegrityError
from edge_stl.gate import RECORD_CAPS, Outline, Refused, scan_model, strict_json
from edge_stl.plan import Plan, one_line, plan_from_document
from exporter import names
from exporter._graph import all_graphs
from exporter.audit import Verdicts, verdicts_in
from exporter.branch import branch_shapes, build_branch
from exporter.cameras import kernel_of
from exporter.ensemble import Fitted, Vector
from exporter.manifest import Manifest, disagreements, manifest_of, sha256
from exporter.options import Cascade, Options, cascade_in, options_in
from exporter.own import NoGraph, own_in_ensemble
from exporter.read import (
    BranchFile,
    Unusable,
    kind_of,
    metadata,
    need_own,
    parse_scanned,
    take_tensor,
)
from exporter.signed import signed_of


_LARGEST = float(np.finfo(np.float32).max)
"""What the graph can hold."""

_NAMED = 10  # names, in a sentence


@dataclass(frozen=True)
class Content:
    """What is in an ensemble file.

    Attributes:
        plan: the common plan.
        options: how it was merged.
        scale: a of the fusion.
        made_by: the version of edge-stl that merged it.
        files: the branch files in it, in order; `branch_bytes` gives their bytes.
        weights: K per file; 0 under a robust rule, which weighs nothing.
        fitted: what came from a holdout, none unless the weights were fitted on one.
        cascade: the threshold and where it came from, none unless it is a cascade.
        verdicts: who is in quarantine and who was kept in spite of a holdout.
        vector: what it answers to its test image, none in files of earlier versions.
    """

    plan: Plan
    options: Options
    scale: float
    made_by: str
    files: tuple[BranchFile, ...]
    weights: tuple[tuple[float, ...], ...]
    fitted: Fitted | None
    cascade: Cascade | None
    verdicts: Verdicts
    vector: Vector | None = None


def ensemble_record(model: onnx.ModelProto, *, name: str) -> dict[str, Any]:
    """Return the JSON record of an ensemble: plan, options, manifests.

    Raises:
        DataError: the model is not an ensemble of ours.
        IntegrityError: its record is damaged.
    """
    kind = kind_of(model)
    if kind != names.ENSEMBLE:
        what = "a branch file" if kind == names.BRANCH else "an ONNX file, but not one of edge-stl"
        raise DataError(f"{name}: is {what}; expected an ensemble that 'edge-stl merge' wrote")
    try:
        record = strict_json(metadata(model).get(names.KEY_ENSEMBLE, ""), RECORD_CAPS)
    except Refused as verdict:
        raise _damaged(name, f"its record is incomplete or wrong ({verdict})") from None
    if not isinstance(record, dict):
        raise _damaged(name, "its record is incomplete or wrong (not a table)")
    return record


def members_of(data: bytes, *, name: str) -> Content:
    """Take an ensemble apart and prove that every branch file comes back as it went in.

    Args:
        data: bytes of the ensemble file.
        name: what it is called in messages.

    Raises:
        DataError: the file is not an ensemble.
        IntegrityError: a branch file does not come back with its recorded sha256.
    """
    try:
        outline = scan_model(data)
        if outline.metadata.get(names.KEY_KIND) == names.ENSEMBLE:
            need_own(outline, graphs=True)
        model = parse_scanned(data)
    except (Unusable, Refused) as verdict:
        raise DataError(f"{name}: {verdict}. Check the path") from None
    record = ensemble_record(model, name=name)
    tensors = {t.name: t for graph in all_graphs(model.graph) for t in graph.initializer}
    try:
        _need_known(record)
        plan = plan_from_document(record["plan"], where=f"{name}, its plan")
        options = options_in(record)
        entries = [(manifest_of(m["manifest"]), str(m["sha256"]), m) for m in record["members"]]
        weights = tuple(_weights(name, manifest, m, options) for manifest, _, m in entries)
        kernels = [kernel_of(m, plan) for *_, m in entries]
        signed = signed_of(record["members"])
        scale, made_by = _scale(record), _made_by(record)
        fitted = _fitted(record, options, len(plan.classes))
        cascade = cascade_in(record, options)
        verdicts = verdicts_in(record)
        vector = _vector(model, len(plan.classes))
        problem = options.problem(plan)
        _need_graphs(record, plan, [manifest for manifest, *_ in entries], outline)
    except EdgeStlError as error:
        raise IntegrityError(str(error)) from None
    except (
        AttributeError,
        KeyError,
        OverflowError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise _damaged(name, f"its record is incomplete or wrong ({error})") from None
    ids = sorted(manifest.id for manifest, *_ in entries)
    held = sorted(n.removesuffix("/temperature") for n in tensors if n.endswith("/temperature"))
    if ids != held:
        raise _damaged(name, f"its record names {_few(ids)}, its graph holds {_few(held)}")
    if problem is None and options.to_document() != record["options"]:
        problem = f"options {record['options']}"
    if problem is not None:
        raise _damaged(name, f"it was merged with {problem}, which this version does not know")
    carried = {b.name for b in plan.carried(options.side(plan))}
    unfit = [m.id for m, *_ in entries if m.branch not in carried]
    if unfit:
        raise _damaged(name, f"{_few(unfit)} have no bands at its {options.side(plan)} px")
    files = [
        replace(_member(name, plan, manifest, digest, model, tensors), kernel=kernel, signed=key)
        for (manifest, digest, _), kernel, key in zip(entries, kernels, signed, strict=True)
    ]
    return Content(
        plan, options, scale, made_by, tuple(files), weights, fitted, cascade, verdicts, vector
    )


def branch_bytes(file: BranchFile) -> bytes:
    """Return the bytes of a branch file that was read or taken out of an ensemble."""
    return build_branch(file.manifest, file.plan, file.parameters, file.own)


def _weights(
    name: str, manifest: Manifest, member: dict[str, Any], options: Options
) -> tuple[float, ...]:
    """Return the weights of a member, one per class.

    Raises:
        IntegrityError: it has one weight for all classes, as ensembles once had.
        ValueError: there are none, and the rule weighs; there are some, and it weighs nothing; or
            they cannot be.
    """
    counts = manifest.images.train
    if options.robust is not None:
        if {"weight", "weights"} & set(member):
            raise ValueError(f"{manifest.id}: weights beside robust {options.robust!r}")
        return (0.0,) * len(counts)
    weights = member.get("weights")
    if weights is None and "weight" in member:
        raise IntegrityError(
            f"{name}: was merged by an earlier version of edge-stl, which gave {manifest.id} one "
            "weight for all classes; expected one per class. Merge its branch files again, which "
            "stay valid; the version that wrote it gives them back"
        )
    speaks = manifest.member().speaks
    if (
        not isinstance(weights, list)
        or len(weights) != len(counts)
        or any(type(w) not in (int, float) or not 0 <= w <= _LARGEST for w in weights)
        # the graph holds no number there, so one in the record would be in force nowhere
        or any(w > 0 and not (n and speaks) for w, n in zip(weights, counts, strict=True))
    ):
        raise ValueError(
            f"{manifest.id}: weights {weights}; expected {len(counts)} numbers, none negative, and "
            "0 where it does not speak for a class"
        )
    return tuple(float(w) for w in weights)


def _scale(record: dict[str, Any]) -> float:
    """Return a.

    Raises:
        KeyError: there is none.
        ValueError: it cannot be.
    """
    scale = record["scale"]
    if type(scale) not in (int, float) or not 0 < scale <= _LARGEST:
        raise ValueError(f"scale {scale}; expected a number above 0")
    return float(scale)


def _few(ids: list[str]) -> str:
    """Return names for a sentence, not more than a person reads."""
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return f"{[one_line(i) for i in ids[:_NAMED]]}{more}"


def _need_known(record: dict[str, Any]) -> None:
    """Refuse what a newer version may have put there, before it is lost without a word.

    Raises:
        ValueError: a key is unknown.
        TypeError: the members are no list of objects.
    """
    members = record["members"]
    if not isinstance(members, list) or not all(isinstance(m, dict) for m in members):
        raise TypeError("members are no list")
    unknown = set(record) - names.RECORD_KEYS
    unknown |= {key for member in members for key in member} - names.MEMBER_KEYS
    if unknown:
        raise ValueError(f"unknown keys {_few(sorted(unknown))}; a newer edge-stl may know them")


def _made_by(record: dict[str, Any]) -> str:
    """Return the version that merged it.

    Raises:
        KeyError: there is none.
        ValueError: it is no version.
    """
    made_by = record["made_by"]
    if not isinstance(made_by, str) or len(made_by) > 64:  # noqa: PLR2004  (as in manifests)
        raise ValueError("made_by is no version")
    return made_by


def _fitted(record: dict[str, Any], options: Options, classes: int) -> Fitted | None:
    """Return what the record keeps of a holdout.

    Raises:
        KeyError: there is nothing, and the weights were fitted.
        ValueError: it is there without fitted weights, or its numbers cannot be.
    """
    if options.weights != names.FITTED:
        if "holdout" in record:
            raise ValueError("a holdout, but no fitted weights")
        return None
    images, bias = record["holdout"]["images"], record["holdout"]["bias"]
    if (
        set(record["holdout"]) != {"images", "bias"}
        or type(images) is not int
        or not 1 <= images <= 10**12
        or not isinstance(bias, list)
        or len(bias) != classes
        or any(type(b) not in (int, float) or not abs(b) <= _LARGEST for b in bias)
    ):
        raise ValueError(f"a holdout of {images!r:.40} images, with biases that cannot be")
    return Fitted(images, tuple(float(b) for b in bias))


def _vector(model: onnx.ModelProto, classes: int) -> Vector | None:
    """Return the test vector that an ensemble's metadata holds, none where it has none.

    Raises:
        ValueError: it is no list of one share per class.
    """
    text = metadata(model).get(names.KEY_VECTOR)
    if text is None:
        return None
    shares = strict_json(text, RECORD_CAPS)
    if (
        not isinstance(shares, list)
        or len(shares) != classes
        or any(type(p) not in (int, float) or not 0 <= p <= 1 for p in shares)
    ):
        raise ValueError(f"a test vector that is no list of {classes} shares")
    return tuple(float(p) for p in shares)


def _need_graphs(
    record: dict[str, Any], plan: Plan, manifests: Sequence[Manifest], outline: Outline
) -> None:
    """Need the record to name exactly the members with a graph of their own.

    Raises:
        ValueError: it does not, or there are none and the graph has operators of such networks.
    """
    own = {branch.name for branch in plan.branches if branch.own is not None}
    graphs = [manifest.id for manifest in manifests if manifest.branch in own]
    if record.get("graphs", []) != graphs or (not graphs and "graphs" in record):
        raise ValueError(f"graphs of {_few(graphs)}, which it does not say")
    if not graphs and outline.graph_operators:
        raise ValueError(f"no graphs, but operators {_few(outline.graph_operators)}")


def _member(
    name: str,
    plan: Plan,
    manifest: Manifest,
    digest: str,
    model: onnx.ModelProto,
    tensors: dict[str, onnx.TensorProto],
) -> BranchFile:
    reasons = disagreements(manifest, plan)
    if reasons:
        raise _damaged(name, f"{manifest.id}: {'; '.join(reasons)}")
    own = None
    if plan.branch(manifest.branch).own is None:
        parameters = _parameters(name, plan, manifest, tensors)
    else:
        try:
            own, parameters = own_in_ensemble(model, manifest.id)
        except NoGraph as verdict:
            raise _damaged(name, f"{manifest.id}: {verdict}") from None
    rebuilt = build_branch(manifest, plan, parameters, own)
    if sha256(rebuilt) != digest:
        raise _damaged(
            name,
            f"{manifest.id} comes back as {sha256(rebuilt)[:12]}, recorded is {digest[:12]}",
        )
    return BranchFile(
        f"{manifest.id}.onnx", manifest, plan, parameters, digest, len(rebuilt), own=own
    )


def _parameters(
    name: str, plan: Plan, manifest: Manifest, tensors: dict[str, onnx.TensorProto]
) -> dict[str, NDArray[np.float32]]:
    """Return the numbers of a member whose network is a preset."""
    reasons: list[str] = []
    parameters = {}
    for tensor_name, shape in branch_shapes(plan, manifest.branch).items():
        tensor = tensors.get(f"{manifest.id}/{tensor_name}")
        if tensor is None:
            raise _damaged(name, f"tensor {manifest.id}/{tensor_name} is missing")
        array = take_tensor(tensor, shape, reasons)
        if array is not None:
            parameters[tensor_name] = array
    if reasons:
        raise _damaged(name, "; ".join(reasons))
    return parameters


def _damaged(name: str, what: str) -> IntegrityError:
    return IntegrityError(
        f"{name}: {what}; the file was changed after it was merged. Merge the branch files again"
    )

"""What a file says of itself, as plain values; any ONNX file has at least a kind and versions."""

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_stl.errors import DataError
from edge_stl.fusion import largest_change
from exporter import names
from exporter.manifest import sha256
from exporter.read import (
    BranchFile,
    Unusable,
    branch_from_bytes,
    kind_of,
    parse_model,
    read_bytes,
)
from exporter.signed import signed_table
from exporter.split import Content, ensemble_record, members_of
from exporter.weighing import mean_weight


_UNWEIGHTED = {"weight": None, "largest_change": None}

DEFLATE_LEVEL = 9
"""Of ``bytes_deflated``: the smallest that zlib makes of a file."""


def share_of_zeros(parameters: Mapping[str, NDArray[np.float32]]) -> float:
    """Return the share of exact zeros among the weights of a branch, 0..1.

    Weights are the numbers of convolutions and dense layers; biases, scales and shifts do not
    count, which no method makes sparse.
    """
    weights = [array for name, array in parameters.items() if name.endswith(".weight")]
    total = sum(array.size for array in weights)
    return sum(array.size - int(np.count_nonzero(array)) for array in weights) / max(1, total)


def deflated_size(data: bytes) -> int:
    """Return how many bytes are left of a file that zlib compresses at `DEFLATE_LEVEL`."""
    return len(zlib.compress(data, DEFLATE_LEVEL))


def inspect_path(path: Path) -> dict[str, Any]:
    """Describe a branch file, an ensemble or any other ONNX model.

    Returns:
        the document of ``inspect --json``: kind, format, opset, ir_version, classes, plan_digest,
        branches, and more.

    Raises:
        DataError: the file cannot be read, is no ONNX file, or is damaged.
        IntegrityError: an ensemble does not give back what was merged into it.
    """
    data = read_bytes(path)
    try:
        model = parse_model(data)
        document: dict[str, Any] = {
            "file": path.name,
            "sha256": sha256(data),
            "bytes": len(data),
            "kind": kind_of(model) or "other",
            "format": None,
            "opset": {o.domain or "ai.onnx": o.version for o in model.opset_import}.get("ai.onnx"),
            "ir_version": model.ir_version,
            "classes": [],
            "plan_digest": None,
            "branches": [],
        }
        if document["kind"] == names.BRANCH:
            file = branch_from_bytes(data, name=path.name)
            plan, side = file.plan, file.plan.input.resolution
            # of a branch file alone: zlib takes half a second for a MB that is mostly zeros
            document["bytes_deflated"] = deflated_size(data)
            document["branches"] = [
                _branch(file, None) | {"bytes_deflated": document["bytes_deflated"]}
            ]
        elif document["kind"] == names.ENSEMBLE:
            content = members_of(data, name=path.name)
            plan, side = content.plan, content.options.side(content.plan)
            robust = content.options.robust
            document["weights"] = content.options.weights if robust is None else None
            document["scale"] = content.scale if robust is None else None
            document["layout"] = content.options.layout
            document["robust"] = robust
            document["holdout"] = content.fitted.to_document() if content.fitted else None
            document["audit"] = content.verdicts.to_document() if content.verdicts else None
            document["signed"] = signed_table(content.files)
            document["cascade"] = _cascade(content, ensemble_record(model, name=path.name))
            document["branches"] = [
                (
                    _branch(f, own, content.scale)
                    if robust is None
                    else _branch(f, None) | _UNWEIGHTED
                )
                | {"kernel": f.kernel}
                for f, own in zip(content.files, content.weights, strict=True)
            ]
        else:
            return document
    except Unusable as verdict:
        raise DataError(f"{path}: {verdict}") from None
    document |= {
        "format": names.FORMAT,
        "classes": list(plan.classes),
        "plan": plan.name,
        "plan_digest": plan.digest,
        "resolution": side,
        "channels": plan.input.channels,
    }
    return document


def _cascade(content: Content, record: dict[str, Any]) -> dict[str, Any] | None:
    """Return threshold and stages as the record has them; `check` proves it is the graph's."""
    if content.cascade is None:
        return None
    return {"images": None, **record["cascade"], "loss": content.options.cascade_loss}


def _branch(
    file: BranchFile, weights: Sequence[float] | None, scale: float = 1.0
) -> dict[str, Any]:
    manifest = file.manifest
    row = {
        "branch": manifest.branch,
        "box": manifest.box,
        "network": manifest.network,
        "native_resolution": manifest.native_resolution,
        "images": sum(manifest.images.train),
        "images_per_class": list(manifest.images.train),
        "classes_seen": len(manifest.member().seen),
        "validation": {
            "accuracy": manifest.validation.accuracy,
            "log_loss": manifest.validation.log_loss,
        },
        "temperature": manifest.temperature,
        "training": manifest.training.model_dump(mode="json"),
        "versions": dict(manifest.versions),
        "cotrained": manifest.cotrained and manifest.cotrained.model_dump(mode="json"),
        "sha256": file.sha256,
        "bytes": file.bytes,
        "zeros": share_of_zeros(file.parameters),
    }
    if weights is not None:
        row |= {
            "weight": mean_weight(weights),
            "largest_change": largest_change(weights, scale=scale),
        }
    return row

"""What a file says of itself, as plain values; any ONNX file has at least a kind and versions."""

from pathlib import Path
from typing import Any

from edge_stl.errors import DataError
from edge_stl.fusion import largest_change
from exporter import names
from exporter.manifest import Manifest, sha256
from exporter.read import Unusable, branch_from_bytes, kind_of, parse_model, read_bytes
from exporter.split import members_of


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
            plan = file.plan
            document["branches"] = [_branch(file.manifest, file.sha256, file.bytes, None)]
        elif document["kind"] == names.ENSEMBLE:
            content = members_of(data, name=path.name)
            plan = content.plan
            document["weights"] = content.options.weights
            document["layout"] = content.options.layout
            document["holdout"] = content.fitted.to_document() if content.fitted else None
            document["branches"] = [
                _branch(f.manifest, f.sha256, f.bytes, weight, content.scale) | {"kernel": f.kernel}
                for f, weight in zip(content.files, content.weights, strict=True)
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
        "resolution": plan.input.resolution,
        "channels": plan.input.channels,
    }
    return document


def _branch(
    manifest: Manifest, digest: str, size: int, weight: float | None, scale: float = 1.0
) -> dict[str, Any]:
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
        "sha256": digest,
        "bytes": size,
    }
    if weight is not None:
        row |= {"weight": weight, "largest_change": largest_change(weight, scale=scale)}
    return row

"""Reading branch files: parse under caps, check everything, take the numbers.

Nothing of the graph in the file is used. The manifest must fit its plan, the tensors must have
the plan's names and shapes and be finite, and the file must equal, byte for byte, what its own
numbers rebuild to: then it is what an agent wrote, and `split` can give it back.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import TensorProto

from edge_stl.bands import Kernel
from edge_stl.durable import read_once
from edge_stl.errors import EdgeStlError
from edge_stl.gate import MAX_FILE_BYTES, Outline, Refused, scan_model
from edge_stl.plan import Plan, one_line
from exporter import names
from exporter.branch import branch_constants, branch_shapes, build_branch
from exporter.manifest import Manifest, disagreements, parse_manifest, sha256
from exporter.plausible import implausible_numbers


_NAMED = 10  # tensors, in a sentence for a person


@dataclass(frozen=True)
class BranchFile:
    """A branch file that passed every check it can pass on its own.

    Attributes:
        name: what it is called in messages, usually its file name.
        manifest: what its box says of it.
        plan: the plan it was trained under.
        parameters: float32 tensors by name.
        sha256: of its bytes.
        bytes: its size.
        kernel: by which the ensemble makes its box's images of fine ones; a merge may change it.
        signed: id of the key whose signature a merge verified; none where it did not look.
    """

    name: str
    manifest: Manifest
    plan: Plan
    parameters: dict[str, NDArray[np.float32]]
    sha256: str
    bytes: int
    kernel: Kernel = "area"
    signed: str | None = None


class Unusable(Exception):  # noqa: N818  (a verdict that travels with its reasons)
    """A file that is not a branch file one can merge.

    Attributes:
        reasons: every reason found, as sentences without the file's name.
    """

    def __init__(self, reasons: list[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


def read_bytes(path: Path) -> bytes:
    """Return the content of a regular file, read once: what is checked is what is used.

    Raises:
        DataError: it cannot be read, is a link or no regular file, changes while it is read, or is
            larger than any model of ours.
    """
    return read_once(path, most=MAX_FILE_BYTES, expected="an ONNX file").data


def parse_model(data: bytes) -> onnx.ModelProto:
    """Parse bytes as an ONNX model, anybody's.

    Raises:
        Unusable: they are none, or hold more than a model does.
    """
    try:
        scan_model(data)
    except Refused as verdict:
        raise Unusable([str(verdict)]) from None
    return parse_scanned(data)


def parse_scanned(data: bytes) -> onnx.ModelProto:
    """Parse bytes that `edge_stl.gate.scan_model` let through.

    Raises:
        Unusable: they are no model all the same.
    """
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except (DecodeError, RuntimeError, ValueError):
        raise Unusable(["is not an ONNX file, or is truncated"]) from None
    return model


def need_own(outline: Outline) -> None:
    """Refuse what edge-stl writes into no file: functions, other domains, external data.

    Raises:
        Unusable: with everything that was found.
    """
    if outline.foreign:
        raise Unusable([f"has {', '.join(outline.foreign)}; no file of edge-stl has"])


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    """Return the model's ``metadata_props``."""
    return {prop.key: prop.value for prop in model.metadata_props}


def kind_of(model: onnx.ModelProto) -> str | None:
    """Return ``branch``, ``ensemble`` or None for a model of somebody else."""
    return metadata(model).get(names.KEY_KIND)


def read_branch(path: Path) -> BranchFile:
    """Read one branch file.

    Raises:
        DataError: the file cannot be read.
        Unusable: it is not a usable branch file; with every reason.
    """
    return branch_from_bytes(read_bytes(path), name=path.name)


def branch_from_bytes(data: bytes, *, name: str) -> BranchFile:
    """Check the bytes of a branch file.

    Raises:
        Unusable: they are not a usable branch file; with every reason.
    """
    try:
        outline = scan_model(data)
    except Refused as verdict:
        raise Unusable([str(verdict)]) from None
    props = outline.metadata
    kind = props.get(names.KEY_KIND)
    if kind != names.BRANCH:
        what = "an ensemble" if kind == names.ENSEMBLE else "an ONNX file, but not one of edge-stl"
        raise Unusable([f"is {what}; expected a branch file that 'edge-stl train' wrote"])
    if props.get(names.KEY_FORMAT) != str(names.FORMAT):
        raise Unusable(
            [
                f"has format {props.get(names.KEY_FORMAT)!r}; this version reads format "
                f"{names.FORMAT}. Use a newer edge-stl"
            ]
        )
    need_own(outline)
    try:
        manifest, plan = parse_manifest(props.get(names.KEY_MANIFEST, ""))
    except (ValueError, RecursionError, EdgeStlError) as error:
        raise Unusable([f"its manifest is damaged: {error}"]) from None
    reasons = disagreements(manifest, plan)
    if len(data) > plan.limits.max_branch_bytes:
        reasons.append(
            f"has {len(data)} bytes; its plan allows {plan.limits.max_branch_bytes} (limits."
            "max_branch_bytes)"
        )
    if reasons:
        raise Unusable(reasons)
    parameters = take_parameters(
        parse_scanned(data),
        branch_shapes(plan, manifest.branch),
        constants=branch_constants(plan, manifest.branch),
    )
    if build_branch(manifest, plan, parameters) != data:
        raise Unusable(
            [
                "is not byte for byte what an agent writes for these numbers; it was edited or "
                "saved again by another program. Copy the original from its box"
            ]
        )
    return BranchFile(name, manifest, plan, parameters, sha256(data), len(data))


def take_parameters(
    model: onnx.ModelProto,
    shapes: dict[str, tuple[int, ...]],
    *,
    constants: Mapping[str, NDArray[np.generic]],
) -> dict[str, NDArray[np.float32]]:
    """Return the tensors that ``shapes`` asks for.

    Args:
        model: of a branch.
        shapes: name and shape of every tensor that is a number of its box.
        constants: the others, which must be as they are here.

    Raises:
        Unusable: with every tensor that is missing, unknown, ill-shaped, not finite or not
            plausible.
    """
    given = {tensor.name: tensor for tensor in model.graph.initializer}
    known = {**shapes, **constants}
    reasons = [f"tensor {name} is missing" for name in known if name not in given]
    unknown = [name for name in given if name not in known]
    reasons += [
        f"tensor {one_line(name)} is unknown to the plan's network" for name in unknown[:_NAMED]
    ]
    if len(unknown) > _NAMED:
        reasons.append(f"{len(unknown) - _NAMED:,} more tensors are unknown to it")
    if len(given) != len(model.graph.initializer):
        reasons.append("a tensor name stands twice")
    reasons += [
        f"tensor {name} is not {values.tolist()}, which the plan's network has there"
        for name, values in constants.items()
        if name in given and not _holds(given[name], values)
    ]
    parameters = {}
    for name, shape in shapes.items():
        if name in given:
            array = take_tensor(given[name], shape, reasons)
            if array is not None:
                parameters[name] = array
    if reasons:
        raise Unusable(reasons)
    return parameters


def _holds(tensor: onnx.TensorProto, values: NDArray[np.generic]) -> bool:
    """Return whether a tensor has this type, shape and these numbers."""
    return (
        tensor.data_type == onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
        and tuple(tensor.dims[: values.ndim + 1]) == values.shape
        and tensor.raw_data == values.astype(values.dtype.newbyteorder("<")).tobytes()
    )


def take_tensor(
    tensor: onnx.TensorProto, shape: tuple[int, ...], reasons: list[str]
) -> NDArray[np.float32] | None:
    """Return a tensor's numbers; None, and a reason more, where they are not what they must be."""
    given = tuple(tensor.dims[: len(shape) + 1])  # a hostile file may have a million
    name = one_line(tensor.name)
    if given != shape:
        reasons.append(f"tensor {name} has shape {given}, the plan has {shape}")
        return None
    count = math.prod(shape)
    if (
        tensor.data_type != TensorProto.FLOAT
        or tensor.data_location != TensorProto.DEFAULT
        or len(tensor.raw_data) != 4 * count
    ):
        reasons.append(f"tensor {name} is not {count} float32 numbers of raw data")
        return None
    array = np.frombuffer(tensor.raw_data, dtype="<f4").reshape(shape)
    reasons += [f"tensor {name} {what}" for what in implausible_numbers(tensor.name, array)]
    return array

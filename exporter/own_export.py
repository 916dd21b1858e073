"""What torch exports of a network of the user's own, as the canonical graph of a branch file.

torch exports at opset 18 and cannot go below. A node whose operator is the same in opset 17 is
taken as it is; a few others are written with operators that are. Everything else is refused by
name. Names, doc strings and metadata of the exporter, which hold paths and source lines, are not
taken over.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from edge_stl.errors import CheckError
from edge_stl.gate import GRAPH_OPERATORS
from edge_stl.plan import Plan, one_line
from exporter import names
from exporter._own_child import judged
from exporter.branch import export_branch
from exporter.manifest import Manifest, vector_input
from exporter.own import NoGraph, Number, OwnNode, canonical
from exporter.own_shapes import shapes_of
from exporter.plausible import flushed
from exporter.read import Unusable, look_at_branch


EXPORT_OPSET = 18
_REWRITTEN = {"Constant", "Identity", "ReduceMean", "Reshape", "Shape", "Split"}
_PLANE = 4
"""Axes of ``(N, C, h, w)``."""


def export_own(manifest: Manifest, plan: Plan, exported: bytes) -> bytes:
    """Return the bytes of a branch file whose network is the user's own.

    Args:
        manifest: what the box says of the branch.
        plan: the plan it was trained under.
        exported: the model that `torch.onnx.export` made at opset 18: input `bands`, output
            ``logits``, the first dimension of both the batch.

    Raises:
        CheckError: a desk could not run it; the sentence names the node or tensor.
    """
    branch = plan.branch(manifest.branch)
    where = f"{manifest.id}: network {branch.network}"
    try:
        graph, parameters = canonical(*_taken(exported), output=names.BRANCH_OUTPUT)
    except NoGraph as verdict:
        raise CheckError(f"{where}: {verdict}. Write the network without it") from None
    data = export_branch(manifest, plan, parameters, graph)
    if len(data) > plan.limits.max_branch_bytes:
        raise CheckError(
            f"{where}: its file has {len(data):,} bytes; the plan allows "
            f"{plan.limits.max_branch_bytes:,} (limits.max_branch_bytes). Make a plan with a "
            "smaller network or a higher limit"
        )
    try:
        look_at_branch(data, name=manifest.id)
    except Unusable as verdict:
        raise CheckError(
            f"{where}: no desk would read its file: {verdict}. Write the network without it"
        ) from None
    bands = vector_input(
        manifest.test_vector.seed, channels=plan.band_channels(branch), size=plan.band_size(branch)
    )
    problem = judged(data, bands, classes=len(plan.classes))
    if problem is not None:
        raise CheckError(
            f"{where}: no desk would run its graph: {problem}. Write the network otherwise"
        )
    return data


def _taken(exported: bytes) -> tuple[dict[str, OwnNode], dict[str, NDArray[Any]]]:
    """Return nodes and tensors in operators of opset 17.

    Raises:
        NoGraph: a node or tensor has no such form.
    """
    model = onnx.load_from_string(exported)
    if model.functions:
        raise NoGraph([f"function {one_line(model.functions[0].name)} was exported as one"])
    tensors = {t.name: _tensor(t.name, t) for t in model.graph.initializer}
    shapes = shapes_of(onnx.load_from_string(exported), batch=2)
    taken = _Taken(tensors, shapes)
    for node in model.graph.node:
        taken.add(node)
    return taken.nodes, taken.tensors


class _Taken:
    """Nodes and tensors so far.

    Attributes:
        nodes: by the value that each makes.
        tensors: by name.
    """

    def __init__(
        self, tensors: dict[str, NDArray[Any]], shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        self.nodes: dict[str, OwnNode] = {}
        self.tensors = tensors
        self._shapes = shapes
        self._same: dict[str, str] = {}

    def add(self, node: onnx.NodeProto) -> None:
        """Take a node over, or what does the same.

        Raises:
            NoGraph: nothing in opset 17 does.
        """
        if node.domain or node.op_type not in _REWRITTEN:
            _need_known(node)
        inputs = [self._same.get(name, name) for name in node.input]
        attributes = _attributes(node)
        output = node.output[0]
        if node.op_type == "Identity" and output != names.BRANCH_OUTPUT:
            self._same[output] = inputs[0]
        elif node.op_type == "Constant" and "value" in {a.name for a in node.attribute}:
            self.tensors[output] = _tensor(output, node.attribute[0].t)
        elif node.op_type == "Shape":
            pass  # read by a Reshape alone, or it is missed there
        elif node.op_type == "Reshape":
            self._reshape(inputs, output, attributes)
        elif node.op_type == "ReduceMean":
            self._mean(node, inputs, output, attributes)
        elif node.op_type == "Split":
            self._split(inputs, list(node.output), attributes)
        else:
            self.nodes[output] = OwnNode(node.op_type, tuple(inputs), tuple(attributes.items()))

    def _constant(self, name: str, numbers: list[int]) -> str:
        self.tensors[name] = np.array(numbers, np.int64)
        return name

    def _reshape(self, inputs: list[str], output: str, attributes: dict[str, Number]) -> None:
        """Take a Reshape over; a shape that is computed becomes a constant but for the batch."""
        shape = self._shapes.get(output, ())
        if inputs[1] not in self.tensors and shape[:1] == (2,):
            inputs[1] = self._constant(f"{output}/shape", [-1, *shape[1:]])
        self.nodes[output] = OwnNode("Reshape", tuple(inputs), tuple(attributes.items()))

    def _mean(
        self, node: onnx.NodeProto, inputs: list[str], output: str, attributes: dict[str, Number]
    ) -> None:
        """Write a mean over the plane as a pooling, which old runtimes and TensorRT take."""
        rank = len(self._shapes.get(inputs[0], ()))
        axes = self.tensors.get(inputs[1]) if len(inputs) > 1 else None
        if rank != _PLANE or axes is None or sorted(int(a) % rank for a in axes.ravel()) != [2, 3]:
            _need_known(node)
        if attributes.get("keepdims", 1):
            self.nodes[output] = OwnNode("GlobalAveragePool", (inputs[0],))
            return
        self.nodes[f"{output}/plane"] = OwnNode("GlobalAveragePool", (inputs[0],))
        self.nodes[output] = OwnNode("Flatten", (f"{output}/plane",))

    def _split(self, inputs: list[str], outputs: list[str], attributes: dict[str, Number]) -> None:
        """Write a Split as one Slice for each part."""
        axis = int(attributes.get("axis", 0))  # type: ignore[arg-type]  # ONNX: one integer
        at = 0
        for output in outputs:
            shape = self._shapes.get(output)
            if shape is None:
                raise NoGraph([f"value {one_line(output)} has no fixed shape"])
            size = shape[axis]
            ends = [
                self._constant(f"{output}/{what}", [number])
                for what, number in (("start", at), ("end", at + size), ("axis", axis))
            ]
            self.nodes[output] = OwnNode("Slice", (inputs[0], *ends))
            at += size


def _need_known(node: onnx.NodeProto) -> None:
    """Refuse a node that a desk would not take.

    Raises:
        NoGraph: naming it.
    """
    what = f"node {one_line(node.name)} is a {one_line(node.op_type)}"
    if node.domain:
        raise NoGraph([f"{what} of domain {one_line(node.domain)}; expected standard operators"])
    since = onnx.defs.get_schema(node.op_type, EXPORT_OPSET).since_version
    if since > names.OPSET:
        raise NoGraph([f"{what} of opset {since}; the file has opset {names.OPSET}"])
    if node.op_type not in GRAPH_OPERATORS or len(node.output) != 1:
        raise NoGraph([f"{what}, which is not among the operators that a desk takes"])


def _attributes(node: onnx.NodeProto) -> dict[str, Number]:
    """Return the attributes that are not at their default, by name, sorted.

    Raises:
        NoGraph: one is no number.
    """
    found: dict[str, Number] = {}
    known: Mapping[str, Any] = {}
    if not node.domain and onnx.defs.has(node.op_type, EXPORT_OPSET):
        known = onnx.defs.get_schema(node.op_type, EXPORT_OPSET).attributes
    for attribute in sorted(node.attribute, key=lambda a: a.name):
        value = helper.get_attribute_value(attribute)
        default = known[attribute.name].default_value if attribute.name in known else None
        if (
            default is not None
            and default.type == attribute.type
            and helper.get_attribute_value(default) == value
        ):
            continue
        match attribute.type:
            case AttributeProto.INT | AttributeProto.FLOAT:
                found[attribute.name] = value
            case AttributeProto.INTS if value:
                found[attribute.name] = tuple(value)
            case AttributeProto.TENSOR if node.op_type == "Constant":
                pass
            case _:
                raise NoGraph(
                    [
                        f"node {one_line(node.name)} is a {one_line(node.op_type)} with "
                        f"{one_line(attribute.name)} {one_line(str(value))}; expected numbers"
                    ]
                )
    return found


def _tensor(name: str, tensor: TensorProto) -> NDArray[Any]:
    """Return the numbers of a tensor, those below float32's full precision as 0.

    Raises:
        NoGraph: they are neither float32 nor int64.
    """
    array = numpy_helper.to_array(tensor)
    if array.dtype == np.float32:
        return flushed(array)
    if array.dtype == np.int64:
        return array
    raise NoGraph([f"tensor {one_line(name)} is {array.dtype}; expected float32"])

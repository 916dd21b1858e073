"""A network of the user's own as a graph: its one canonical form, in a file and in an ensemble.

Values are named by their place, so a name tells nothing of the box and none collides: the input is
`bands`, the output ``logits``, the other nodes make ``n0``, ``n1``, … in the order in which a walk
from the output, inputs first, leaves them; tensors are ``t0``, ``t1``, … in the order of their
first use. In an ensemble all of them stand behind ``BRANCH.BOX/``, and `split` takes that away.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, TensorProto

from edge_stl.gate import GRAPH_OPERATORS
from edge_stl.plan import one_line
from exporter import names
from exporter._graph import Graph, all_graphs
from exporter.plausible import implausible_numbers


MOST_NODES = 2000
MOST_TENSORS = 4000
MOST_INPUTS = 64
"""Of a node; a dense block of that many layers has no more."""

MOST_AXES = 6
MOST_INTEGERS = 64
"""Of a tensor of integers: axes, shapes and indices."""

_OURS = re.compile("[nt][0-9]{1,6}")
_REASONS = 10
_KINDS: dict[int, str] = {TensorProto.FLOAT: "<f4", TensorProto.INT64: "<i8"}

Number = int | float | tuple[int, ...]
Parameters = dict[str, NDArray[np.float32]]


class NoGraph(Exception):  # noqa: N818  (a verdict that travels with its reasons)
    """A graph that is none of a network of the user's own.

    Attributes:
        reasons: every reason found, as sentences without the file's name.
    """

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = list(reasons)


@dataclass(frozen=True)
class OwnNode:
    """An operator, what it reads and how; it makes one value."""

    operator: str
    inputs: tuple[str, ...]
    attributes: tuple[tuple[str, Number], ...] = ()


@dataclass(frozen=True, eq=False)
class OwnGraph:
    """A network in canonical form; its float32 tensors are the parameters of its branch file.

    Attributes:
        nodes: in order, each after what it reads; the last one makes the logits.
        integers: shapes, axes and indices by name, int64.
    """

    nodes: tuple[OwnNode, ...]
    integers: Mapping[str, NDArray[np.int64]]


def canonical(
    nodes: Mapping[str, OwnNode], tensors: Mapping[str, NDArray[Any]], *, output: str
) -> tuple[OwnGraph, Parameters]:
    """Return a graph in canonical form; what nobody reads is left out.

    Args:
        nodes: by the value that each makes.
        tensors: float32 and int64, by name.
        output: the value that becomes the logits; `bands` is the input.

    Raises:
        NoGraph: it has a cycle, reads what nobody makes, or makes no answer.
    """
    if output not in nodes:
        raise NoGraph(["no node makes the logits"])
    order = _walked(nodes, tensors, output)
    new: dict[str, str] = {"": "", names.BRANCH_INPUT: names.BRANCH_INPUT}
    new |= {value: f"n{i}" for i, value in enumerate(order)} | {output: names.BRANCH_OUTPUT}
    integers: dict[str, NDArray[np.int64]] = {}
    parameters: Parameters = {}
    made = []
    for value in order:
        node = nodes[value]
        for name in node.inputs:
            if name not in new:
                new[name] = f"t{len(integers) + len(parameters)}"
                array = tensors[name]
                (parameters if array.dtype == np.float32 else integers)[new[name]] = array
        made.append(OwnNode(node.operator, tuple(new[n] for n in node.inputs), node.attributes))
    return OwnGraph(tuple(made), integers), parameters


def _walked(
    nodes: Mapping[str, OwnNode], tensors: Mapping[str, NDArray[Any]], output: str
) -> list[str]:
    """Return the values that the output needs, each after those that it needs itself."""
    order: list[str] = []
    state: dict[str, bool] = {}  # False while a value waits for its inputs
    stack = [output]
    while stack:
        value = stack[-1]
        if value not in state:
            state[value] = False
            for name in reversed(nodes[value].inputs):
                if name in nodes:
                    if state.get(name) is False:
                        raise NoGraph([f"value {one_line(name)} waits for itself"])
                    if name not in state:
                        stack.append(name)
                elif name not in tensors and name not in {"", names.BRANCH_INPUT}:
                    raise NoGraph([f"reads {one_line(name)}, which nothing makes"])
            continue
        stack.pop()
        if not state[value]:
            state[value] = True
            order.append(value)
    return order


def add_own(
    graph: Graph,
    own: OwnGraph,
    parameters: Mapping[str, NDArray[np.float32]],
    *,
    input_name: str,
    prefix: str,
) -> str:
    """Add the nodes of a network of the user's own; as `exporter._network.add_network`.

    Args:
        graph: what they are added to.
        own: the network.
        parameters: its float32 tensors.
        input_name: the value that is read.
        prefix: put before every name, like ``fine.cam07/``.

    Returns:
        the name of the output, ``(N, classes)``.
    """
    output = ""
    for index, node in enumerate(own.nodes):
        inputs = []
        for name in node.inputs:
            if name in own.integers:
                inputs.append(graph.constant(prefix + name, own.integers[name]))
            elif name in parameters:
                inputs.append(graph.constant(prefix + name, parameters[name]))
            elif name == names.BRANCH_INPUT:
                inputs.append(input_name)
            else:
                inputs.append(name and prefix + name)
        last = index == len(own.nodes) - 1
        output = prefix + (names.BRANCH_OUTPUT if last else f"n{index}")
        attributes: dict[str, Any] = dict(node.attributes)
        graph.node(node.operator, inputs, output, **attributes)
    return output


def own_in_file(model: onnx.ModelProto) -> tuple[OwnGraph, Parameters]:
    """Take the network out of a branch file.

    Raises:
        NoGraph: it holds what no such network does; with every reason.
    """
    graph = model.graph
    reasons = []
    for found, most, what in (
        (len(graph.node), MOST_NODES, "nodes"),
        (len(graph.initializer), MOST_TENSORS, "tensors"),
    ):
        if found > most:
            reasons.append(f"has {found:,} {what}; a network of one's own has at most {most:,}")
    if reasons:
        raise NoGraph(reasons)
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    return _own([(node, list(node.input)) for node in graph.node], tensors, names.BRANCH_OUTPUT)


def own_in_ensemble(model: onnx.ModelProto, identity: str) -> tuple[OwnGraph, Parameters]:
    """Take the network of a branch out of an ensemble, and the prefix off its names.

    Args:
        model: the ensemble.
        identity: ``branch.box``.

    Raises:
        NoGraph: it is not there, or holds what no such network does; with every reason.
    """
    prefix = f"{identity}/"

    def bare(name: str) -> str:
        ours = name.startswith(prefix) and _OURS.fullmatch(name.removeprefix(prefix))
        # what is not its own value is the one that it reads
        return name.removeprefix(prefix) if ours or not name else names.BRANCH_INPUT

    nodes, tensors = [], {}
    for graph in all_graphs(model.graph):
        for node in graph.node:
            value = node.output[0] if len(node.output) == 1 else prefix
            if value == prefix + names.BRANCH_OUTPUT or bare(value) != names.BRANCH_INPUT:
                copy = onnx.NodeProto()
                copy.CopyFrom(node)
                copy.output[0] = value.removeprefix(prefix)
                nodes.append((copy, [bare(name) for name in node.input]))
        for tensor in graph.initializer:
            if bare(tensor.name) != names.BRANCH_INPUT:
                tensors[tensor.name.removeprefix(prefix)] = tensor
    return _own(nodes, tensors, names.BRANCH_OUTPUT)


def _own(
    nodes: Sequence[tuple[onnx.NodeProto, list[str]]],
    tensors: Mapping[str, TensorProto],
    output: str,
) -> tuple[OwnGraph, Parameters]:
    reasons: list[str] = []
    made: dict[str, OwnNode] = {}
    for node, inputs in nodes:
        what = f"node {one_line(node.name)}"
        if len(node.output) != 1 or node.output[0] in made or node.output[0] in tensors:
            reasons.append(f"{what} makes {len(node.output)} values, or one that is there already")
            continue
        problem = _node_problem(node)
        if problem is not None:
            reasons.append(f"{what} {problem}")
            continue
        attributes = tuple((a.name, _number(a)) for a in node.attribute)
        made[node.output[0]] = OwnNode(node.op_type, tuple(inputs), attributes)
    arrays = {name: _array(tensor, reasons) for name, tensor in tensors.items()}
    if reasons:
        more = [f"and {len(reasons) - _REASONS:,} more"] if len(reasons) > _REASONS else []
        raise NoGraph([*reasons[:_REASONS], *more])
    own, parameters = canonical(made, arrays, output=output)
    if not parameters:
        raise NoGraph(["has no numbers that could have been trained"])
    return own, parameters


def _node_problem(node: onnx.NodeProto) -> str | None:
    if node.domain or node.op_type not in GRAPH_OPERATORS:
        return f"is a {one_line(node.op_type)}, which no network of one's own may have"
    if len(node.input) > MOST_INPUTS:
        return f"reads {len(node.input):,} values; at most {MOST_INPUTS} are read"
    for attribute in node.attribute:
        numbers = _number(attribute)
        if numbers is None or (isinstance(numbers, float) and not math.isfinite(numbers)):
            return f"has an attribute {one_line(attribute.name)} that is no number"
        if isinstance(numbers, tuple) and not 0 < len(numbers) <= 2 * MOST_AXES:
            return f"has {len(numbers):,} numbers in {one_line(attribute.name)}"
    return None


def _number(attribute: AttributeProto) -> Any:
    """Return the number or numbers of an attribute, None where it has another content."""
    match attribute.type:
        case AttributeProto.INT:
            return int(attribute.i)
        case AttributeProto.FLOAT:
            return float(attribute.f)
        case AttributeProto.INTS:
            return tuple(attribute.ints)
    return None


def _array(tensor: TensorProto, reasons: list[str]) -> NDArray[Any]:
    """Return a tensor's numbers; a reason more where they are not what they may be."""
    what = f"tensor {one_line(tensor.name)}"
    shape = tuple(tensor.dims[: MOST_AXES + 1])
    dtype: np.dtype[Any] = np.dtype(_KINDS.get(tensor.data_type, "V1"))
    count = math.prod(shape)
    empty: NDArray[Any] = np.zeros(0, np.float32)
    if len(shape) > MOST_AXES or any(side < 1 for side in shape):
        reasons.append(f"{what} has shape {shape}; at most {MOST_AXES} axes, none of them empty")
    elif dtype.kind == "V" or (dtype.kind == "i" and count > MOST_INTEGERS):
        reasons.append(f"{what} is neither float32 nor at most {MOST_INTEGERS} integers (int64)")
    elif tensor.data_location != TensorProto.DEFAULT or len(tensor.raw_data) != (
        dtype.itemsize * count
    ):
        reasons.append(f"{what} is not {count} numbers of raw data")
    else:
        array = np.frombuffer(tensor.raw_data, dtype=dtype).reshape(shape)
        if dtype.kind == "f":
            reasons += [f"{what} {said}" for said in implausible_numbers(tensor.name, array)]
        return array
    return empty

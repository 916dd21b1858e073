"""The shapes of a network of the user's own, and what an image costs: told before it runs.

onnx infers them for a batch of two and for one of three. What is not the same for both but for the
batch, or not told at all, is no shape that a file may leave open.
"""

import math
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import TensorProto

from edge_stl.plan import one_line
from exporter import names
from exporter.own import MOST_AXES, NoGraph
from exporter.plausible import MOST_ACTIVATIONS, MOST_MULTIPLY_ADDS


Shape = tuple[int, ...]
_BATCHES = (2, 3)


@dataclass(frozen=True)
class Cost:
    """What one image costs.

    Attributes:
        numbers: of all values together, as if none were ever given back.
        multiply_adds: of convolutions and products of matrices.
    """

    numbers: int
    multiply_adds: int


def shapes_of(model: onnx.ModelProto, *, batch: int) -> dict[str, Shape]:
    """Return the shape of every value and tensor for a batch of a fixed size.

    Args:
        model: with one input, whose first dimension is the batch; it is changed.
        batch: images.

    Raises:
        NoGraph: onnx cannot tell them, or a value is not float32.
    """
    graph = model.graph
    del graph.value_info[:]
    for entry in (*graph.input, *graph.output):
        entry.type.tensor_type.shape.dim[0].dim_value = batch
    try:
        told = onnx.shape_inference.infer_shapes(
            model, check_type=True, strict_mode=True, data_prop=True
        ).graph
    except Exception as error:  # noqa: BLE001  (onnx raises several unrelated types)
        raise NoGraph([f"its shapes do not fit: {_first_line(error)}"]) from None
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for entry in (*told.input, *told.value_info, *told.output):
        dims = entry.type.tensor_type.shape.dim
        if all(dim.HasField("dim_value") for dim in dims):
            shapes[entry.name] = tuple(dim.dim_value for dim in dims)
        if entry.type.tensor_type.elem_type != TensorProto.FLOAT:
            shapes.pop(entry.name, None)
    return shapes


def cost_of(data: bytes, *, classes: int) -> Cost:
    """Return what one image costs a branch file.

    Args:
        data: the file.
        classes: K.

    Raises:
        NoGraph: a shape is open, depends on the batch in another place than the first, or the
            answer is not ``(N, K)``; or an image costs more than a desk spends on it.
    """
    model = onnx.load_from_string(data)
    two, three = (shapes_of(onnx.load_from_string(data), batch=batch) for batch in _BATCHES)
    numbers = work = 0
    tensors = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        value = node.output[0]
        shape, other = two.get(value), three.get(value)
        if shape is None or other is None:
            raise NoGraph([f"value {one_line(value)} has no fixed shape of float32 numbers"])
        fits = shape[:1] == _BATCHES[:1] and other == (_BATCHES[1], *shape[1:])
        constant = shape == other and all(name in tensors for name in node.input)
        if constant:
            tensors.add(value)
        elif not fits:
            raise NoGraph([f"value {one_line(value)} is {shape} for two images, {other} for three"])
        if len(shape) > MOST_AXES or any(side < 1 for side in shape):
            raise NoGraph([f"value {one_line(value)} has shape {shape[: MOST_AXES + 1]}"])
        numbers += math.prod(shape[1:])
        work += _work(node, two, shape)
        for amount, what, most in (
            (numbers, "numbers in memory", MOST_ACTIVATIONS),
            (work // 2, "multiply-adds", MOST_MULTIPLY_ADDS),
        ):
            if amount > most:
                raise NoGraph([f"takes {amount:,} {what} for an image; at most {most:,} are run"])
    answer = two.get(names.BRANCH_OUTPUT)
    if answer != (_BATCHES[0], classes):
        raise NoGraph([f"its answer to two images is {answer}; expected {(_BATCHES[0], classes)}"])
    return Cost(numbers, work // 2)


def _work(node: Any, shapes: dict[str, Shape], made: Shape) -> int:
    """Return the multiply-adds of a node for two images."""
    if node.op_type == "Conv":
        return math.prod(made) * math.prod(shapes[node.input[1]][1:])
    if node.op_type in {"Gemm", "MatMul"}:
        inner = shapes[node.input[0]]
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        return math.prod(made) * inner[0 if transposed else -1]
    return math.prod(made) if node.op_type in {"AveragePool", "MaxPool"} else 0


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return one_line(lines[-1]) if lines else type(error).__name__

"""Ways to spoil an ensemble that a self-test must notice."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def changed(data: bytes, change: Callable[[onnx.ModelProto], None]) -> bytes:
    """Return a model after a change."""
    model = onnx.load_from_string(data)
    change(model)
    return bytes(model.SerializeToString())


def set_numbers(model: onnx.ModelProto, name: str, value: float) -> None:
    """Fill an initializer with a number."""
    (tensor,) = [t for t in model.graph.initializer if t.name.endswith(name)][:1]
    array = np.full_like(numpy_helper.to_array(tensor), value)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def after_the_answer(model: onnx.ModelProto, node: Callable[[str, str], list[Any]]) -> None:
    """Put nodes between the probabilities as they were and the output of that name."""
    for existing in model.graph.node:
        for index, name in enumerate(existing.output):
            if name == "probabilities":
                existing.output[index] = "honest"
        for index, name in enumerate(existing.input):
            if name == "probabilities":
                existing.input[index] = "honest"
    model.graph.node.extend(node("honest", "probabilities"))


def endless(model: onnx.ModelProto) -> None:
    """Answer after a loop of 10^12 turns."""
    float_1 = helper.make_tensor_value_info("turned", TensorProto.FLOAT, ["batch", 3])
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Sin", ["state"], ["turned"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, ["batch", 3]),
        ],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, []), float_1],
    )
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(10**12, np.int64), "turns"),
            numpy_helper.from_array(np.array(1, np.bool_), "yes"),
        ]
    )
    after_the_answer(
        model,
        lambda honest, out: [helper.make_node("Loop", ["turns", "yes", honest], [out], body=body)],
    )


def hungry(model: onnx.ModelProto) -> None:
    """Answer after filling 400 GB, a size that the image's pixels decide."""
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.array([100_000, 1_000_000], np.int64), "huge"),
            numpy_helper.from_array(np.array([0, 1], np.int64), "both"),
            numpy_helper.from_array(np.array(0, np.float32), "nothing"),
        ]
    )
    after_the_answer(
        model,
        lambda honest, out: [
            helper.make_node("ReduceMax", [honest], ["top"], keepdims=0),
            helper.make_node("Expand", ["top", "huge"], ["filled"]),
            helper.make_node("Sin", ["filled"], ["waved"]),
            helper.make_node("ReduceMax", ["waved"], ["one"], keepdims=0),
            helper.make_node("Mul", ["one", "nothing"], ["zero"]),
            helper.make_node("Add", [honest, "zero"], [out]),
        ],
    )


def slow(model: onnx.ModelProto) -> None:
    """Answer the same after 250 large matrix products."""
    rng = np.random.default_rng(0)
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(rng.random((3, 1024), np.float32), "wide"),
            numpy_helper.from_array(rng.random((1024, 1024), np.float32) / 512, "square"),
            numpy_helper.from_array(np.array(0, np.float32), "nothing"),
        ]
    )

    def nodes(honest: str, out: str) -> list[Any]:
        found = [helper.make_node("MatMul", [honest, "wide"], ["w0"])]
        found += [
            helper.make_node("MatMul", [f"w{i}", "square"], [f"w{i + 1}"]) for i in range(250)
        ]
        return [
            *found,
            helper.make_node("ReduceMin", ["w250"], ["least"], axes=[1], keepdims=1),
            helper.make_node("Clip", ["least", "nothing", "nothing"], ["zero"]),
            helper.make_node("Add", [honest, "zero"], [out]),
        ]

    after_the_answer(model, nodes)

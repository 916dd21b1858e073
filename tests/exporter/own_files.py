"""Branch files with a graph of their own, made without torch, and ways to make them hostile."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from edge_stl.plan import Plan, new_plan, plan_from_document
from exporter._session import run
from exporter.branch import build_branch
from exporter.manifest import vector_input
from exporter.own import OwnNode, canonical
from tests.conftest import _numbers, fabricated_manifest


CLASSES = ("bus", "car", "van")
Nodes = dict[str, OwnNode]
Tensors = dict[str, np.ndarray[Any, Any]]


def own_plan(*networks: str, **changes: Any) -> Plan:
    """Return a plan of 8 px with the branches a1 and d1, and these networks."""
    document = new_plan(
        classes=CLASSES, resolution=8, levels=1, channels=1, branches="detail", network="mlp-s"
    ).to_document()
    for branch, network in zip(document["branches"], networks, strict=False):
        branch["network"] = network
    return plan_from_document(document | changes, where="test")


PLAN = own_plan("own:tiny", "own:tiny")


def ordinary(channels: int, seed: int = 0, *, activation: str = "Sigmoid") -> tuple[Nodes, Tensors]:
    """Return a small convolutional network as a user would export it."""
    nodes = {
        "a": OwnNode("Conv", ("bands", "w", "b"), (("pads", (1, 1, 1, 1)),)),
        "s": OwnNode(activation, ("a",)),
        "p": OwnNode("GlobalAveragePool", ("s",)),
        "r": OwnNode("Reshape", ("p", "shape")),
        "y": OwnNode("Gemm", ("r", "v", "c"), (("transB", 1),)),
    }
    shapes = {"w": (6, channels, 3, 3), "b": (6,), "v": (3, 6), "c": (3,)}
    tensors: Tensors = {
        n: 3 * _numbers(10 * seed + i, s) for i, (n, s) in enumerate(shapes.items())
    }
    return nodes, tensors | {"shape": np.array([-1, 6], np.int64)}


def own_branch(
    plan: Plan = PLAN,
    branch: str = "a1",
    *,
    seed: int = 0,
    network: tuple[Nodes, Tensors] | None = None,
    output: str = "y",
    logits: Any = None,
    **facts: Any,
) -> bytes:
    """Return a branch file with a graph of its own; its test vector is true unless one is given.

    Args:
        plan: the plan.
        branch: its name.
        seed: of the numbers of `ordinary`.
        network: another network.
        output: the value that becomes the logits.
        logits: a test vector, where the graph cannot be run to find one.
        **facts: of the manifest.
    """
    spec = plan.branch(branch)
    channels, size = plan.band_channels(spec), plan.band_size(spec)
    graph, parameters = canonical(*(network or ordinary(channels, seed)), output=output)
    if logits is None:
        draft = build_branch(fabricated_manifest(plan, branch, **facts), plan, parameters, graph)
        (logits,) = run(draft, {"bands": vector_input(5, channels=channels, size=size)})
    manifest = fabricated_manifest(plan, branch, logits=logits, **facts)
    return build_branch(manifest, plan, parameters, graph)


def changed(data: bytes, change: Callable[[onnx.ModelProto], Any]) -> bytes:
    """Return a file changed with protobuf's own means."""
    model = onnx.load_from_string(data)
    change(model)
    return model.SerializeToString(deterministic=True)


def then(*further: tuple[str, OwnNode], tensors: Tensors | None = None) -> tuple[Nodes, Tensors]:
    """Return `ordinary` for a1 with more nodes behind its logits ``y``."""
    nodes, known = ordinary(1)
    return nodes | dict(further), known | (tensors or {})


def first(*nodes: tuple[str, OwnNode], tensors: Tensors | None = None) -> tuple[Nodes, Tensors]:
    """Return `ordinary` for a1 with more nodes before it; they make ``x``."""
    after, known = ordinary(1)
    after["a"] = OwnNode("Conv", ("x", "w", "b"), (("pads", (1, 1, 1, 1)),))
    return dict(nodes) | after, known | (tensors or {})


def doubling(times: int) -> tuple[Nodes, Tensors]:
    """Return a network that doubles its input again and again before it looks at it."""
    nodes: list[tuple[str, OwnNode]] = []
    value = "bands"
    for i in range(times):
        nodes.append((f"d{i}", OwnNode("Concat", (value, value), (("axis", 3),))))
        value = f"d{i}"
    return first(*nodes, ("x", OwnNode("Relu", (value,))))


def products(side: int, times: int) -> tuple[Nodes, Tensors]:
    """Return a network that multiplies a ``side x side`` matrix of every image by itself."""
    nodes = [
        ("long", OwnNode("Reshape", ("bands", "flat"))),
        ("wide", OwnNode("MatMul", ("long", "ones"))),
        ("m0", OwnNode("MatMul", ("tall", "wide"))),
    ]
    nodes.insert(2, ("tall", OwnNode("Transpose", ("wide",), (("perm", (0, 1, 3, 2)),))))
    nodes += [(f"m{i}", OwnNode("MatMul", (f"m{i - 1}",) * 2)) for i in range(1, times + 1)]
    nodes.append(("x", OwnNode("Softmax", (f"m{times}",), (("axis", -1),))))
    tensors: Tensors = {
        "flat": np.array([-1, 1, 1, 16], np.int64),
        "ones": np.full((16, side), 1e-3, np.float32),
    }
    return first(*nodes, tensors=tensors)


def body(names: Sequence[str] = ()) -> onnx.GraphProto:
    """Return a subgraph."""
    inputs = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, []) for n in names]
    out = helper.make_tensor_value_info("o", onnx.TensorProto.FLOAT, [])
    return helper.make_graph([helper.make_node("Identity", ["logits"], ["o"])], "g", inputs, [out])

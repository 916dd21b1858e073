"""A stranger's graph that somebody accepts: what is refused before it runs, and what runs where."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from edge_stl.gate import GRAPH_OPERATORS
from exporter import names
from exporter.merge import merge_paths
from exporter.options import Options
from exporter.own import OwnNode
from exporter.read import Unusable, branch_from_bytes
from tests.exporter import own_files as own


ZEROS = np.zeros((2, 3))
HONEST = own.own_branch()


def refused(data: bytes) -> str:
    """Return the reasons for which an accepted graph is refused, in one line."""
    with pytest.raises(Unusable, match=r".") as verdict:
        branch_from_bytes(data, name="f", accept_graphs=True)
    assert all("\n" not in reason for reason in verdict.value.reasons)
    return "; ".join(verdict.value.reasons)


def _node(operator: str, *, domain: str = "", **attributes: Any) -> Callable[[Any], Any]:
    """Put a node behind the logits."""

    def change(model: onnx.ModelProto) -> None:
        last = model.graph.node[-1]
        last.output[0] = last.name = "n9"
        node = helper.make_node(
            operator, ["n9"], ["logits"], name="logits", domain=domain, **attributes
        )
        model.graph.node.append(node)

    return change


def _function(model: onnx.ModelProto) -> None:
    opset = [helper.make_opsetid("", 17)]
    inner = helper.make_node("Relu", ["x"], ["y"])
    model.functions.append(helper.make_function("evil", "f", ["x"], ["y"], [inner], opset))


def _external(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/hostname")


def _sparse(model: onnx.ModelProto) -> None:
    values = numpy_helper.from_array(np.ones(1, np.float32), "s")
    index = numpy_helper.from_array(np.zeros(1, np.int64), "i")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, index, [2**40]))


def _nan(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.raw_data = b"\x00\x00\xc0\x7f" + tensor.raw_data[4:]


def _cycle(model: onnx.ModelProto) -> None:
    model.graph.node[1].input[0] = "n2"


def _renamed(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        node.input[:] = ["secret" if n == "n0" else n for n in node.input]
        node.output[:] = ["secret" if n == "n0" else n for n in node.output]


def _second_output(model: onnx.ModelProto) -> None:
    model.graph.output.add().CopyFrom(helper.make_tensor_value_info("n0", 1, None))


def _dead(model: onnx.ModelProto) -> None:
    model.graph.node.insert(0, helper.make_node("Relu", ["bands"], ["n9"], name="n9"))


def _swapped(model: onnx.ModelProto) -> None:
    """The same graph in another order of its numbers."""
    a, b = model.graph.initializer[0], model.graph.initializer[1]
    kept = onnx.TensorProto.FromString(a.SerializeToString())
    a.CopyFrom(b)
    b.CopyFrom(kept)


def _half(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    array = numpy_helper.to_array(tensor).astype(np.float16)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _twice(model: onnx.ModelProto) -> None:
    model.graph.node.append(model.graph.node[0])


WIRE = {
    "If": (
        _node("If", then_branch=own.body(), else_branch=own.body()),
        r"node logits is a If, which no network of one's own may have",
    ),
    "Loop": (_node("Loop", body=own.body(["i", "c"])), "operator 'Loop', a subgraph in 'Loop'"),
    "Scan": (
        _node("Scan", body=own.body(["s"]), num_scan_inputs=1),
        "operator 'Scan', a subgraph in 'Scan'",
    ),
    "function": (_function, "has a local function"),
    "domain": (_node("Relu", domain="com.evil"), "has domain 'com.evil'"),
    "external data": (_external, "a tensor kept in another file"),
    "sparse tensor": (_sparse, "a sparse tensor"),
    "ConstantOfShape": (_node("ConstantOfShape"), "operator 'ConstantOfShape'"),
    "Expand": (_node("Expand"), "operator 'Expand'"),
    "Tile": (_node("Tile"), "operator 'Tile'"),
    "Cast": (_node("Cast", to=10), "is a Cast, which no network of one's own may have"),
    "TopK": (_node("TopK"), "is a TopK, which no network of one's own may have"),
    "text attribute": (_node("MaxPool", auto_pad="SAME_UPPER"), "has a text attribute"),
    "several floats": (_node("Relu", values=[0.5, 1.5]), "an attribute of several floats"),
    "NaN attribute": (_node("LeakyRelu", alpha=float("nan")), "attribute alpha that is no number"),
    "many integers": (_node("Transpose", perm=[0, 1] * 30), "has 60 numbers in perm"),
    "doc string": (
        lambda m: setattr(m.graph.node[0], "doc_string", "/home/anna/net.py"),
        "has a doc_string",
    ),
    "metadata of a node": (
        lambda m: m.graph.node[0].metadata_props.add(key="trace", value="/home/anna/net.py"),
        "has metadata below the model",
    ),
    "shapes": (
        lambda m: m.graph.value_info.append(helper.make_tensor_value_info("n0", 1, [1])),
        "has value_info",
    ),
    "NaN": (_nan, "1 numbers that are NaN or infinite"),
    "half precision": (_half, "neither float32 nor at most 64 integers"),
    "cycle": (_cycle, "waits for itself"),
    "value twice": (_twice, "makes 1 values, or one that is there already"),
    "name": (_renamed, "not byte for byte what an agent writes"),
    "second output": (_second_output, "not byte for byte what an agent writes"),
    "dead node": (_dead, "not byte for byte what an agent writes"),
    "order": (_swapped, "not byte for byte what an agent writes"),
    "producer": (lambda m: setattr(m, "producer_name", "me"), "not byte for byte"),
    "opset": (lambda m: setattr(m.opset_import[0], "version", 21), "not byte for byte"),
    "missing value": (
        lambda m: m.graph.node[1].input.__setitem__(0, "gone"),
        "reads gone, which nothing makes",
    ),
    "no logits": (
        lambda m: m.graph.node[-1].output.__setitem__(0, "n9"),
        "no node makes the logits",
    ),
}


@pytest.mark.parametrize("kind", WIRE)
def test_a_file_changed_by_a_stranger_is_refused_in_one_line(kind: str):
    change, expected = WIRE[kind]
    assert expected in refused(own.changed(HONEST, change))


def _integers(count: int) -> tuple[own.Nodes, own.Tensors]:
    tensors: own.Tensors = {"many": np.zeros(count, np.int64)}
    return own.then(("z", OwnNode("Gather", ("y", "many"), (("axis", 1),))), tensors=tensors)


def _long(count: int) -> tuple[own.Nodes, own.Tensors]:
    chain = [(f"k{i}", OwnNode("Relu", (f"k{i - 1}" if i else "y",))) for i in range(count)]
    return own.then(*chain, ("z", OwnNode("Relu", (f"k{count - 1}",))))


def _another_size() -> tuple[own.Nodes, own.Tensors]:
    nodes, tensors = own.ordinary(1)
    return nodes | {"z": OwnNode("Concat", ("y", "y"), (("axis", 1),))}, tensors


BUILT: dict[str, tuple[Callable[[], tuple[own.Nodes, own.Tensors]], str, str]] = {
    "doubles its input": (lambda: own.doubling(40), "y", r"takes [0-9,]+ numbers in memory|shapes"),
    "doubles it 24 times": (lambda: own.doubling(24), "y", r"takes [0-9,]+ numbers in memory"),
    "multiplies large matrices": (
        lambda: own.products(5000, 8),
        "y",
        r"takes [0-9,]+ multiply-adds for an image; at most 1,000,000,000,000",
    ),
    "2,001 nodes": (lambda: _long(2000), "z", "has 2,006 nodes; .* at most 2,000"),
    "a table of integers": (lambda: _integers(65), "z", "neither float32 nor at most 64 integers"),
    "wrong classes": (_another_size, "z", "its shapes do not fit|its answer"),
    "NaN at run time": (
        lambda: own.then(("n", OwnNode("Sqrt", ("m",))), ("m", OwnNode("Sub", ("low", "e"))),
                         ("low", OwnNode("Sub", ("y", "big"))), ("e", OwnNode("Exp", ("y",))),
                         tensors={"big": np.array(1e5, np.float32)}),
        "n",
        "answers its test vector with NaN or infinite logits",
    ),
    "looks at the other images": (
        lambda: own.then(("z", OwnNode("Softmax", ("y",), (("axis", 0),)))),
        "z",
        "answers an image otherwise beside another image than alone",
    ),
    "batch in another place": (
        lambda: own.then(
            ("t", OwnNode("Transpose", ("y",), (("perm", (1, 0)),))),
            ("z", OwnNode("Transpose", ("t",), (("perm", (1, 0)),))),
        ),
        "z",
        r"value n5 is \(3, 2\) for two images, \(3, 3\) for three",
    ),
    "a batch of its own": (
        lambda: own.then(
            ("z", OwnNode("Reshape", ("y", "fix"))), tensors={"fix": np.array([2, 3], np.int64)}
        ),
        "z",
        "shapes do not fit|for two images",
    ),
    "numbers that cannot be": (
        lambda: own.then(("z", OwnNode("Add", ("y", "big"))),
                         tensors={"big": np.array(-1e9, np.float32)}),
        "z",
        r"numbers up to 1e\+09; at most 1e\+06",
    ),
    "an attribute that is not known": (
        lambda: own.then(("z", OwnNode("Relu", ("y",), (("mode", 3),)))),
        "z",
        "its graph: not a valid model|its graph: its shapes do not",
    ),
    "nothing trained": (
        lambda: ({"r": OwnNode("Reshape", ("bands", "s")),
                  "z": OwnNode("Gather", ("r", "i"), (("axis", 1),))},
                 {"s": np.array([-1, 16], np.int64), "i": np.array([0, 1, 2], np.int64)}),
        "z",
        "has no numbers that could have been trained",
    ),
    "many inputs": (
        lambda: own.then(("z", OwnNode("Sum", ("y",) * 65))), "z", "reads 65 values",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BUILT)
def test_a_canonical_file_with_a_hostile_graph_is_refused_in_one_line(kind: str):
    """Built by our own builder: only what the graph does speaks against it."""
    network, output, expected = BUILT[kind]
    data = own.own_branch(network=network(), output=output, logits=ZEROS)
    with pytest.raises(Unusable, match=expected) as verdict:
        branch_from_bytes(data, name="f", accept_graphs=True)
    assert "\n" not in str(verdict.value)


def test_a_million_nodes_are_refused_before_any_is_built():
    node = helper.make_node("Relu", ["n0"], ["n0"]).SerializeToString()
    entry = b"\x0a" + bytes([len(node)]) + node
    body = entry * 1_000_000
    size = bytearray()
    left = len(body)
    while left > 0x7F:
        size.append(left & 0x7F | 0x80)
        left >>= 7
    data = HONEST + b"\x3a" + bytes([*size, left]) + body
    began = time.process_time()
    assert "holds more than 800,000 fields" in refused(data)
    assert time.process_time() - began < 20


def test_a_bomb_is_refused_without_being_run_by_this_process(monkeypatch: pytest.MonkeyPatch):
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("a stranger's graph was given to this process's onnxruntime")

    data = own.own_branch(network=own.doubling(24), logits=ZEROS)
    monkeypatch.setattr(ort, "InferenceSession", never)
    monkeypatch.setattr(onnx.checker, "check_model", never)
    assert "numbers in memory" in refused(data)
    assert branch_from_bytes(HONEST, name="f", accept_graphs=True).own is not None


def test_the_child_is_killed_at_its_limit_of_time(monkeypatch: pytest.MonkeyPatch):
    """The graph costs less than the most that is run, and more than three seconds."""
    data = own.own_branch(network=own.products(2048, 30), logits=ZEROS)
    monkeypatch.setattr("exporter.own_judge.SECONDS", 3)
    assert "its graph: takes more than 3 s or" in refused(data)


def test_the_child_is_stopped_at_its_limit_of_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("exporter.own_judge.MEMORY", 60_000_000)
    assert "bytes to run" in refused(HONEST)


def test_the_test_vector_of_an_accepted_graph_is_not_computed_in_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("ONNX's reference implementation ran in this process")

    path = tmp_path / "f.onnx"
    path.write_bytes(HONEST)
    expected = merge_paths([path], options=Options(), accept_graphs=True).model
    monkeypatch.setattr("exporter.vector.reference_logits", never)
    monkeypatch.setattr("onnx.reference.ReferenceEvaluator", never)
    assert merge_paths([path], options=Options(), accept_graphs=True).model == expected


def test_an_operator_of_such_networks_is_refused_in_a_file_of_a_preset(
    fabricate: Callable[..., bytes],
):
    data = fabricate(own.own_plan(), "a1")
    with pytest.raises(Unusable, match="has operator 'Sigmoid'; no file of edge-stl has"):
        branch_from_bytes(own.changed(data, _node("Sigmoid")), name="f", accept_graphs=True)


def test_the_allow_list_holds_plain_operators_of_opset_17_alone():
    for operator in GRAPH_OPERATORS:
        schema = onnx.defs.get_schema(operator, names.OPSET)
        assert schema.since_version <= names.OPSET
        assert schema.max_output <= 1 or operator in {
            "BatchNormalization", "LayerNormalization", "MaxPool",
        }  # fmt: skip
        kinds = {a.type for a in schema.attributes.values()}
        assert not kinds & {onnx.defs.OpSchema.AttrType.GRAPH, onnx.defs.OpSchema.AttrType.GRAPHS}
    assert not GRAPH_OPERATORS & {
        "Cast", "ConstantOfShape", "Dropout", "Einsum", "Expand", "Identity", "If", "Loop",
        "NonZero", "Pad", "RandomNormal", "Range", "Resize", "Scan", "ScatterND", "Shape", "Tile",
        "TopK", "Where",
    }  # fmt: skip

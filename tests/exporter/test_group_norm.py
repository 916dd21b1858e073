"""Group norm in a file: the numbers of torch's, and constants that no file may choose."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from edge_stl.errors import CheckError
from edge_stl.plan import Plan, networks, new_plan
from edge_stl.predict import Ensemble
from edge_stl.predict._vector import need_answer
from edge_stl.testing import assert_parity
from exporter._graph import Graph, value
from exporter._network import add_network, network_constants
from exporter._session import check_model, run
from exporter.merge import change_ensemble, merge_paths
from exporter.names import PORTABLE_OPERATORS
from exporter.options import Options
from exporter.read import Unusable, branch_from_bytes
from exporter.split import branch_bytes, members_of
from exporter.verify import check_path


CLASSES = ["left", "mid", "right"]


def plan_of(network: str = "cnn-s-gn") -> Plan:
    return new_plan(
        classes=CLASSES, resolution=16, channels=1, levels=1, network=network, flip=False
    )


def model_of(
    layers: tuple[networks.Layer, ...], numbers: dict[str, Any], *, channels: int, size: int
) -> bytes:
    geometry = {"channels": channels, "size": size}
    after = list(networks.walk(layers, **geometry))[-1].after
    graph = Graph()
    add_network(graph, layers, numbers, **geometry, input_name="x", prefix="a/", output="y")
    return graph.model(
        name="test",
        inputs=[value("x", onnx.TensorProto.FLOAT, ["batch", channels, size, size])],
        outputs=[value("y", onnx.TensorProto.FLOAT, ["batch", *after])],
        metadata={},
    )


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize(("groups", "size"), [(1, 3), (2, 1), (2, 4), (3, 7), (6, 2)])
def test_the_nodes_compute_torchs_group_norm(groups: int, size: int, batch: int):
    rng = np.random.default_rng(size)
    norm = nn.GroupNorm(groups, 6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    numbers = {
        "0.scale": norm.weight.detach().numpy().reshape(6, 1, 1),
        "0.shift": norm.bias.detach().numpy().reshape(6, 1, 1),
    }
    layers = (networks.GroupNorm(groups),)
    # groups of channels that differ by four orders of magnitude, the small ones near epsilon
    spread = np.logspace(-2, 2, 6).reshape(6, 1, 1)
    x = (spread * (3 + rng.normal(size=(batch, 6, size, size)))).astype(np.float32)
    model = model_of(layers, numbers, channels=6, size=size)

    check_model(model, "test")
    (got,) = run(model, {"x": x})
    with torch.no_grad():
        expected = norm(torch.from_numpy(x)).numpy()
    assert_parity(got, expected, kind="float32")


def test_after_a_dense_layer_it_normalizes_groups_of_features():
    layers = (networks.Flatten(), networks.Dense(6), networks.GroupNorm(3), networks.Relu())
    rng = np.random.default_rng(0)
    shapes = networks.parameter_shapes(layers, channels=2, size=3)
    assert shapes["2.scale"] == shapes["2.shift"] == (6,)
    numbers = {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}
    x = rng.normal(size=(4, 2, 3, 3)).astype(np.float32)

    (got,) = run(model_of(layers, numbers, channels=2, size=3), {"x": x})

    t = {k: torch.from_numpy(v) for k, v in numbers.items()}
    hidden = nn.functional.linear(torch.from_numpy(x).flatten(1), t["1.weight"], t["1.bias"])
    expected = nn.functional.group_norm(hidden, 3, t["2.scale"], t["2.shift"], 1e-5).relu()
    assert_parity(got, expected.numpy(), kind="float32")


def test_the_nodes_are_those_that_old_runtimes_know():
    layers = (
        *(networks.Conv(4, bias=False), networks.GroupNorm(2), networks.Relu()),
        *(networks.Conv(4), networks.GroupNorm(2), networks.Conv(4), networks.GroupNorm(4)),
    )
    shapes = networks.parameter_shapes(layers, channels=2, size=3)
    numbers = {k: np.ones(s, np.float32) for k, s in shapes.items()}
    graph = onnx.load_from_string(model_of(layers, numbers, channels=2, size=3)).graph

    norm = ["Reshape", "InstanceNormalization", "Reshape", "Mul", "Add"]
    assert [n.op_type for n in graph.node] == [
        *("Conv", *norm, "Relu", "Conv", *norm, "Conv", *norm),
    ]
    assert {n.op_type for n in graph.node} <= PORTABLE_OPERATORS
    assert [list(n.input) for n in graph.node[:5]] == [
        ["x", "a/0.weight"],
        ["a/0.out", "a/groups.2"],
        ["a/1.out.groups", "a/ones.2", "a/zeros.2"],
        ["a/1.out.normal", "a/shape.4x3x3"],
        ["a/1.out.whole", "a/1.scale"],
    ]
    assert [t.name for t in graph.initializer if "shape" in t.name or "groups" in t.name] == [
        *("a/groups.2", "a/shape.4x3x3", "a/groups.4"),  # what two layers need stands once
    ]
    assert {a.name: a.f for n in graph.node if "Instance" in n.op_type for a in n.attribute} == {
        "epsilon": pytest.approx(1e-5)
    }


def test_the_constants_follow_from_the_layers():
    layers = (networks.Residual((networks.GroupNorm(3),)), networks.GroupNorm(1))

    found = network_constants(layers, channels=3, size=2)

    assert {name: array.tolist() for name, array in found.items()} == {
        "groups.3": [0, 3, -1],
        "ones.3": [1, 1, 1],
        "zeros.3": [0, 0, 0],
        "shape.3x2x2": [0, 3, 2, 2],
        "groups.1": [0, 1, -1],
        "ones.1": [1],
        "zeros.1": [0],
    }
    plain = networks.preset("cnn-s", channels=3, size=8, classes=2)
    assert network_constants(plain, channels=3, size=8) == {}


# -- hostile files --------------------------------------------------------------------------------


def with_tensor(data: bytes, name: str, values: NDArray[Any] | None) -> bytes:
    """Return a model in which a tensor is another one, or missing."""
    model = onnx.load_from_string(data)
    (at,) = [i for i, t in enumerate(model.graph.initializer) if t.name == name]
    if values is None:
        del model.graph.initializer[at]
    else:
        model.graph.initializer[at].CopyFrom(numpy_helper.from_array(values, name))
    return model.SerializeToString(deterministic=True)


HOSTILE: list[tuple[str, NDArray[Any] | None]] = [
    ("groups.2", np.array([0, 4, -1], np.int64)),
    ("groups.2", np.array([1, 2, -1], np.int64)),
    ("groups.2", np.array([0, 2, 1 << 40], np.int64)),
    ("groups.2", np.array([0, 2, -1], np.int32)),
    ("groups.2", np.array([[0, 2, -1]], np.int64)),
    ("groups.2", np.array([0, 2], np.int64)),
    ("groups.2", None),
    ("shape.64x8x8", np.array([0, 64, 4, 16], np.int64)),
    ("shape.64x8x8", np.array([0, 8, 64, 8], np.int64)),
    ("ones.2", np.array([1, 2], np.float32)),
    ("ones.2", np.array([1, 1], np.float64)),
    ("zeros.2", np.array([0, np.nan], np.float32)),
    ("zeros.2", np.array([0, -0.0], np.float32)),
]


@pytest.mark.parametrize(("name", "values"), HOSTILE, ids=range(len(HOSTILE)))
def test_a_branch_file_that_reshapes_otherwise_is_refused_by_the_name_of_the_constant(
    name: str, values: NDArray[Any] | None, fabricate: Callable[..., bytes]
):
    plan = plan_of()
    data = fabricate(plan, "a1")
    assert branch_from_bytes(data, name="a").parameters
    constant = network_constants(plan.layers(plan.branch("a1")), channels=1, size=8)[name]

    sentence = (
        rf"tensor {name} is missing"
        if values is None
        else rf"tensor {name} is not \{str(constant.tolist())[:-1]}\], which the plan's network has"
    )
    with pytest.raises(Unusable, match=sentence) as caught:
        branch_from_bytes(with_tensor(data, name, values), name="a")
    assert len(caught.value.reasons) == 1


def test_a_branch_file_whose_nodes_reshape_otherwise_is_refused(fabricate: Callable[..., bytes]):
    """The right constants in the wrong places: nothing of the graph is believed."""
    model = onnx.load_from_string(fabricate(plan_of(), "a1"))
    first = next(n for n in model.graph.node if n.op_type == "Reshape")
    first.input[1] = "shape.64x8x8"

    with pytest.raises(Unusable, match="is not byte for byte what an agent writes for these num"):
        branch_from_bytes(model.SerializeToString(deterministic=True), name="a")


def test_a_constant_more_is_unknown(fabricate: Callable[..., bytes]):
    model = onnx.load_from_string(fabricate(plan_of(), "a1"))
    model.graph.initializer.append(numpy_helper.from_array(np.ones(7, np.float32), "ones.7"))

    with pytest.raises(Unusable, match=r"tensor ones\.7 is unknown to the plan's network"):
        branch_from_bytes(model.SerializeToString(deterministic=True), name="a")


def test_an_ensemble_that_reshapes_otherwise_is_found_and_what_is_made_of_it_is_rebuilt(
    fabricate_fleet: Callable[..., list[Path]], tmp_path: Path
):
    files = fabricate_fleet(plan_of(), tmp_path / "boxes")
    good = merge_paths(files, options=Options()).model
    name = "a1.box0/ones.2"
    bad = with_tensor(good, name, np.array([9, -9], np.float32))
    path = tmp_path / "e.onnx"
    path.write_bytes(bad)

    assert any("not byte for byte what merge writes" in f.what for f in check_path(path))
    with pytest.raises(CheckError, match="answers its test vector with a difference of"):
        need_answer(Ensemble(path, threads=1))
    for file, original in zip(members_of(bad, name="e").files, sorted(files), strict=True):
        assert branch_bytes(file) == original.read_bytes()
    left = [p for p in files if "box2" not in p.name]
    assert (
        change_ensemble(bad, name="e", remove=["box2"]).model
        == merge_paths(left, options=Options()).model
    )


def test_a_cascade_keeps_the_constants_of_a_stage_inside_it(
    fabricate_fleet: Callable[..., list[Path]], tmp_path: Path
):
    files = fabricate_fleet(plan_of(), tmp_path / "boxes")
    merged = merge_paths(files, options=Options(threshold=0.6))  # proved by every threshold
    path = tmp_path / "e.onnx"
    path.write_bytes(merged.model)

    assert check_path(path, target="jetpack6") == []
    for file, original in zip(merged.files, sorted(files), strict=True):
        assert branch_bytes(file) == original.read_bytes()

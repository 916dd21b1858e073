"""`check` finds what a target would refuse, and what is not as it was made."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edge_stl.errors import DataError
from edge_stl.plan import Plan, new_plan
from exporter.branch import build_branch
from exporter.merge import merge_paths
from exporter.options import Options
from exporter.verify import TARGETS, check_path, lint


PLAN = new_plan(
    classes=["bus", "car"], resolution=8, levels=1, channels=3, network="cnn-xs", branches="detail"
)


@pytest.fixture(scope="module")
def files(
    fabricate_fleet: Callable[..., list[Path]], tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    return fabricate_fleet(PLAN, tmp_path_factory.mktemp("fleet"))


@pytest.fixture(scope="module")
def ensemble(files: list[Path]) -> bytes:
    return merge_paths(files, options=Options()).model


@pytest.fixture
def found(tmp_path: Path) -> Callable[..., list[str]]:
    """Write bytes and return what `check` finds in them."""

    def check(data: bytes, target: str = "portable") -> list[str]:
        path = tmp_path / "m.onnx"
        path.write_bytes(data)
        findings = check_path(path, target=target)
        assert all(f.what and f.where and f.fix for f in findings)
        return [f.what for f in findings]

    return check


def edited(data: bytes, change: Callable[[onnx.ModelProto], Any]) -> bytes:
    model = onnx.load_from_string(data)
    change(model)
    return model.SerializeToString(deterministic=True)


@pytest.mark.parametrize("target", TARGETS)
def test_clean_files_have_no_finding_for_any_target(
    target: str, files: list[Path], ensemble: bytes, found: Callable[..., list[str]]
):
    assert found(ensemble, target) == []
    assert found(files[0].read_bytes(), target) == []


LINT: dict[str, tuple[Callable[[onnx.ModelProto], Any], str]] = {
    "opset": (lambda m: setattr(m.opset_import[0], "version", 20), "opset 20, portable loads up"),
    "IR": (lambda m: setattr(m, "ir_version", 10), "IR version 10, portable loads up to 8"),
    "domain": (
        lambda m: m.opset_import.append(helper.make_opsetid("com.microsoft", 1)),
        "operators of domain com.microsoft",
    ),
    "functions": (
        lambda m: m.functions.append(
            helper.make_function("f", "F", ["x"], ["y"], [], [helper.make_opsetid("", 17)])
        ),
        "local functions",
    ),
    "spatial": (
        lambda m: m.graph.input[0].type.tensor_type.shape.dim[2].ClearField("dim_value"),
        "dimensions [2] are not fixed",
    ),
    "output": (
        lambda m: setattr(m.graph.output[0].type.tensor_type.shape.dim[1], "dim_param", "k"),
        "dimensions [1] are not fixed",
    ),
    "operator": (
        lambda m: m.graph.node.append(helper.make_node("Resize", ["image"], ["x"], name="r")),
        "operator Resize is not on the list",
    ),
    "uint8": (
        lambda m: m.graph.node.append(helper.make_node("Transpose", ["image"], ["x"], name="t")),
        "uint8 input not followed by Cast alone",
    ),
    "external": (
        lambda m: setattr(m.graph.initializer[0], "data_location", TensorProto.EXTERNAL),
        "tensor kept in another file",
    ),
}


@pytest.mark.parametrize("name", LINT)
def test_what_a_target_does_not_load_is_found(name: str, ensemble: bytes):
    change, said = LINT[name]
    model = onnx.load_from_string(ensemble)
    assert lint(model, target="portable") == []
    change(model)
    assert any(f.what.startswith(said) for f in lint(model, target="portable"))


@pytest.mark.parametrize(
    ("target", "opset", "ir"), [("web", 20, 10), ("latest", 26, 13), ("jetpack6", 17, 9)]
)
def test_targets_have_limits_of_their_own(target: str, opset: int, ir: int, ensemble: bytes):
    model = onnx.load_from_string(ensemble)
    model.opset_import[0].version, model.ir_version = opset, ir
    assert lint(model, target=target) == []
    assert len(lint(model, target="portable")) == (2 if opset > 17 else 1)
    model.opset_import[0].version, model.ir_version = opset + 1, ir + 1
    assert len(lint(model, target=target)) == 2


def test_a_subgraph_is_found_where_the_target_may_refuse_it():
    def side(name: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(name, 1, [1])
        return helper.make_graph([helper.make_node("Relu", ["x"], [name])], name, [], [out])

    node = helper.make_node("If", ["c"], ["y"], name="gate", then_branch=side("a"), else_branch=side("b"))  # fmt: skip  # noqa: E501
    io = [helper.make_tensor_value_info("x", 1, [1]), helper.make_tensor_value_info("c", 9, [])]
    graph = helper.make_graph([node], "g", io, [helper.make_tensor_value_info("y", 1, [1])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (finding,) = lint(model, target="portable")
    assert finding.what == "If with a subgraph"
    assert finding.fix == "portable may refuse it; merge without --cascade"
    assert "merge without --cascade" in lint(model, target="jetpack5")[0].fix
    assert lint(model, target="jetpack6") == []


def test_a_model_of_somebody_else_is_only_linted(found: Callable[..., list[str]]):
    node = helper.make_node("Relu", ["x"], ["y"], name="r")
    io = [helper.make_tensor_value_info(n, 1, ["batch", 3]) for n in "xy"]
    graph = helper.make_graph([node], "g", io[:1], io[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert found(model.SerializeToString()) == []
    model.ir_version = 10
    assert found(model.SerializeToString()) == ["IR version 10, portable loads up to 8"]


def test_an_invalid_model_is_found(files: list[Path], found: Callable[..., list[str]]):
    broken = edited(files[0].read_bytes(), lambda m: m.graph.node.pop())
    assert any(what.startswith("not a valid model") for what in found(broken))


def test_a_changed_weight_is_found(
    ensemble: bytes, files: list[Path], found: Callable[..., list[str]]
):
    def flip(model: onnx.ModelProto) -> None:
        tensor = next(t for t in model.graph.initializer if t.name.endswith("1.weight"))
        tensor.raw_data = bytes([tensor.raw_data[0] ^ 1]) + tensor.raw_data[1:]

    assert any("comes back as" in what for what in found(edited(ensemble, flip)))

    # a branch file of other finite numbers is canonical: its own test vector tells
    def noise(model: onnx.ModelProto) -> None:
        tensor = next(t for t in model.graph.initializer if t.name.endswith("1.weight"))
        tensor.raw_data = (np.frombuffer(tensor.raw_data, "<f4") * np.float32(3)).tobytes()

    said = found(edited(files[0].read_bytes(), noise))
    assert [what.split(" by ")[0] for what in said] == ["test vector differs"]


FUSION_EDITS = ["fusion/scale", "fusion/bias", "fusion/log_prior", "d1.box0/weight", "pixel.scale"]


@pytest.mark.parametrize("tensor", [*FUSION_EDITS, "d1.box0/temperature"])
def test_an_ensemble_with_other_constants_is_found(
    tensor: str, ensemble: bytes, found: Callable[..., list[str]]
):
    """Branch files come back whole, but the graph is not what merge writes for them."""

    def change(model: onnx.ModelProto) -> None:
        (own,) = [t for t in model.graph.initializer if t.name == tensor]
        own.raw_data = (np.frombuffer(own.raw_data, "<f4") + np.float32(1)).tobytes()

    assert any(what.startswith("not byte for byte") for what in found(edited(ensemble, change)))


def test_a_wrong_test_vector_is_found(
    parameters_of: Callable[..., Any], manifest_for: Callable[..., Any], found: Callable[..., Any]
):
    plan: Plan = PLAN
    manifest = manifest_for(plan, "a1", logits=[[7.0, 0.0]] * 2)
    data = build_branch(manifest, plan, parameters_of(plan, "a1", seed=0))
    (what,) = found(data)
    assert what.startswith("test vector differs by")


@pytest.mark.parametrize("data", [b"", b"text", b"\xff" * 64])
def test_what_is_no_model_is_one_finding(data: bytes, found: Callable[..., list[str]]):
    assert found(data) == ["is not an ONNX file, or is truncated"]


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path):
    with pytest.raises(DataError, match="there is no such file"):
        check_path(tmp_path / "none.onnx")

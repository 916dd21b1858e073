"""Networks of the user's own in an ensemble: merged, split, removed, added; made without torch."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edge_stl.errors import DataError, IntegrityError, MergeRefused
from edge_stl.gate import GRAPH_OPERATORS
from edge_stl.predict import Ensemble
from edge_stl.testing import assert_parity
from exporter import names
from exporter._reference import reference_logits
from exporter._session import run
from exporter.inspect import inspect_path
from exporter.manifest import canonical_json, vector_input
from exporter.merge import Merged, change_ensemble, merge_files, merge_paths
from exporter.options import Options
from exporter.own import OwnNode
from exporter.read import BranchFile, Unusable, branch_from_bytes, look_at_branch, read_branch
from exporter.split import branch_bytes, members_of
from exporter.verify import check_path
from tests.exporter import own_files as own


MIXED = own.own_plan("mlp-s", "own:tiny")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, fabricate: Callable[..., bytes]) -> list[Path]:
    """Three boxes: two with graphs of their own, of different form, and one with a preset."""
    folder = tmp_path_factory.mktemp("fleet")
    files = {
        "d1.cam01": own.own_branch(MIXED, "d1", box="cam01", seed=1),
        "d1.cam02": own.own_branch(
            MIXED, "d1", box="cam02", counts=[5, 0, 9],
            network=own.ordinary(3, 2, activation="HardSwish"),
        ),
        "a1.cam03": fabricate(MIXED, "a1", box="cam03", resolution=4, seed=3),
    }  # fmt: skip
    for name, data in files.items():
        (folder / f"{name}.onnx").write_bytes(data)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def read(fleet: list[Path]) -> list[BranchFile]:
    """The files, looked at in the child once for all tests."""
    return [read_branch(path, accept_graphs=True) for path in fleet]


@pytest.fixture(scope="module")
def merged(read: list[BranchFile]) -> Merged:
    return merge_files(read, options=Options())


def model_of(files: list[BranchFile], **options: Any) -> bytes:
    return merge_files(files, options=Options(**options)).model


def test_split_gives_the_files_back_byte_for_byte(fleet: list[Path], merged: Merged):
    content = members_of(merged.model, name="e")
    assert {branch_bytes(f) for f in content.files} == {p.read_bytes() for p in fleet}
    assert [f.own is not None for f in content.files] == [False, True, True]


@pytest.mark.parametrize(
    "options", [{"robust": "median"}, {"threshold": 0.5}, {"layout": "nchw"}], ids=str
)
def test_the_same_files_in_any_order_give_the_same_bytes_and_come_back(
    read: list[BranchFile], options: dict[str, Any]
):
    model = model_of(read, **options)
    assert model_of(read[::-1], **options) == model
    content = members_of(model, name="e")
    assert {branch_bytes(f) for f in content.files} == {branch_bytes(f) for f in read}


def test_merging_paths_is_merging_what_was_read(fleet: list[Path], merged: Merged):
    assert merge_paths(fleet[::-1], options=Options(), accept_graphs=True).model == merged.model


def test_an_ensemble_answers_as_its_files_do(read: list[BranchFile], merged: Merged):
    """The merge itself proves it on noise; here every branch's share against its own file."""
    image = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 1), dtype=np.uint8)
    _, rows = Ensemble(merged.model).predict(image)
    for file, row in zip(merged.files, rows[0], strict=True):
        _, alone = Ensemble(model_of([file])).predict(image)
        assert_parity(row, alone[0, 0], kind="probabilities")
    assert {f.sha256 for f in merged.files} == {f.sha256 for f in read}


def test_a_box_is_taken_out_and_put_in_as_if_it_had_never_been_there(
    fleet: list[Path], read: list[BranchFile], merged: Merged
):
    without = model_of([f for f in read if f.manifest.box != "cam01"])
    assert change_ensemble(merged.model, name="e", remove=["cam01"]).model == without
    added = [p for p in fleet if "cam01" in p.name]
    again = change_ensemble(without, name="e", add=added, accept_graphs=True)
    assert again.model == merged.model


def test_a_graph_is_added_to_an_ensemble_only_where_it_is_accepted(
    fleet: list[Path], read: list[BranchFile]
):
    preset = model_of(read[:1])
    with pytest.raises(MergeRefused, match=r"d1\.cam01\.onnx: holds a graph .*--accept-graphs"):
        change_ensemble(preset, name="e", add=fleet[1:2])


def test_without_the_flag_every_such_file_is_refused_with_box_network_and_flag(fleet: list[Path]):
    expected = (
        r"2 of 3 files refused: \[1\] d1\.cam01\.onnx: holds a graph of its own \(own:tiny\), "
        r"which would be run as box cam01 made it; expected a preset\. If you trust that box, say "
        r"--accept-graphs; \[2\] d1\.cam02\.onnx"
    )
    with pytest.raises(MergeRefused, match=expected):
        merge_paths(fleet, options=Options())
    kept = merge_paths(fleet, options=Options(), skip_refused=True)
    assert [f.manifest.id for f in kept.files] == ["a1.cam03"]


def test_the_flag_changes_nothing_where_no_file_has_a_graph(fleet: list[Path]):
    plain = merge_paths(fleet[:1], options=Options()).model
    assert merge_paths(fleet[:1], options=Options(), accept_graphs=True).model == plain
    assert "graphs" not in record(plain)


def record(model: bytes) -> dict[str, Any]:
    props = {p.key: p.value for p in onnx.load_from_string(model).metadata_props}
    document: dict[str, Any] = json.loads(props[names.KEY_ENSEMBLE])
    return document


def test_the_ensemble_says_that_graphs_were_accepted(tmp_path: Path, merged: Merged):
    path = tmp_path / "e.onnx"
    path.write_bytes(merged.model)
    assert record(merged.model)["graphs"] == ["d1.cam01", "d1.cam02"]
    assert inspect_path(path)["graphs"] == ["d1.cam01", "d1.cam02"]


def _with_record(model: bytes, **changes: Any) -> bytes:
    def change(onnx_model: onnx.ModelProto) -> None:
        prop = next(p for p in onnx_model.metadata_props if p.key == names.KEY_ENSEMBLE)
        document = json.loads(prop.value) | changes
        prop.value = canonical_json({k: v for k, v in document.items() if v is not None})

    return own.changed(model, change)


@pytest.mark.parametrize("said", [None, [], ["d1.cam01"], ["d1.cam01", "d1.cam02", "a1.cam03"]])
def test_an_ensemble_that_hides_its_graphs_or_has_others_is_damaged(merged: Merged, said: Any):
    with pytest.raises(IntegrityError, match="graphs of"):
        members_of(_with_record(merged.model, graphs=said), name="e")


def test_prediction_takes_such_operators_only_where_the_record_says_so(merged: Merged):
    hidden = _with_record(merged.model, graphs=None)
    with pytest.raises(DataError, match=r"has operator 'Sigmoid', operator 'GlobalAveragePool'"):
        Ensemble(hidden)
    assert Ensemble(merged.model)(np.zeros((1, 8, 8, 1), np.uint8)).shape == (1, 3)


@pytest.mark.parametrize("box", ["cam01", "cam02"])
def test_a_graph_that_was_changed_in_the_ensemble_does_not_come_back(merged: Merged, box: str):
    def other(model: onnx.ModelProto) -> None:
        node = next(n for n in model.graph.node if n.name == f"d1.{box}/n1")
        node.op_type = "Tanh"

    with pytest.raises(IntegrityError, match=rf"d1\.{box} comes back as"):
        members_of(own.changed(merged.model, other), name="e")


def test_a_graph_that_lost_a_node_in_the_ensemble_is_damaged(merged: Merged):
    def lose(model: onnx.ModelProto) -> None:
        kept = [n for n in model.graph.node if n.name != "d1.cam01/n1"]
        del model.graph.node[:]
        model.graph.node.extend(kept)

    with pytest.raises(IntegrityError, match=r"d1\.cam01: reads n1, which nothing makes"):
        members_of(own.changed(merged.model, lose), name="e")


def test_a_graph_of_an_ensemble_is_looked_at_in_the_child_before_it_runs():
    """A hand-made ensemble may hold what no merge would have taken."""
    file = look_at_branch(own.own_branch(), name="f")
    content = members_of(model_of([file]), name="e")
    hostile = look_at_branch(
        own.own_branch(network=own.doubling(24), logits=np.zeros((2, 3)), box="cam02"), name="g"
    )
    forged = replace(content, files=(file, hostile))
    with pytest.raises(MergeRefused, match=r"a1\.cam02: its graph: takes .* numbers in memory"):
        change_ensemble(forged, name="e", remove=["cam01"])


def test_check_runs_a_graph_only_where_it_is_accepted(
    tmp_path: Path, fleet: list[Path], merged: Merged
):
    path = tmp_path / "e.onnx"
    path.write_bytes(merged.model)
    for file in (path, fleet[1]):
        found = check_path(file, target="latest")
        assert found
        assert all("--accept-graphs" in f.what + f.fix for f in found)
        assert check_path(file, target="latest", accept_graphs=True) == []


def test_check_refuses_a_graph_in_an_ensemble_that_a_desk_cannot_run(
    tmp_path: Path, merged: Merged, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "e.onnx"
    path.write_bytes(merged.model)
    monkeypatch.setattr("exporter.own_judge.MEMORY", 60_000_000)
    said = [f.what for f in check_path(path, target="latest", accept_graphs=True)]
    assert any("its graph: takes more than" in what for what in said), said


def test_inspect_tells_of_a_graph_without_running_it(
    fleet: list[Path], monkeypatch: pytest.MonkeyPatch
):
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("something was run")

    monkeypatch.setattr("exporter.read.unfit", never)
    monkeypatch.setattr("onnxruntime.InferenceSession", never)
    document = inspect_path(fleet[1])
    assert document["graphs"] == ["d1.cam01"]
    assert document["branches"][0]["network"] == "own:tiny"


def test_a_plan_with_an_own_network_costs_nothing_until_its_graph_is_read():
    file = branch_from_bytes(own.own_branch(), name="f", accept_graphs=True)
    assert file.own is not None
    assert {n.operator for n in file.own.nodes} <= GRAPH_OPERATORS
    with pytest.raises(Unusable, match="holds a graph of its own"):
        branch_from_bytes(own.own_branch(), name="f")


# -- every operator -------------------------------------------------------------------------------

_FOUR = {"Conv", "AveragePool", "MaxPool", "GlobalAveragePool", "GlobalMaxPool"}
_TENSORS: dict[str, dict[str, Any]] = {
    "BatchNormalization": {n: np.linspace(0.5, 1.5, 6, dtype=np.float32) for n in "abcd"},
    "InstanceNormalization": {n: np.linspace(0.5, 1.5, 6, dtype=np.float32) for n in "ab"},
    "LayerNormalization": {"a": np.linspace(0.5, 1.5, 4, dtype=np.float32)},
    "PRelu": {"a": np.full((6, 1, 1), 0.2, np.float32)},
    "Pow": {"a": np.array(2, np.float32)},
    "Clip": {"a": np.array(-0.5, np.float32), "b": np.array(0.5, np.float32)},
    "ReduceSum": {"a": np.array([3], np.int64)},
    "Reshape": {"a": np.array([-1, 6, 16], np.int64)},
    "Gather": {"a": np.array([1, 0, 2, 3], np.int64)},
    "Squeeze": {},
    "Unsqueeze": {"a": np.array([1], np.int64)},
    "Slice": {k: np.array([v], np.int64) for k, v in (("a", 0), ("b", 3), ("c", 1))},
    "MatMul": {"a": np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)},
    "Conv": {"a": np.linspace(-1, 1, 36, dtype=np.float32).reshape(6, 6, 1, 1)},
}
_ATTRIBUTES: dict[str, tuple[tuple[str, Any], ...]] = {
    "AveragePool": (("kernel_shape", (2, 2)),),
    "MaxPool": (("kernel_shape", (2, 2)),),
    "Concat": (("axis", 2),),
    "Gather": (("axis", 3),),
    "Softmax": (("axis", -1),),
    "LogSoftmax": (("axis", -1),),
    "Transpose": (("perm", (0, 2, 1, 3)),),
    "ReduceSum": (("keepdims", 1),),
}
_TWO = {"Add", "Concat", "Div", "Max", "Min", "Mul", "Sub", "Sum"}
_POSITIVE = {"Log", "Sqrt", "Div", "Pow"}
_RANK_2 = {"Gemm"}
_SQUEEZED = {"Squeeze"}


def _one(operator: str) -> tuple[own.Nodes, own.Tensors]:
    """Return a network with one operator in its middle, on ``(N, 6, 4, 4)``."""
    tensors: own.Tensors = {
        "w": np.linspace(-1, 1, 54, dtype=np.float32).reshape(6, 1, 3, 3),
        "s": np.array([-1, 2], np.int64),
        **_TENSORS.get(operator, {}),
    }
    before: own.Nodes = {"h": OwnNode("Conv", ("bands", "w"), (("pads", (1, 1, 1, 1)),))}
    value = "h"
    if operator in _POSITIVE:
        before["e"] = OwnNode("Exp", ("h",))
        value = "e"
    before["g"] = OwnNode("Sigmoid", (value,))
    more = ["g"] * (operator in _TWO) + list(_TENSORS.get(operator, {}))
    node = OwnNode(operator, (value, *more), _ATTRIBUTES.get(operator, ()))
    if operator == "Gemm":
        before["f"] = OwnNode("Flatten", ("h",))
        tensors["a"] = np.linspace(-1, 1, 96 * 6, dtype=np.float32).reshape(96, 6)
        node = OwnNode("Gemm", ("f", "a"))
    if operator == "Squeeze":
        tensors["one"] = np.array([1], np.int64)
        before["u"] = OwnNode("Unsqueeze", ("h", "one"))
        node = OwnNode("Squeeze", ("u", "one"))
    after = {
        "o": node,
        "flat": OwnNode("Flatten", ("o",)),
        "sum": OwnNode("ReduceSum", ("flat", "last"), (("keepdims", 1),)),
        "bent": OwnNode("Tanh", ("sum",)),
        "y": OwnNode("Concat", ("bent", "sum", "bent"), (("axis", 1),)),
    }
    tensors["last"] = np.array([1], np.int64)
    return before | after, tensors


@pytest.mark.parametrize("operator", sorted(GRAPH_OPERATORS))
def test_every_operator_on_the_list_is_run_alike_by_onnxruntime_and_by_the_reference(operator: str):
    data = own.own_branch(network=_one(operator))
    assert operator in {n.op_type for n in onnx.load_from_string(data).graph.node}
    look_at_branch(data, name="f")
    bands = vector_input(5, channels=1, size=4)
    exact = reference_logits(data, bands)
    (found,) = run(data, {names.BRANCH_INPUT: bands})
    largest = np.abs(exact).max()
    assert_parity(found / largest, exact / largest, kind="probabilities")

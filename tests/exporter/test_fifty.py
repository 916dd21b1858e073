"""Fifty branches: boxes come and go, and what is gone leaves no trace, whatever the options."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edge_stl.plan import Plan, new_plan, plan_from_document
from edge_stl.testing import assert_parity
from exporter._graph import Graph
from exporter._memory import hold_once
from exporter.merge import change_ensemble, merge_paths
from exporter.options import Options
from exporter.split import branch_bytes, members_of


def plan_of() -> Plan:
    plan = new_plan(
        classes=["bus", "car"], resolution=8, channels=1, levels=2, branches="detail",
        network="mlp-s",
    )  # fmt: skip
    weights = {"a2": 0.5, "d2": 0.3, "d1": 0.2}
    return plan_from_document(plan.to_document() | {"fusion": {"weights": weights}}, where="test")


@pytest.fixture(scope="module")
def fleet(
    fabricate: Callable[..., bytes],
    tmp_path_factory: pytest.TempPathFactory,
) -> list[Path]:
    """Seventeen boxes of three branches, the last without the finest: fifty files."""
    plan, folder, paths = plan_of(), tmp_path_factory.mktemp("fifty"), []
    for index in range(50):
        branch, box = plan.branches[index % 3].name, f"box{index // 3:02}"
        paths.append(folder / f"{branch}.{box}.onnx")
        facts = {"box": box, "seed": index, "counts": [5 + index, 9], "loss": 0.3 + index / 200}
        paths[-1].write_bytes(fabricate(plan, branch, **facts))
    return paths


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        Options(),
        Options(weights="geometric", layout="nchw"),
        Options(weights="plan", resolution=4),
        Options(robust="median", resolution=2, layout="nchw"),
    ],
    ids=lambda options: "-".join(map(str, options.to_document().values())),
)
def test_a_box_of_fifty_branches_comes_and_goes_without_a_trace(
    options: Options, fleet: list[Path]
):
    """As if it had never been there; and back, as if it had never gone."""
    own = [p for p in fleet if ".box07." in p.name]
    rest = [p for p in fleet if p not in own]
    assert (len(fleet), len(own)) == (50, 3)
    whole = merge_paths(fleet, options=options)
    without = change_ensemble(whole.model, name="e", remove=["box07"])
    assert without.model == merge_paths(rest[::-1], options=options).model
    assert b"box07" in whole.model
    assert b"box07" not in without.model
    assert change_ensemble(without.model, name="e", add=own).model == whole.model


def test_split_gives_all_fifty_back(fleet: list[Path]):
    content = members_of(merge_paths(fleet, options=Options()).model, name="e")
    back = {f.name: branch_bytes(f) for f in content.files}
    assert back == {p.name: p.read_bytes() for p in fleet}


def test_a_merge_opens_one_session_a_branch_and_one_for_the_ensemble(
    fleet: list[Path], monkeypatch: pytest.MonkeyPatch
):
    import onnxruntime as ort

    opened: list[int] = []
    real = ort.InferenceSession

    def counted(model: Any, *given: Any, **named: Any) -> Any:
        opened.append(len(model))
        return real(model, *given, **named)

    monkeypatch.setattr(ort, "InferenceSession", counted)
    merge_paths(fleet[:7], options=Options())
    assert len(opened) == 7 + 1


def test_numbers_held_once_are_the_same_numbers():
    """Large tensors become views of the model; small and unknown ones stay as they are."""
    rng = np.random.default_rng(0)
    large, small = rng.random((200, 200), np.float32), rng.random(8, np.float32)
    other = rng.random((200, 200), np.float32)
    parameters = {"small": small, "large": large, "other": other}
    model = b"abc" + small.tobytes() + large.tobytes() + b"d"
    before = {name: array.copy() for name, array in parameters.items()}
    hold_once([parameters], model)
    assert parameters["small"] is small
    assert parameters["other"] is other
    assert parameters["large"] is not large
    for name, array in before.items():
        assert_parity(parameters[name], array, kind="probabilities")
        assert parameters[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("count", [1, 40, 200, 20_000])
def test_a_model_put_together_from_parts_is_protobufs_own_serialization(count: int):
    """Also where lengths need two and three bytes."""
    graph = Graph()
    graph.constant("numbers", np.arange(count, dtype=np.float32))
    graph.constant("none", np.zeros((0, 3), np.float32))
    graph.constant("one", np.array(3, np.int64))
    data = graph.model(name="g", inputs=[], outputs=[], metadata={"b": "2", "a": "1"})
    model = onnx.load_from_string(data)
    assert model.SerializeToString(deterministic=True) == data
    assert [t.name for t in model.graph.initializer] == ["numbers", "none", "one"]
    assert [p.key for p in model.metadata_props] == ["a", "b"]

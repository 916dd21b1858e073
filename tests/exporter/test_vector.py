"""The test vector of an ensemble: the formulas' answer, the same on every desk, and asked again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edge_stl.errors import CheckError, IntegrityError
from edge_stl.plan import new_plan
from edge_stl.predict import Ensemble
from edge_stl.predict._vector import need_answer, question
from exporter import merge as merge_room
from exporter.merge import change_ensemble, merge_paths
from exporter.options import Options
from exporter.split import members_of
from exporter.vector import vector_image
from exporter.verify import check_path


@pytest.fixture(scope="module")
def files(
    fabricate_fleet: Callable[..., list[Path]], tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    plan = new_plan(
        classes=["bus", "car", "van"], resolution=8, levels=1, channels=1, network="mlp-s"
    )
    return fabricate_fleet(plan, tmp_path_factory.mktemp("fleet"))


@pytest.mark.parametrize(
    "options",
    [
        Options(),
        Options(layout="nchw"),
        Options(robust="median"),
        Options(threshold=0.2),
        Options(resolution=4, weights="uniform"),
    ],
    ids=lambda options: "-".join(map(str, options.to_document().values())),
)
def test_an_ensemble_answers_its_vector_whatever_it_is(options: Options, files: list[Path]):
    merged = merge_paths(files, options=options)
    content = members_of(merged.model, name="e")
    assert content.vector is not None
    assert sum(content.vector) == pytest.approx(1, abs=1e-5)
    assert all(round(p, 6) == p for p in content.vector)
    model = Ensemble(merged.model, threads=1)
    own = question(model.resolution, model.channels)
    assert np.array_equal(own, vector_image(content.files[0], options))
    before = model.threshold
    assert need_answer(model) < 1e-5
    assert model.threshold == before


def test_the_vector_belongs_to_the_boxes_that_are_in(files: list[Path]):
    whole = merge_paths(files, options=Options())
    without = change_ensemble(whole.model, name="e", remove=["box1"])
    vectors = {members_of(m.model, name="e").vector for m in (whole, without)}
    assert len(vectors) == 2


def vector_of(model: onnx.ModelProto) -> Any:
    (entry,) = [p for p in model.metadata_props if p.key == "edge_stl.test_vector"]
    return entry


def test_check_asks_the_vector(files: list[Path], tmp_path: Path):
    path = tmp_path / "e.onnx"
    model = onnx.load_from_string(merge_paths(files, options=Options()).model)
    path.write_bytes(model.SerializeToString(deterministic=True))
    assert check_path(path) == []
    first, second, third = json.loads(vector_of(model).value)
    vector_of(model).value = json.dumps([third, first, second], separators=(",", ":"))
    path.write_bytes(model.SerializeToString(deterministic=True))
    (finding,) = check_path(path)
    assert finding.what.startswith("answers its test vector with a difference of ")
    model.metadata_props.remove(vector_of(model))
    path.write_bytes(model.SerializeToString(deterministic=True))
    assert [f.what for f in check_path(path)] == ["no test vector: merged by an earlier version"]


@pytest.mark.parametrize(
    "text", ["[0.5,0.5]", "{}", "[0.5,0.5,NaN]", '["a","b","c"]', "[1,1,2]", "[", "[true,0,0]"]
)
def test_a_vector_that_cannot_be_is_damage(text: str, files: list[Path]):
    model = onnx.load_from_string(merge_paths(files, options=Options()).model)
    vector_of(model).value = text
    with pytest.raises(IntegrityError, match="record is incomplete or wrong"):
        members_of(model.SerializeToString(), name="e")


def test_a_graph_that_does_not_answer_its_vector_is_not_handed_out(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
):
    real = merge_room.reference_vector

    def other(*given: Any, **named: Any) -> tuple[float, ...]:
        first, *rest = real(*given, **named)
        return (first + 2e-4, *rest)

    monkeypatch.setattr(merge_room, "reference_vector", other)
    with pytest.raises(CheckError, match=r"differs by 2\.0e-04 from its own test vector"):
        merge_paths(files, options=Options())


def test_a_number_changed_in_the_graph_changes_the_answer(files: list[Path]):
    model = onnx.load_from_string(merge_paths(files, options=Options()).model)
    (tensor,) = [t for t in model.graph.initializer if t.name == "fusion/scale"]
    tensor.CopyFrom(numpy_helper.from_array(np.float32(0.01).reshape(tensor.dims), tensor.name))
    with pytest.raises(CheckError, match="answers its test vector with a difference of"):
        need_answer(Ensemble(model.SerializeToString(), threads=1))

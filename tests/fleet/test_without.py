"""What a box adds is what merging without it loses, measured on the same images."""

from collections.abc import Callable
from pathlib import Path

import pytest

from edge_stl.fleet._without import without_each
from edge_stl.plan import new_plan, plan_from_document
from edge_stl.predict import Ensemble, evaluate
from exporter.merge import change_ensemble, merge_paths
from exporter.options import Options


CLASSES = ["bus", "car", "van", "tram"]
PLAN = new_plan(classes=CLASSES, resolution=16, levels=2, network="mlp-s")


@pytest.fixture(scope="module")
def test_images(pictures: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("test"), CLASSES, count=25)


@pytest.mark.parametrize("loss", [0.2, 0.9])
@pytest.mark.parametrize("rule", ["reliability", "uniform", "geometric"])
def test_leaving_a_box_out_is_a_real_merge_without_it(
    rule: str,
    loss: float,
    test_images: Path,
    fabricate_fleet: Callable[..., list[Path]],
    tmp_path: Path,
):
    """As ``merge --remove`` and ``evaluate`` say it, on the same images."""
    files = fabricate_fleet(PLAN, tmp_path / "branches", loss=loss)
    merged = merge_paths(files, options=Options(weights=rule))
    whole = evaluate(Ensemble(merged.model), test_images)
    rows = without_each(merged, whole)
    assert [row["box"] for row in rows] == ["box0", "box1", "box2", "box3"]
    for row in rows:
        rest = change_ensemble(merged.model, name="e", remove=[row["box"]])
        real = evaluate(Ensemble(rest.model), test_images).scores
        assert row["accuracy"] == pytest.approx(real.accuracy, abs=1e-9)
        assert row["macro_accuracy"] == pytest.approx(real.macro_accuracy, abs=1e-9)
        assert row["cost"] == pytest.approx(whole.scores.accuracy - real.accuracy, abs=1e-9)
        assert row["macro_cost"] == pytest.approx(
            whole.scores.macro_accuracy - real.macro_accuracy, abs=1e-9
        )


def test_without_the_only_box_nothing_is_left(
    test_images: Path, fabricate: Callable[..., bytes], tmp_path: Path
):
    path = tmp_path / "a2.cam01.onnx"
    path.write_bytes(fabricate(PLAN, "a2"))
    merged = merge_paths([path], options=Options())
    assert without_each(merged, evaluate(Ensemble(merged.model), test_images)) == [
        {"box": "cam01", "accuracy": None, "macro_accuracy": None, "cost": None, "macro_cost": None}
    ]


def test_boxes_to_which_the_plan_gives_no_weight_are_no_ensemble(
    test_images: Path, fabricate: Callable[..., bytes], tmp_path: Path
):
    document = PLAN.to_document() | {"fusion": {"weights": {"a2": 0.0, "d1": 1.0}}}
    plan = plan_from_document(document, where="test")
    paths = [tmp_path / "a2.onnx", tmp_path / "d1.onnx"]
    paths[0].write_bytes(fabricate(plan, "a2", box="poor", resolution=4))
    paths[1].write_bytes(fabricate(plan, "d1", box="rich"))
    merged = merge_paths(paths, options=Options(weights="plan"))
    poor, rich = without_each(merged, evaluate(Ensemble(merged.model), test_images))
    assert (poor["box"], poor["cost"], poor["macro_cost"]) == ("poor", 0.0, 0.0)
    assert (rich["box"], rich["accuracy"], rich["cost"]) == ("rich", None, None)

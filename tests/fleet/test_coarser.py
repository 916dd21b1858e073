"""What coarser cameras get is what ``merge --resolution`` gives, on the same images."""

from collections.abc import Callable
from pathlib import Path

import pytest

from edge_stl.fleet._coarser import at_each_resolution, coarser_summary
from edge_stl.plan import new_plan, plan_from_document
from edge_stl.predict import Ensemble, evaluate
from exporter.merge import merge_paths
from exporter.options import Options


CLASSES = ["bus", "car", "van"]
PLAN = new_plan(classes=CLASSES, resolution=16, levels=2, network="mlp-s")


@pytest.fixture(scope="module")
def test_images(pictures: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("test"), CLASSES, count=8)


def test_every_resolution_below_the_plans_is_a_real_merge_for_it(
    test_images: Path, fabricate_fleet: Callable[..., list[Path]], tmp_path: Path
):
    files = fabricate_fleet(PLAN, tmp_path)
    merged = merge_paths(files, options=Options(weights="uniform"))
    rows = at_each_resolution(merged, test_images)
    assert [(row["resolution"], row["branches"]) for row in rows] == [(8, 7), (4, 4)]
    for row in rows:
        real = merge_paths(files, options=Options("uniform", resolution=row["resolution"]))
        scores = evaluate(Ensemble(real.model), test_images).scores
        assert len(real.files) == row["branches"]
        for key in ("accuracy", "macro_accuracy", "log_loss", "ece"):
            assert row[key] == getattr(scores, key)


def test_a_resolution_that_no_branch_has_is_not_told(
    test_images: Path, fabricate: Callable[..., bytes], tmp_path: Path
):
    (tmp_path / "d2.onnx").write_bytes(fabricate(PLAN, "d2", resolution=8))
    merged = merge_paths([tmp_path / "d2.onnx"], options=Options())
    (row,) = at_each_resolution(merged, test_images)
    assert (row["resolution"], row["branches"]) == (8, 1)


def test_branches_to_which_the_plan_gives_no_weight_have_no_scores(
    test_images: Path, fabricate: Callable[..., bytes], tmp_path: Path
):
    document = PLAN.to_document() | {"fusion": {"weights": {"a2": 0.0, "d2": 1.0}}}
    plan = plan_from_document(document, where="test")
    paths = [tmp_path / "a2.onnx", tmp_path / "d2.onnx"]
    paths[0].write_bytes(fabricate(plan, "a2", resolution=4))
    paths[1].write_bytes(fabricate(plan, "d2", resolution=8))
    merged = merge_paths(paths, options=Options(weights="plan"))
    rows = at_each_resolution(merged, test_images)
    assert rows[0]["accuracy"] is not None
    assert rows[1] == {
        "resolution": 4, "branches": 1,
        "accuracy": None, "macro_accuracy": None, "log_loss": None, "ece": None,
    }  # fmt: skip


def test_the_summary_is_mean_and_spread_of_the_seeds_that_have_the_resolution():
    def row(resolution: int, value: float | None) -> dict[str, float | None]:
        scores = dict.fromkeys(("accuracy", "macro_accuracy", "log_loss", "ece"), value)
        return {"resolution": resolution, "branches": 1, **scores}

    seeds = [
        {"resolutions": [row(8, 0.5), row(4, None)]},
        {"resolutions": [row(8, 0.7), row(4, 0.25)]},
    ]
    got = coarser_summary(seeds)
    assert [r["resolution"] for r in got["mean"]] == [8, 4]
    assert [r["accuracy"] for r in got["mean"]] == pytest.approx([0.6, 0.25])
    assert [r["ece"] for r in got["std"]] == pytest.approx([0.02**0.5, 0.0])
    assert coarser_summary([{"resolutions": []}]) == {"mean": [], "std": []}

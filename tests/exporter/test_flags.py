"""What is far from the other boxes is told, and merged all the same."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from edge_stl.cli import main
from edge_stl.fusion import Member
from edge_stl.plan import new_plan
from exporter.flags import FEWEST_BOXES, LARGE, ROWS, SIZE, Numbers, flags_of, loudness_of
from exporter.merge import Merged, merge_paths
from exporter.options import Options


PLAN = new_plan(
    classes=["bus", "car", "van"],
    resolution=8,
    levels=1,
    channels=1,
    network="mlp-s",
    branches="detail",
)


def honest(boxes: int, *, branches: Sequence[str] = ("d1",), seed: int = 0) -> list[Numbers]:
    """Return boxes as alike and as different as measured ones."""
    rng = np.random.default_rng(seed)
    return [
        Numbers(
            branch=branches[i % len(branches)],
            box=f"box{i}",
            images=400 * rng.uniform(0.8, 1.25),
            claim=rng.uniform(1.05, 2),
            loudness=10 * math.exp(rng.normal(0, 0.6)),
            sizes={"1.weight": 0.1 * rng.uniform(0.9, 1.1), "1.bias": 0.02 * rng.uniform(0.7, 1.5)},
            rows=rng.uniform(1.05, 1.44),
        )
        for i in range(boxes)
    ]


def told(numbers: Sequence[Numbers]) -> set[tuple[str, str]]:
    return {(flag.box, flag.what) for flag in flags_of(numbers)}


@pytest.mark.parametrize("boxes", [1, 3, 4, 5, 9, 30])
@pytest.mark.parametrize("seed", range(5))
def test_honest_boxes_are_not_told(boxes: int, seed: int):
    assert told(honest(boxes, seed=seed)) == set()
    assert told(honest(boxes, branches=("a2", "d2", "d1"), seed=seed)) == set()


FAR: dict[str, dict[str, Any]] = {
    "loudness": {"loudness": 1e5},
    "images": {"images": 4e5},
    "claim": {"claim": 231.0},
    "rows": {"rows": 5.1},
    "size of 1.weight": {"sizes": {"1.weight": 1e3, "1.bias": 0.02}},
    "size of 1.bias": {"sizes": {"1.weight": 0.1, "1.bias": 0.0}},
}


@pytest.mark.parametrize("what", FAR)
@pytest.mark.parametrize("boxes", [4, 5, 9])
def test_what_is_far_is_told_of_that_box_alone(what: str, boxes: int):
    given = honest(boxes)
    given[2] = replace(given[2], **FAR[what])
    assert told(given) == {("box2", what)}


def test_a_loud_box_is_told_though_no_other_has_its_branch():
    given = honest(5, branches=("a2", "d2", "d1"))
    given[4] = replace(given[4], branch="x", loudness=1e5)
    assert told(given) == {("box4", "loudness")}


def test_a_box_of_one_class_is_not_told_for_having_nothing_to_be_loud_about():
    boxes = honest(5)
    boxes[2] = replace(boxes[2], loudness=0.0, speaks=False)
    assert told(boxes) == set()
    boxes[2] = replace(boxes[2], speaks=True)
    assert told(boxes) == {("box2", "loudness")}


def test_boxes_that_share_a_branch_are_compared_among_themselves():
    """A branch may be louder than the others by its nature: cd1 was ten times as loud."""
    given = honest(9, branches=("a2", "d2"))
    loud = [replace(n, loudness=n.loudness * 100) if n.branch == "d2" else n for n in given]
    assert told(loud) == set()


def test_a_box_with_many_files_does_not_move_the_median():
    """Its files count once, so thirty of them do not make the honest ones look strange."""
    given = honest(5)
    files = [replace(given[0], branch=f"b{i}", loudness=1e6, images=1e6) for i in range(30)]
    found = told([*files, *given[1:]])
    assert {box for box, _ in found} == {"box0"}
    assert {what for _, what in found} == {"loudness", "images"}


def test_two_bad_boxes_of_nine_are_told_both():
    given = honest(9)
    given[1] = replace(given[1], loudness=1e5)
    given[3] = replace(given[3], loudness=2e5)
    assert told(given) == {("box1", "loudness"), ("box3", "loudness")}


def test_fewer_boxes_than_a_median_needs_say_nothing_of_each_other():
    given = honest(FEWEST_BOXES - 1)
    given[0] = replace(given[0], loudness=1e9, images=1e9)
    assert told(given) == set()


@given(
    boxes=st.integers(1, 12),
    factor=st.floats(1, LARGE**0.49),
    size=st.floats(1, SIZE**0.49),
    seed=st.integers(0, 99),
)
def test_nothing_within_the_limits_is_told_however_alike_the_others_are(
    boxes: int, factor: float, size: float, seed: int
):
    """A median absolute deviation of 0 makes everything infinitely far; the limits stand."""
    rng = np.random.default_rng(seed)
    base = replace(honest(1)[0], sizes={"w": 1.0}, rows=ROWS)
    given = [
        replace(
            base,
            box=f"box{i}",
            images=base.images * factor ** rng.uniform(-1, 1),
            claim=base.claim * factor ** rng.uniform(-1, 1),
            loudness=base.loudness * factor ** rng.uniform(-1, 1),
            sizes={"w": size ** rng.uniform(-1, 1)},
        )
        for i in range(boxes)
    ]
    assert told(given) == set()


def test_numbers_that_are_0_or_tiny_do_no_harm():
    given = [replace(n, loudness=0.0, images=0.0, sizes={"1.weight": 0.0}) for n in honest(6)]
    assert told(given) == set()


def test_loudness_counts_the_classes_seen_over_the_temperature():
    member = Member("d1", "b", (5, 0, 5), temperature=2.0, log_loss=1.0)
    logits = np.array([[3.0, 1e9, -1.0], [2.0, -1e9, 2.0]])
    assert loudness_of(logits, member) == pytest.approx(math.sqrt((4 + 4 + 0 + 0) / 4) / 2)


# -- in a merge -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fleet(fabricate: Callable[..., bytes], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Five boxes; the last says of itself what no other can."""
    folder = tmp_path_factory.mktemp("flags")
    paths = []
    for i in range(5):
        paths.append(folder / f"d1.box{i}.onnx")
        lie = {"counts": [40_000] * 3, "temperature": 0.05} if i == 4 else {}
        data = fabricate(PLAN, "d1", box=f"box{i}", **{"counts": [40] * 3} | lie)
        paths[-1].write_bytes(data)
    return paths


@pytest.fixture(scope="module")
def merged(fleet: list[Path]) -> Merged:
    return merge_paths(fleet, options=Options(weights="uniform"))


def test_a_flagged_box_is_merged_all_the_same(merged: Merged):
    assert {(f.box, f.what) for f in merged.flags} == {("box4", "images")}
    (flag,) = merged.flags
    assert (flag.branch, flag.value, flag.median, flag.boxes) == (
        "d1",
        120_000,
        pytest.approx(120),
        5,
    )
    assert len(merged.files) == 5
    assert len(set(merged.weights)) == 1


def test_flags_are_no_part_of_the_ensemble(fleet: list[Path], merged: Merged, monkeypatch: Any):
    monkeypatch.setattr("exporter.merge.find_flags", lambda _: ())
    assert merge_paths(fleet, options=Options(weights="uniform")).model == merged.model


def test_merge_prints_one_line_per_flag_and_has_them_in_json(
    fleet: list[Path], tmp_path: Path, capsys: Any, assert_schema: Callable[[Any, str], None]
):
    arguments = ["merge", *map(str, fleet), "-o", str(tmp_path / "e.onnx")]
    assert main(arguments) == 0
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("flag: ")]
    assert line == (
        "flag: d1.box4: it says it trained on as many images as 1.2e+05, where the median of 5 "
        "boxes is 120. It was merged all the same: ask its operator, or leave it out with --remove "
        "d1.box4"
    )
    assert main([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert_schema(document, "merge")
    (flag,) = document["flags"]
    assert (flag["box"], flag["what"], flag["value"]) == ("box4", "images", 120_000)
    assert main([*arguments, "-q"]) == 0
    assert "flag" not in capsys.readouterr().err

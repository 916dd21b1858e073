"""Images are dealt fairly and once, and a coarse camera is an area average."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from edge_stl.errors import DataError
from edge_stl.fleet._deal import deal, default_resolutions, hold_out, write_box
from edge_stl.images import fit_square, scan
from edge_stl.plan import Plan, new_plan


LABELS = st.lists(st.integers(0, 4), min_size=0, max_size=60).map(
    lambda values: np.array(values, dtype=np.int64)
)
FAST = settings(max_examples=100, deadline=None, derandomize=True)


@FAST
@given(labels=LABELS, boxes=st.integers(1, 9), seed=st.integers(0, 50))
def test_every_image_goes_to_exactly_one_box(labels: np.ndarray, boxes: int, seed: int):
    hands = deal(labels, boxes=boxes, seed=seed)
    assert len(hands) == boxes
    assert np.concatenate(hands).size == len(labels)
    assert sorted(np.concatenate(hands).tolist()) == list(range(len(labels)))
    for hand in hands:
        assert hand.tolist() == sorted(hand.tolist())


@FAST
@given(labels=LABELS, boxes=st.integers(1, 9), seed=st.integers(0, 50))
def test_boxes_differ_by_at_most_one_image_in_all_and_per_class(
    labels: np.ndarray, boxes: int, seed: int
):
    hands = deal(labels, boxes=boxes, seed=seed)
    sizes = [len(hand) for hand in hands]
    assert max(sizes) - min(sizes) <= 1
    for c in np.unique(labels):
        own = [int((labels[hand] == c).sum()) for hand in hands]
        assert max(own) - min(own) <= 1


@FAST
@given(labels=LABELS, boxes=st.integers(1, 9), seed=st.integers(0, 50))
def test_the_seed_alone_decides(labels: np.ndarray, boxes: int, seed: int):
    first, second = (deal(labels, boxes=boxes, seed=seed) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert a.tolist() == b.tolist()


def test_another_seed_deals_otherwise():
    labels = np.zeros(100, np.int64)
    assert deal(labels, boxes=2, seed=0)[0].tolist() != deal(labels, boxes=2, seed=1)[0].tolist()


@FAST
@given(labels=LABELS, share=st.floats(0.05, 0.6), seed=st.integers(0, 50))
def test_what_is_held_out_is_a_share_of_every_class_and_apart(
    labels: np.ndarray, share: float, seed: int
):
    rest, test = hold_out(labels, share=share, seed=seed)
    assert sorted([*rest.tolist(), *test.tolist()]) == list(range(len(labels)))
    for c in np.unique(labels):
        total = int((labels == c).sum())
        held = int((labels[test] == c).sum())
        assert held == (0 if total == 1 else max(1, round(share * total)))


@pytest.fixture
def plan() -> Plan:
    return new_plan(classes=["bus", "car"], resolution=16, levels=2, fit="crop")


def test_a_coarse_box_gets_area_averaged_images_and_a_fine_one_the_files(
    plan: Plan, pictures: Callable[..., Path], tmp_path: Path
):
    folder = pictures(tmp_path / "photos", plan.classes, count=3, side=19)
    images = scan(folder, plan.classes)
    index = np.array([0, 4, 5])
    for resolution in (4, 8):
        out = tmp_path / f"box{resolution}"
        assert write_box(plan, images, index, resolution=resolution, folder=out) == 3
        written = sorted(out.rglob("*.png"))
        assert [p.parent.name for p in written] == ["bus", "car", "car"]
        for i, path in zip(index, written, strict=True):
            original = np.asarray(Image.open(images.path(int(i))))
            expected = fit_square(original, resolution, "crop")
            assert np.asarray(Image.open(path)).tolist() == expected.tolist()
    assert write_box(plan, images, index, resolution=16, folder=tmp_path / "fine") == 3
    for i, path in zip(index, sorted((tmp_path / "fine").rglob("*.png")), strict=True):
        assert path.read_bytes() == images.path(int(i)).read_bytes()


def test_names_of_the_users_images_do_not_travel(
    plan: Plan, pictures: Callable[..., Path], tmp_path: Path
):
    folder = pictures(tmp_path / "photos", plan.classes, count=2, names="secret{}.PNG")
    images = scan(folder, plan.classes)
    write_box(plan, images, np.arange(4), resolution=8, folder=tmp_path / "box")
    names = sorted(p.name for p in (tmp_path / "box").rglob("*.png"))
    assert names == [f"{i:07d}.png" for i in range(4)]


def test_unreadable_and_small_images_are_left_out_and_no_image_at_all_is_refused(
    plan: Plan, pictures: Callable[..., Path], tmp_path: Path
):
    folder = pictures(tmp_path / "photos", plan.classes, count=2, side=8)
    (folder / "bus" / "000.png").write_bytes(b"no picture")
    images = scan(folder, plan.classes)
    out = tmp_path / "box"
    assert write_box(plan, images, np.arange(4), resolution=8, folder=out) == 3
    small = scan(pictures(tmp_path / "small", plan.classes, count=2, side=4), plan.classes)
    with pytest.raises(DataError, match="no image reaches 8 px for none; give finer images"):
        write_box(plan, small, np.arange(4), resolution=8, folder=tmp_path / "none")


def test_boxes_get_the_resolutions_at_which_a_branch_is_their_own(plan: Plan):
    assert list(default_resolutions(plan)) == [4, 8, 16]
    alone = new_plan(classes=["a", "b"], resolution=16, levels=1, branches="all")
    assert list(default_resolutions(alone)) == [16]

"""Uneven boxes: every image once, by the seed alone, and every box has something to learn."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from edge_stl.errors import UsageError
from edge_stl.fleet._deal import deal
from edge_stl.fleet._split import Split, _class_counts, _dirichlet_counts, read_split, split_images


FAST = settings(max_examples=60, deadline=None, derandomize=True)
TEN = np.repeat(np.arange(10), 60)
SPLITS = ["iid", "dirichlet:0.3", "dirichlet:5", "classes:4", "classes:10"]


def hands_of(text: str, labels: np.ndarray = TEN, *, boxes: int = 6, seed: int = 0):
    return split_images(read_split(text), labels, boxes=boxes, seed=seed)


@pytest.mark.parametrize("text", SPLITS)
@pytest.mark.parametrize("seed", [0, 7])
def test_every_image_goes_to_exactly_one_box_by_the_seed_alone(text: str, seed: int):
    hands = hands_of(text, seed=seed)
    assert len(hands) == 6
    assert sorted(np.concatenate(hands).tolist()) == list(range(len(TEN)))
    for hand, again in zip(hands, hands_of(text, seed=seed), strict=True):
        assert hand.tolist() == again.tolist() == sorted(hand.tolist())
    other = hands_of(text, seed=seed + 1)
    assert [h.tolist() for h in hands] != [h.tolist() for h in other]


def test_iid_deals_as_it_always_did():
    for ours, dealt in zip(hands_of("iid", seed=3), deal(TEN, boxes=6, seed=3), strict=True):
        assert ours.tolist() == dealt.tolist()


@FAST
@given(
    classes=st.integers(2, 12),
    boxes=st.integers(1, 9),
    per_box=st.integers(2, 12),
    seed=st.integers(0, 99),
)
def test_every_box_holds_k_classes_and_every_class_is_held(
    classes: int, boxes: int, per_box: int, seed: int
):
    per_box = min(per_box, classes)
    if boxes * per_box < classes:
        return
    labels = np.repeat(np.arange(classes), 20 + 3 * np.arange(classes))
    hands = hands_of(f"classes:{per_box}", labels, boxes=boxes, seed=seed)
    counts = np.array([np.bincount(labels[hand], minlength=classes) for hand in hands])
    assert ((counts > 0).sum(axis=1) == per_box).all()
    assert (counts.sum(axis=0) == np.bincount(labels)).all()
    for own in counts.T:
        assert np.ptp(own[own > 0]) <= 1


def test_which_classes_a_box_gets_is_random_and_none_is_preferred():
    rng = np.random.default_rng(1)
    held = np.mean([_class_counts(rng, [40] * 10, 6, 4) > 0 for _ in range(2000)], axis=0)
    assert held == pytest.approx(np.full((10, 6), 0.4), abs=0.05)


@pytest.mark.parametrize("a", [0.1, 1.0, 10.0])
def test_shares_of_a_class_are_dirichlet(a: float):
    """Mean 1 / boxes, variance (1 / n)(1 - 1 / n) / (n a + 1), over many draws."""
    rng, boxes, images = np.random.default_rng(2), 5, 10_000
    draws = [_dirichlet_counts(rng, [images] * 4, boxes, a) for _ in range(1500)]
    shares = np.concatenate(draws) / images
    variance = (1 / boxes) * (1 - 1 / boxes) / (boxes * a + 1)
    assert shares.sum(axis=1) == pytest.approx(np.ones(len(shares)), abs=1e-12)
    assert shares.mean(axis=0) == pytest.approx(np.full(boxes, 1 / boxes), abs=0.02)
    assert shares.var(axis=0) == pytest.approx(np.full(boxes, variance), rel=0.1)


def test_a_small_a_makes_boxes_less_alike():
    def spread(text: str) -> float:
        hands = hands_of(text, boxes=4)
        return float(np.std([np.bincount(TEN[h], minlength=10) for h in hands]))

    assert spread("dirichlet:0.1") > 2 * spread("dirichlet:5") > 2 * spread("dirichlet:1000")


@FAST
@given(a=st.sampled_from([0.05, 0.2, 1.0]), seed=st.integers(0, 99))
def test_every_box_of_a_dirichlet_split_can_train(a: float, seed: int):
    hands = hands_of(f"dirichlet:{a}", seed=seed)
    for hand in hands:
        assert (np.bincount(TEN[hand]) >= 2).sum() >= 2


@pytest.mark.parametrize("text", ["iid", "dirichlet:0.3", "dirichlet:1", "classes:4"])
def test_a_split_is_written_as_it_is_read(text: str):
    assert str(read_split(text)) == text
    assert str(read_split(text.replace("0.3", ".30"))) == text


BAD = ["", "even", "iid:1", "dirichlet", "dirichlet:", "dirichlet:x", "dirichlet:0", "dirichlet:-1",
       "dirichlet:nan", "dirichlet:inf", "dirichlet:1e9", "classes", "classes:1", "classes:2.5",
       "classes:x", "Classes:2"]  # fmt: skip


@pytest.mark.parametrize("text", BAD)
def test_anything_else_is_refused_in_one_line(text: str):
    with pytest.raises(UsageError, match=rf"^--split {text}: is no split; expected iid, dirichlet"):
        read_split(text)


IMPOSSIBLE = [
    ("classes:11", 6, TEN, "there are training images of 10 classes; expected K from 2 to 10"),
    ("classes:2", 3, TEN, "with --boxes 3 there is room for 6 of 10 classes; .* 4 or more, or 5 "
     "boxes"),
    ("classes:3", 9, np.repeat(np.arange(3), 5), "fewer than 2 images of one of its classes, the "
     "rarest of which has 5; expected 2 or more"),
    ("dirichlet:1", 9, np.repeat(np.arange(3), 5), "in 1000 draws of 15 images for 9 boxes"),
    ("dirichlet:1", 2, np.zeros(50, np.int64), "fewer than 2 classes of 2 images; expected that"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "boxes", "labels", "said"), IMPOSSIBLE)
def test_a_split_that_cannot_be_is_refused(text: str, boxes: int, labels: np.ndarray, said: str):
    with pytest.raises(UsageError, match=f"^--split {text}: .*{said}"):
        hands_of(text, labels, boxes=boxes)


def test_a_class_without_an_image_is_nobody_s():
    labels = np.repeat([0, 2, 5], 30)
    hands = split_images(Split("classes", 2), labels, boxes=3, seed=0)
    assert [len(np.unique(labels[hand])) for hand in hands] == [2, 2, 2]

"""The median over the boxes: one hostile box changes nothing that the others agree on."""

import math

import numpy as np
import pytest
from hypothesis import given, strategies as st
from numpy.typing import NDArray

from edge_stl.fusion import MEDIAN_FLOOR, Member, fuse, fuse_median, median_answers, voters
from edge_stl.testing import assert_parity


def member(box: str, *, branch: str = "a", counts: tuple[int, ...] = (9, 9, 9)) -> Member:
    return Member(branch=branch, box=box, counts=counts, temperature=1.0, log_loss=0.5)


def sure(label: int, *, classes: int = 3, strength: float = 50.0) -> NDArray[np.float64]:
    """Return logits ``(1, K)`` that are sure of one class."""
    return strength * np.eye(classes)[[label]]


def test_one_hostile_box_among_five_cannot_flip_what_the_others_agree_on():
    """It says class 2 with probability 1; four mildly say class 0. Weighing lets it win."""
    members = [member(f"box{i}") for i in range(5)]
    honest = np.array([[0.9, 0.0, 0.0]])
    logits = [honest] * 4 + [sure(2)]
    got, each = fuse_median(logits, members)
    assert got.argmax() == 0
    # the median of four equal values and another is theirs
    assert_parity(got, each[:, 0] / each[:, 0].sum(), kind="probabilities")
    weighted, _ = fuse(logits, members, [0.2] * 4 + [0.2])
    assert weighted.argmax() == 2


@given(
    beliefs=st.lists(st.lists(st.floats(-4, 4), min_size=3, max_size=3), min_size=4, max_size=4),
    lie=st.lists(st.floats(-60, 60), min_size=3, max_size=3),
)
def test_the_median_of_a_class_stays_within_what_the_honest_boxes_say(
    beliefs: list[list[float]], lie: list[float]
):
    """One among five moves it to a neighbouring value at most, whatever it sends."""
    members = [member(f"box{i}") for i in range(5)]
    logits = [np.array([row]) for row in [*beliefs, lie]]
    _, each = fuse_median(logits, members)
    honest = np.sort(each[0, :4], axis=0)
    middle = np.median(each[0], axis=0)
    assert (honest[1] - 1e-12 <= middle).all()
    assert (middle <= honest[2] + 1e-12).all()
    got, _ = fuse_median(logits, members)
    assert_parity(got[0], middle / middle.sum(), kind="probabilities")


def test_a_box_that_sends_more_files_has_no_more_say():
    """Its files are averaged first: ten liars of one box are one box."""
    honest = [member(f"box{i}") for i in range(4)]
    many = [member("liar", branch=f"b{i}") for i in range(10)]
    logits = [np.array([[1.0, 0.0, 0.0]])] * 4
    crowd, _ = fuse_median([*logits, *[sure(2)] * 10], [*honest, *many])
    alone, _ = fuse_median([*logits, sure(2)], [*honest, member("liar")])
    assert_parity(crowd, alone, kind="probabilities")
    assert crowd.argmax() == 0


def test_an_even_number_of_boxes_gives_the_mean_of_the_two_in_the_middle():
    p = np.array([[[0.1, 0.9], [0.2, 0.8], [0.6, 0.4], [0.9, 0.1]]])
    members = [member(f"box{i}", counts=(5, 5)) for i in range(4)]
    assert_parity(median_answers(p, members), np.array([[0.4, 0.6]]), kind="probabilities")


def test_only_boxes_that_saw_a_class_speak_of_it():
    """Of class 2 box 3 alone; of class 3 nobody, so 1 / 4 before the rest is normalized."""
    p = np.array([[[0.7, 0.3, 0, 0], [0.5, 0.5, 0, 0], [0.6, 0.1, 0.3, 0]]])
    members = [
        member("box1", counts=(5, 5, 0, 0)),
        member("box2", counts=(5, 5, 0, 0)),
        member("box3", counts=(5, 5, 5, 0)),
    ]
    expected = np.array([[0.6, 0.3, 0.3, 0.25]])
    assert_parity(median_answers(p, members), expected / expected.sum(), kind="probabilities")


def test_a_file_of_one_class_says_nothing():
    """Its p is 1 for that class whatever the image: as evidence it counts 0, so it does here."""
    p = np.array([[[0.2, 0.8], [0.3, 0.7], [1.0, 0.0], [1.0, 0.0]]])
    counts = [(5, 5), (5, 5), (5, 0), (5, 0)]
    members = [member(f"box{i}", counts=c) for i, c in enumerate(counts)]
    assert sorted(voters(members)) == ["box0", "box1"]
    assert_parity(median_answers(p, members), np.array([[0.25, 0.75]]), kind="probabilities")


def test_where_nobody_says_anything_the_answer_is_the_prior():
    lonely = [member("box0", counts=(5, 0)), member("box1", counts=(0, 5))]
    prior = np.array([0.2, 0.8])
    assert_parity(
        fuse_median([sure(0, classes=2)] * 2, lonely, prior=prior)[0],
        prior[None],
        kind="probabilities",
    )


def test_boxes_that_agree_on_nothing_give_the_prior_and_no_nan():
    """Three sure boxes, three classes: every median is 0."""
    members = [member(f"box{i}") for i in range(3)]
    got, _ = fuse_median([sure(c, strength=1e4) for c in range(3)], members)
    assert_parity(got, np.full((1, 3), 1 / 3), kind="probabilities")
    assert math.log(MEDIAN_FLOOR) > -20


def test_the_prior_of_the_plan_is_put_back():
    p = np.array([[[0.6, 0.4], [0.5, 0.5], [0.4, 0.6]]])
    members = [member(f"box{i}", counts=(5, 5)) for i in range(3)]
    got = median_answers(p, members, prior=np.array([3.0, 1.0]))
    assert_parity(got, np.array([[0.75, 0.25]]), kind="probabilities")


@pytest.mark.parametrize("order", [(1, 0, 2, 3), (3, 2, 1, 0)])
def test_the_order_of_the_files_does_not_matter(order: tuple[int, ...]):
    rng = np.random.default_rng(0)
    members = [member(f"box{i // 2}", branch=f"b{i % 2}") for i in range(4)]
    logits = [rng.normal(size=(5, 3)) for _ in range(4)]
    expected, _ = fuse_median(logits, members)
    got, _ = fuse_median([logits[i] for i in order], [members[i] for i in order])
    assert_parity(got, expected, kind="probabilities")


def test_the_files_of_a_box_are_averaged_each_class_over_those_that_saw_it():
    """Box 1 has two files, one of which never saw class 2."""
    p = np.array([[[0.2, 0.5, 0.3], [0.6, 0.4, 0.0], [0.4, 0.4, 0.2]]])
    members = [
        member("box1", branch="a"),
        member("box1", branch="b", counts=(9, 9, 0)),
        member("box2"),
    ]
    expected = np.array([[(0.4 + 0.4) / 2, (0.45 + 0.4) / 2, (0.3 + 0.2) / 2]])
    assert_parity(median_answers(p, members), expected / expected.sum(), kind="probabilities")

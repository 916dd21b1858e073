"""The rules by which boxes weigh: what they promise, and cases worked out with a pencil."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given, strategies as st

from edge_stl.fusion import (
    DATA_FREE,
    Member,
    geometric_weights,
    plan_weights,
    reliability,
    reliability_weights,
    uniform_weights,
)
from edge_stl.testing import assert_parity


CLASSES = 10


def member(branch: str, box: str, r: float, *, images: int = 100) -> Member:
    """Return a member of ten classes with reliability ``r`` and about this many images."""
    counts = (images - CLASSES + 1, *[1] * (CLASSES - 1))
    return Member(branch, box, counts, 1.0, math.log(CLASSES) / (r + 1))


def one_branch_each(*r: float) -> list[Member]:
    return [member(f"b{i}", f"box{i}", value) for i, value in enumerate(r)]


@st.composite
def fleets(draw: st.DrawFn) -> list[Member]:
    keys = draw(
        st.lists(
            st.tuples(st.sampled_from("xyz"), st.sampled_from("abcdefg")),
            min_size=1,
            max_size=12,
            unique=True,
        )
    )
    return [
        member(
            branch,
            box,
            draw(st.sampled_from([0.0, 0.01, 0.5, 5.0]) | st.floats(0, 5)),
            images=draw(st.integers(CLASSES, 5000)),
        )
        for branch, box in keys
    ]


def per_box(members: Sequence[Member], weights: np.ndarray) -> dict[str, float]:
    totals = dict.fromkeys(sorted({m.box for m in members}), 0.0)
    for who, weight in zip(members, weights, strict=True):
        totals[who.box] += float(weight)
    return totals


def cap_of(members: Sequence[Member]) -> float:
    boxes = {m.box for m in members}
    able = {m.box for m in members if reliability(m) > 0}
    return max(min(0.5, 2 / len(boxes)), 1 / len(able))


@pytest.mark.parametrize(
    ("seen", "log_loss", "r"),
    [
        (4, math.log(4) / 3, 2.0),
        (4, math.log(2), 1.0),
        (4, math.log(4), 0.0),
        (4, 99.0, 0.0),
        (1, 0.0, 0.0),
        (4, 0.0, math.log(4) / -math.log(0.99) - 1),  # no answer counts as surer than 0.99
    ],
)
def test_reliability_is_how_many_times_chance_loses_more_less_one(
    seen: int, log_loss: float, r: float
) -> None:
    who = Member("b", "x", (2,) * seen + (0, 0), 1.0, log_loss)

    assert reliability(who) == pytest.approx(r, abs=1e-12)


@given(st.integers(0, 200), st.floats(0, 3))
def test_no_more_reliability_than_validation_images(images: int, log_loss: float) -> None:
    who = Member("b", "x", (2,) * 4, 1.0, log_loss, validation=images)
    exact = Member("b", "x", (2,) * 4, 1.0, log_loss)

    assert 0 <= reliability(who) <= min(images, reliability(exact)) * (1 + 1e-9)


def test_one_image_at_chance_is_added_to_those_that_were_measured() -> None:
    """Loss log 16 / 4 on three images and log 16 on a fourth are 7/16 log 16 on average."""
    who = Member("b", "x", (2,) * 16, 1.0, math.log(16) / 4, validation=3)

    assert reliability(who) == pytest.approx(16 / 7 - 1)


@given(fleets())
def test_weights_of_every_rule_are_shares(members: list[Member]):
    for rule in DATA_FREE.values():
        weights = rule(members)
        assert weights.shape == (len(members),)
        assert (weights >= 0).all()
        assert weights.sum() == pytest.approx(1, abs=1e-12)


def test_the_rules_that_need_no_data_have_these_names():
    assert {
        "reliability": reliability_weights,
        "uniform": uniform_weights,
        "geometric": geometric_weights,
    } == DATA_FREE


@given(fleets())
def test_no_box_of_three_or_more_weighs_above_the_cap(members: list[Member]):
    assume(len({m.box for m in members}) > 2)
    assume(any(reliability(m) > 0 for m in members))

    totals = per_box(members, reliability_weights(members))

    assert max(totals.values()) <= cap_of(members) + 1e-9


@given(fleets())
def test_reliability_without_a_cap_is_the_formula_of_the_design(members: list[Member]):
    mean: dict[str, float] = {}
    images = dict.fromkeys({m.branch for m in members}, 0)
    for who in members:
        images[who.branch] += who.images
    for who in members:
        share = who.images / images[who.branch]
        mean[who.branch] = mean.get(who.branch, 0.0) + share * reliability(who)
    raw = np.array([mean[m.branch] * m.images / images[m.branch] for m in members])
    assume(raw.sum() > 0)
    raw /= raw.sum()
    totals = per_box(members, raw)
    assume(len(totals) <= 2 or max(totals.values()) <= cap_of(members) - 1e-9)

    assert_parity(reliability_weights(members), raw, kind="float64")


@given(fleets())
def test_the_order_of_the_files_does_not_matter(members: list[Member]):
    for rule in DATA_FREE.values():
        assert_parity(rule(members[::-1])[::-1], rule(members), kind="float64")


@given(st.lists(st.floats(0, 5), min_size=1, max_size=6))
def test_a_box_with_a_smaller_loss_never_weighs_less_for_it(r: list[float]):
    assume(any(reliability(m) > 0 for m in one_branch_each(*r)))
    members, better = one_branch_each(*r), one_branch_each(5.3, *r[1:])

    before, after = reliability_weights(members)[0], reliability_weights(better)[0]

    assert after >= min(before, cap_of(better)) - 1e-9


@pytest.mark.parametrize(
    ("r", "weights"),
    [
        ((1, 1, 1, 1), (0.25, 0.25, 0.25, 0.25)),
        ((0.4, 0.3, 0.2, 0.1), (0.4, 0.3, 0.2, 0.1)),
        # four boxes: cap 0.5, the excess 0.2 in proportion to the others
        ((0.7, 0.1, 0.1, 0.1), (0.5, 1 / 6, 1 / 6, 1 / 6)),
        ((0.7, 0.2, 0.1, 0.0), (0.5, 1 / 3, 1 / 6, 0.0)),
        # five boxes: cap 0.4; 0.07 of the first's excess lifts the second above it as well
        ((0.5, 0.35, 0.05, 0.05, 0.05), (0.4, 0.4, 1 / 15, 1 / 15, 1 / 15)),
        # three boxes: cap 0.5, not 2/3
        ((0.8, 0.1, 0.1), (0.5, 0.25, 0.25)),
        # only two of five are above chance: 1/m = 0.5 is above 2/n = 0.4
        ((0.9, 0.1, 0, 0, 0), (0.5, 0.5, 0, 0, 0)),
        # only one is: all the weight is its own
        ((0.9, 0, 0, 0), (1, 0, 0, 0)),
        # one and two boxes have no cap
        ((0.9, 0.1), (0.9, 0.1)),
        ((0.9, 0), (1, 0)),
        ((0.3,), (1,)),
        # nobody is above chance
        ((0, 0, 0), (1 / 3, 1 / 3, 1 / 3)),
        ((0, 0), (0.5, 0.5)),
    ],
    ids=str,
)
def test_reliability_weights_worked_out_by_hand(r: Sequence[float], weights: Sequence[float]):
    assert_parity(reliability_weights(one_branch_each(*r)), weights, kind="float64")


def test_a_branch_weighs_the_mean_of_its_boxes_and_each_box_its_share_of_the_images():
    members = [
        member("x", "a", 4.0, images=300),
        member("x", "b", 0.0, images=100),
        member("y", "c", 1.0),
        member("y", "d", 2.0),
    ]

    # x: 4 * 3/4 = 3, of which a has 3/4 and b 1/4; y: 1.5, halved
    expected = np.array([2.25, 0.75, 0.75, 0.75]) / 4.5
    assert_parity(reliability_weights(members), expected, kind="float64")


def test_the_excess_goes_to_boxes_above_chance_only():
    members = [
        member("x", "a", 4.0, images=900),
        member("x", "b", 0.0, images=100),
        member("y", "c", 0.2),
        member("z", "d", 0.2),
    ]

    # before the cap: 3.24, 0.36, 0.2, 0.2 of 4; a falls to 0.5 and b, at chance, gains nothing
    assert_parity(reliability_weights(members), [0.5, 0.09, 0.205, 0.205], kind="float64")


def test_the_only_box_above_chance_has_no_cap_beside_its_branch_s_other_box():
    members = [
        member("x", "a", 4.0, images=900),
        member("x", "b", 0.0, images=100),
        member("y", "c", 0.0),
        member("z", "d", 0.0),
    ]

    assert_parity(reliability_weights(members), [0.9, 0.1, 0.0, 0.0], kind="float64")


def test_all_files_of_a_box_share_its_cap():
    members = [
        member("x", "a", 3.0),
        member("y", "a", 1.0),
        member("z", "b", 0.5),
        member("u", "c", 0.5),
    ]

    assert_parity(reliability_weights(members), [0.375, 0.125, 0.25, 0.25], kind="float64")


@pytest.mark.parametrize(("boxes", "cap"), [(3, 0.5), (4, 0.5), (5, 0.4), (10, 0.2), (40, 0.05)])
def test_lying_about_oneself_reaches_the_cap_and_no_further(boxes: int, cap: float):
    honest = one_branch_each(*[0.04] * boxes)
    liar = Member("b0", "box0", honest[0].counts, 1.0, 0.0)

    weights = reliability_weights([liar, *honest[1:]])

    assert weights[0] == pytest.approx(cap, abs=1e-12)
    assert_parity(weights[1:], [(1 - cap) / (boxes - 1)] * (boxes - 1), kind="float64")


def test_a_claim_better_than_perfect_reaches_the_cap_and_no_further():
    honest = one_branch_each(0.04, 0.04, 0.04, 0.04, 0.04)
    liar = Member("b0", "box0", honest[0].counts, 1.0, -1e6)

    assert reliability_weights([liar, *honest[1:]])[0] == pytest.approx(0.4, abs=1e-9)


def test_uniform_is_one_over_the_number_of_files():
    assert_parity(uniform_weights(one_branch_each(1, 0, 5)), [1 / 3] * 3, kind="float64")


def test_geometric_halves_from_the_most_reliable_down():
    weights = geometric_weights(one_branch_each(1, 4, 0, 2))

    assert_parity(weights, np.array([2, 8, 1, 4]) / 15, kind="float64")


def test_geometric_takes_the_paper_s_p():
    weights = geometric_weights(one_branch_each(3, 2, 1), p=0.2)

    assert weights[1] / weights[0] == pytest.approx(0.8)
    assert weights[2] / weights[1] == pytest.approx(0.8)


def test_geometric_orders_equals_by_branch_and_box():
    members = [member("y", "a", 1), member("x", "b", 1), member("x", "a", 1)]

    assert_parity(geometric_weights(members), np.array([1, 2, 4]) / 7, kind="float64")


def test_the_plan_s_weights_are_split_by_images_within_a_branch():
    members = [
        member("x", "a", 1, images=30),
        member("x", "b", 5, images=10),
        member("y", "a", 0, images=77),
        member("z", "a", 0),
    ]

    weights = plan_weights(members, {"x": 3.0, "y": 1.0})

    assert_parity(weights, [0.5625, 0.1875, 0.25, 0.0], kind="float64")


def test_a_declared_branch_that_nobody_trained_leaves_the_others_their_ratio():
    weights = plan_weights(one_branch_each(1, 1), {"b0": 1.0, "b1": 3.0, "gone": 96.0})

    assert_parity(weights, [0.25, 0.75], kind="float64")


@pytest.mark.parametrize("declared", [{}, {"gone": 1.0}, {"b0": 0.0}])
def test_declared_weights_of_nothing_given_are_refused(declared: dict[str, float]):
    with pytest.raises(ValueError, match=r"the plan's weights .* are 0 for every branch given"):
        plan_weights(one_branch_each(1, 1), declared)

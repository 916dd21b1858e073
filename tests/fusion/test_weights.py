"""The rules by which boxes weigh: what they promise, and cases worked out with a pencil."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given, strategies as st
from numpy.typing import NDArray

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


K = 4
EQUAL = (50,) * K


def member(branch: str, box: str, r: float, counts: Sequence[int] = EQUAL) -> Member:
    """Return a member with reliability ``r``."""
    seen = sum(n > 0 for n in counts)
    return Member(branch, box, tuple(counts), 1.0, math.log(max(seen, 1)) / (r + 1))


def one_branch_each(*r: float) -> list[Member]:
    return [member(f"b{i}", f"box{i}", value) for i, value in enumerate(r)]


def squared(shares: Sequence[float]) -> list[Member]:
    """Return members whose weights without a cap are these shares: the rule takes the root of r."""
    return one_branch_each(*[share**2 for share in shares])


def every_class(weights: Sequence[float]) -> NDArray[np.float64]:
    return np.repeat(np.array(weights, dtype=np.float64)[:, None], K, axis=1)


@st.composite
def fleets(draw: st.DrawFn) -> list[Member]:
    """Return files of boxes that saw different classes, some one alone, some not above chance."""
    keys = draw(
        st.lists(
            st.tuples(st.sampled_from("xyz"), st.sampled_from("abcdefg")),
            min_size=1,
            max_size=10,
            unique=True,
        )
    )
    count = st.sampled_from([0, 0, 1, 50]) | st.integers(0, 5000)
    counts = st.lists(count, min_size=K, max_size=K).filter(any)
    r = st.sampled_from([0.0, 0.01, 0.5, 5.0]) | st.floats(0, 5)
    return [member(branch, box, draw(r), draw(counts)) for branch, box in keys]


def speaks_for(c: int, members: Sequence[Member]) -> list[int]:
    return [i for i, m in enumerate(members) if m.counts[c] > 0 and len(m.seen) > 1]


def per_box(c: int, members: Sequence[Member], weights: NDArray[np.float64]) -> dict[str, float]:
    """Return the weight of every box that speaks for a class, all its files together."""
    totals = {members[i].box: 0.0 for i in speaks_for(c, members)}
    for i in speaks_for(c, members):
        totals[members[i].box] += float(weights[i])
    return totals


def cap_of(c: int, members: Sequence[Member]) -> float:
    own = [members[i] for i in speaks_for(c, members)]
    boxes, able = {m.box for m in own}, {m.box for m in own if reliability(m) > 0}
    return max(min(0.5, 2 / len(boxes)), 1 / len(able)) if len(boxes) > 2 and able else 1.0


def raw_weights(c: int, members: Sequence[Member]) -> NDArray[np.float64]:
    """Return the shares of a class before the cap, one file at a time."""
    raw = [
        math.sqrt(reliability(m) * m.counts[c]) if i in speaks_for(c, members) else 0.0
        for i, m in enumerate(members)
    ]
    return np.array(raw) / (sum(raw) or 1.0)


@given(fleets())
def test_the_weights_of_a_class_are_shares_of_those_who_speak_for_it(members: list[Member]) -> None:
    """So a file of one class weighs exactly 0, as every file does at a class its box never saw."""
    declared = {"x": 1.0, "y": 0.5, "z": 0.1}
    every = [rule(members) for rule in DATA_FREE.values()] + [plan_weights(members, declared)]
    for weights in every:
        assert weights.shape == (len(members), K)
        assert (weights >= 0).all()
        for c in range(K):
            own = speaks_for(c, members)
            assert weights[:, c].sum() == pytest.approx(1.0 if own else 0.0, abs=1e-12)
            assert (np.delete(weights[:, c], own) == 0).all()


def test_the_rules_that_need_no_data_have_these_names() -> None:
    assert {
        "reliability": reliability_weights,
        "uniform": uniform_weights,
        "geometric": geometric_weights,
    } == DATA_FREE


@given(fleets())
def test_the_excess_over_the_cap_goes_to_the_other_boxes_above_chance_in_proportion(
    members: list[Member],
) -> None:
    """Every box has the least of the cap and one multiple of what it had: no other answer has."""
    weights = reliability_weights(members)
    for c in range(K):
        before = per_box(c, members, raw_weights(c, members))
        if not sum(before.values()):  # nobody above chance: all count alike, no cap
            continue
        after, cap = per_box(c, members, weights[:, c]), cap_of(c, members)
        assert max(after.values()) <= cap + 1e-9
        free = [after[b] / before[b] for b in after if before[b] > 0 and after[b] < cap - 1e-9]
        multiple = max(free, default=math.inf)
        assert multiple >= 1 - 1e-9
        for box, share in before.items():
            expected = min(cap, multiple * share) if share > 0 else 0.0
            assert after[box] == pytest.approx(expected, abs=1e-9)


@given(fleets())
def test_a_box_s_files_keep_their_proportions_under_the_cap(members: list[Member]) -> None:
    weights = reliability_weights(members)
    for c in range(K):
        raw = raw_weights(c, members)
        totals, kept = per_box(c, members, raw), per_box(c, members, weights[:, c])
        for i in speaks_for(c, members):
            box = members[i].box
            if totals[box] > 0:
                expected = raw[i] / totals[box] * kept[box]
                assert weights[i, c] == pytest.approx(expected, abs=1e-9)


@given(fleets())
def test_where_no_box_is_above_the_cap_reliability_is_the_root_of_skill_times_images(
    members: list[Member],
) -> None:
    weights = reliability_weights(members)
    for c in range(K):
        raw = raw_weights(c, members)
        if raw.any() and max(per_box(c, members, raw).values()) <= cap_of(c, members):
            assert_parity(weights[:, c], raw, kind="float64")


@given(fleets(), st.randoms(use_true_random=False))
def test_the_order_of_the_files_does_not_matter(members: list[Member], rng: object) -> None:
    order = list(range(len(members)))
    rng.shuffle(order)  # type: ignore[attr-defined]
    mixed = [members[i] for i in order]
    rules = [*DATA_FREE.values(), lambda m: plan_weights(m, {"x": 2.0, "y": 1.0, "z": 1.0})]
    for rule in rules:
        assert_parity(rule(mixed), rule(members)[order], kind="float64")


@given(st.lists(st.floats(0, 5), min_size=1, max_size=6))
def test_a_box_with_a_smaller_loss_never_weighs_less_for_it(r: list[float]) -> None:
    members, better = one_branch_each(*r), one_branch_each(5.3, *r[1:])
    assume(any(reliability(m) > 0 for m in members))

    before, after = reliability_weights(members)[0, 0], reliability_weights(better)[0, 0]

    assert after >= min(before, cap_of(0, better)) - 1e-9


@pytest.mark.parametrize(
    ("shares", "weights"),
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
def test_reliability_weights_worked_out_by_hand(
    shares: Sequence[float], weights: Sequence[float]
) -> None:
    assert_parity(reliability_weights(squared(shares)), every_class(weights), kind="float64")


def test_twice_the_images_of_a_class_weigh_the_root_of_two_times_there_and_nowhere_else() -> None:
    members = [member("x", "a", 1.0, (100, 50, 50, 50)), member("y", "b", 1.0)]

    weights = reliability_weights(members)

    assert weights[0, 0] / weights[1, 0] == pytest.approx(math.sqrt(2))
    assert_parity(weights[:, 1:], np.full((2, 3), 0.5), kind="float64")


def test_twice_the_skill_weighs_the_root_of_two_times() -> None:
    weights = reliability_weights(one_branch_each(2.0, 1.0))

    assert_parity(weights[0] / weights[1], [math.sqrt(2)] * K, kind="float64")


def test_every_class_is_weighed_over_those_who_speak_for_it() -> None:
    members = [
        member("x", "a", 4.0, (9, 9, 0, 0)),
        member("y", "b", 1.0, (9, 4, 4, 0)),
        member("z", "c", 9.0, (0, 9, 0, 0)),  # one class: nothing to tell it apart from
        member("z", "d", 0.0, (0, 0, 9, 9)),
    ]

    expected = [
        [2 / 3, 3 / 4, 0, 0],  # class 0: 2 * 3 against 1 * 3; class 1: 2 * 3 against 1 * 2
        [1 / 3, 1 / 4, 1, 0],
        [0, 0, 0, 0],
        [0, 0, 0, 1],  # at chance, but nobody else speaks for the last class
    ]
    assert_parity(reliability_weights(members), expected, kind="float64")


def test_the_cap_counts_the_boxes_that_speak_for_the_class_alone() -> None:
    """Class 0: five boxes, cap 0.4. Class 3: the same shares among three, cap 0.5."""
    few, liar = (50, 50, 50, 0), member("x", "a", 100.0)
    others = [member("x", box, 0.01, few if box in "bc" else EQUAL) for box in "bcde"]

    weights = reliability_weights([liar, *others])

    assert_parity(weights[:, 0], [0.4, 0.15, 0.15, 0.15, 0.15], kind="float64")
    assert_parity(weights[:, 3], [0.5, 0, 0, 0.25, 0.25], kind="float64")


def test_the_excess_goes_to_boxes_above_chance_only() -> None:
    members = [
        member("x", "a", 16.0),
        member("x", "b", 0.0),
        member("y", "c", 1.0),
        member("z", "d", 1.0),
    ]

    # before the cap: 4, 0, 1, 1 of 6; a falls to 0.5 and b, at chance, gains nothing
    expected = every_class([0.5, 0, 0.25, 0.25])
    assert_parity(reliability_weights(members), expected, kind="float64")


def test_all_files_of_a_box_share_its_cap() -> None:
    members = [
        member("x", "a", 9.0),
        member("y", "a", 1.0),
        member("z", "b", 0.25),
        member("u", "c", 0.25),
    ]

    expected = every_class([0.375, 0.125, 0.25, 0.25])
    assert_parity(reliability_weights(members), expected, kind="float64")


@pytest.mark.parametrize(("boxes", "cap"), [(3, 0.5), (4, 0.5), (5, 0.4), (10, 0.2), (40, 0.05)])
@pytest.mark.parametrize("log_loss", [0.0, -1e6])
def test_lying_about_oneself_reaches_the_cap_and_no_further(
    boxes: int, cap: float, log_loss: float
) -> None:
    honest = one_branch_each(*[0.04] * boxes)
    liar = Member("b0", "box0", (10**12,) * K, 1.0, log_loss, validation=10**12)

    weights = reliability_weights([liar, *honest[1:]])

    expected = [cap, *[(1 - cap) / (boxes - 1)] * (boxes - 1)]
    assert_parity(weights, every_class(expected), kind="float64")


def test_lying_about_one_class_moves_no_other() -> None:
    honest = one_branch_each(1, 1, 1, 1, 1)
    liar = member("b0", "box0", 1, (10**12, 50, 50, 50))

    weights = reliability_weights([liar, *honest[1:]])

    assert weights[0, 0] == pytest.approx(0.4)
    assert_parity(weights[:, 1:], np.full((5, 3), 0.2), kind="float64")


def test_uniform_is_one_over_the_files_that_speak_for_a_class() -> None:
    members = [
        member("x", "a", 1, (5, 5, 5, 0)),
        member("x", "b", 0, (99, 1, 0, 0)),
        member("y", "a", 5, (5, 0, 0, 0)),
    ]

    expected = [[0.5, 0.5, 1, 0], [0.5, 0.5, 0, 0], [0, 0, 0, 0]]
    assert_parity(uniform_weights(members), expected, kind="float64")


def test_geometric_halves_from_the_most_reliable_down() -> None:
    weights = geometric_weights(one_branch_each(1, 4, 0, 2))

    assert_parity(weights, every_class(np.array([2, 8, 1, 4]) / 15), kind="float64")


def test_geometric_ranks_those_who_speak_for_the_class() -> None:
    members = [
        member("x", "a", 4, (5, 5, 5, 0)),
        member("x", "b", 2, (5, 5, 0, 0)),
        member("x", "c", 1, (5, 0, 5, 0)),
        member("x", "d", 9, (5, 0, 0, 0)),
    ]

    expected = [[4 / 7, 2 / 3, 2 / 3, 0], [2 / 7, 1 / 3, 0, 0], [1 / 7, 0, 1 / 3, 0], [0] * 4]
    assert_parity(geometric_weights(members), expected, kind="float64")


def test_geometric_takes_the_paper_s_p() -> None:
    weights = geometric_weights(one_branch_each(3, 2, 1), p=0.2)

    assert_parity(weights[1:] / weights[:-1], np.full((2, K), 0.8), kind="float64")


def test_geometric_orders_equals_by_branch_and_box() -> None:
    members = [member("y", "a", 1), member("x", "b", 1), member("x", "a", 1)]

    expected = every_class(np.array([1, 2, 4]) / 7)
    assert_parity(geometric_weights(members), expected, kind="float64")


def test_the_plan_s_weights_are_split_by_images_within_a_branch() -> None:
    members = [
        member("x", "a", 1, (15, 5, 5, 5)),
        member("x", "b", 5, (1, 3, 3, 3)),
        member("y", "a", 0, (20, 19, 19, 19)),
        member("z", "a", 0),
    ]

    weights = plan_weights(members, {"x": 3.0, "y": 1.0})

    assert_parity(weights, every_class([0.5625, 0.1875, 0.25, 0.0]), kind="float64")


def test_a_branch_has_its_whole_weight_where_only_some_of_its_boxes_speak() -> None:
    members = [
        member("x", "a", 1, (30, 30, 0, 0)),
        member("x", "b", 1, (5, 5, 10, 0)),
        member("y", "a", 1, (30, 30, 30, 0)),
    ]

    weights = plan_weights(members, {"x": 1.0, "y": 1.0})

    expected = [[0.375, 0.375, 0, 0], [0.125, 0.125, 0.5, 0], [0.5, 0.5, 0.5, 0]]
    assert_parity(weights, expected, kind="float64")


def test_a_class_that_only_branches_without_a_weight_speak_for_gets_no_evidence() -> None:
    members = [member("x", "a", 1, (5, 5, 0, 0)), member("y", "a", 1, (0, 5, 5, 0))]

    weights = plan_weights(members, {"x": 1.0})

    assert_parity(weights, [[1, 1, 0, 0], [0, 0, 0, 0]], kind="float64")


def test_a_declared_branch_that_nobody_trained_leaves_the_others_their_ratio() -> None:
    weights = plan_weights(one_branch_each(1, 1), {"b0": 1.0, "b1": 3.0, "gone": 96.0})

    assert_parity(weights, every_class([0.25, 0.75]), kind="float64")


@pytest.mark.parametrize("declared", [{}, {"gone": 1.0}, {"b0": 0.0}])
def test_declared_weights_of_nothing_given_are_refused(declared: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"the plan's weights .* are 0 for every branch given"):
        plan_weights(one_branch_each(1, 1), declared)

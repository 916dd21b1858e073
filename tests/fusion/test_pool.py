"""The formulas of the fusion, worked out again one number at a time."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, strategies as st
from numpy.typing import NDArray

from edge_stl.fusion import (
    CLIP,
    Member,
    evidence,
    fuse,
    largest_change,
    log_prior,
    member_probabilities,
    softmax,
    uniform_weights,
)
from edge_stl.testing import assert_parity


K = 4


def member(
    counts: Sequence[int] = (3, 0, 7, 5), temperature: float = 1.0, box: str = "b"
) -> Member:
    return Member("fine", box, tuple(counts), temperature, 0.5)


def alike(*weights: float) -> NDArray[np.float64]:
    """Return weights that are the same for every class."""
    return np.repeat(np.array(weights)[:, None], K, axis=1)


def by_hand_probabilities(z: Sequence[float], who: Member) -> list[float]:
    seen = [c for c in range(len(z)) if who.counts[c] > 0]
    total = sum(who.counts)
    raw = {}
    for c in seen:
        prior = (who.counts[c] + 1) / (total + len(seen))
        raw[c] = math.exp(z[c] / who.temperature) / prior
    return [raw.get(c, 0.0) / sum(raw.values()) for c in range(len(z))]


def by_hand_evidence(p: Sequence[float], who: Member, clip: float) -> list[float]:
    seen = [c for c in range(len(p)) if who.counts[c] > 0]
    out = [0.0] * len(p)
    if len(seen) > 1:
        for c in seen:
            q = min(max(p[c], clip), 1 - clip)
            out[c] = math.log(q / (1 - q))
    return out


def by_hand_fused(
    logits: Sequence[Sequence[float]],
    members: Sequence[Member],
    weights: Sequence[Sequence[float]],
    *,
    prior: Sequence[float],
    bias: Sequence[float],
    scale: float,
    clip: float,
) -> list[float]:
    score = [math.log(prior[c] / sum(prior)) + bias[c] for c in range(len(prior))]
    for z, who, w in zip(logits, members, weights, strict=True):
        e = by_hand_evidence(by_hand_probabilities(z, who), who, clip)
        score = [s + scale * w[c] * e[c] for c, s in enumerate(score)]
    shares = [math.exp(s - max(score)) for s in score]
    return [share / sum(shares) for share in shares]


NUMBERS = st.floats(-8, 8)
LOGITS = st.lists(NUMBERS, min_size=K, max_size=K)
WEIGHTS = st.lists(st.floats(0, 1), min_size=K, max_size=K)
COUNTS = st.lists(st.integers(0, 50), min_size=K, max_size=K).filter(any)
MEMBERS = st.builds(member, COUNTS, st.floats(0.2, 5))


Party = tuple[list[list[float]], list[Member], NDArray[np.float64]]
"""Logits of one image, members, weights of every class."""


@st.composite
def parties(draw: st.DrawFn) -> Party:
    count = draw(st.integers(1, 5))
    exactly = {"min_size": count, "max_size": count}
    return (
        draw(st.lists(LOGITS, **exactly)),
        draw(st.lists(MEMBERS, **exactly)),
        np.array(draw(st.lists(WEIGHTS, **exactly))),
    )


@given(LOGITS, MEMBERS)
def test_a_branch_s_probabilities_are_its_softmax_over_its_prior(z: list[float], who: Member):
    assert_parity(
        member_probabilities(np.array([z]), who), [by_hand_probabilities(z, who)], kind="float64"
    )


@given(parties(), LOGITS, st.lists(st.floats(0.01, 1), min_size=K, max_size=K), st.floats(0, 3))
def test_the_fused_probabilities_are_the_formula(
    party: Party,
    bias: list[float],
    prior: list[float],
    scale: float,
):
    logits, members, weights = party

    fused, each = fuse(
        [np.array([z]) for z in logits],
        members,
        weights,
        prior=np.array(prior),
        bias=np.array(bias),
        scale=scale,
        clip=0.05,
    )

    expected = by_hand_fused(
        logits, members, weights, prior=prior, bias=bias, scale=scale, clip=0.05
    )
    assert_parity(fused, [expected], kind="float64")
    own = [by_hand_probabilities(z, who) for z, who in zip(logits, members, strict=True)]
    assert_parity(each, [own], kind="float64")


@given(parties())
def test_unless_told_otherwise_the_prior_is_uniform_and_one_percent_is_clipped(
    party: Party,
):
    logits, members, weights = party

    fused, _ = fuse([np.array([z]) for z in logits], members, weights)

    expected = by_hand_fused(
        logits, members, weights, prior=[1] * K, bias=[0] * K, scale=1, clip=0.01
    )
    assert_parity(fused, [expected], kind="float64")
    assert CLIP == 0.01


def test_the_prior_has_one_image_more_of_every_seen_class():
    assert_parity(log_prior((3, 0, 7)), np.log([4 / 12, 8 / 12]), kind="float64")


def test_a_balanced_box_keeps_its_softmax():
    z = np.array([[1.0, 2.0, 0.0, -1.0]])

    assert_parity(member_probabilities(z, member((5, 5, 5, 5))), softmax(z), kind="float64")


def test_many_images_of_a_class_count_against_it():
    p = member_probabilities(np.zeros((1, 4)), member((89, 9, 0, 0)))

    assert_parity(p, [[0.1, 0.9, 0.0, 0.0]], kind="float64")


@given(LOGITS, MEMBERS)
def test_a_class_that_a_box_never_saw_has_exactly_no_probability_and_no_evidence(
    z: list[float], who: Member
):
    p = member_probabilities(np.array([z]), who)
    unseen = [c for c in range(K) if c not in who.seen]

    assert (p[:, unseen] == 0).all()
    assert (evidence(p, who.seen)[:, unseen] == 0).all()


def test_a_huge_logit_of_an_unseen_class_changes_nothing():
    who = member((3, 0, 7, 5))
    quiet, loud = np.zeros((1, 4)), np.array([[0.0, 1e30, 0.0, 0.0]])

    assert np.array_equal(member_probabilities(quiet, who), member_probabilities(loud, who))


@given(LOGITS, st.integers(0, K - 1), st.floats(0, 1))
def test_a_box_with_a_single_class_adds_no_evidence(z: list[float], only: int, weight: float):
    lonely = member([5 * (c == only) for c in range(K)])

    fused, each = fuse([np.array([z])], [lonely], alike(weight))

    assert_parity(fused, [[1 / K] * K], kind="float64")
    assert each[0, 0].tolist() == [float(c == only) for c in range(K)]


def test_belief_beyond_the_clip_counts_as_the_clip():
    p = np.array([[1.0, 0.0], [0.995, 0.005], [0.7, 0.3]])

    sure = math.log(0.99 / 0.01)
    mild = math.log(0.7 / 0.3)
    assert_parity(
        evidence(p, (0, 1)), [[sure, -sure], [sure, -sure], [mild, -mild]], kind="float64"
    )


def test_a_huge_logit_is_as_loud_as_the_clip_allows_and_stays_finite():
    fused, _ = fuse([np.array([[1e4, 0.0, 0.0, 0.0]])], [member((1, 1, 1, 1))], alike(1.0))

    odds = math.log(0.99 / 0.01) * 2
    share = 1 / (1 + 3 * math.exp(-odds))
    assert_parity(fused[0, 0], share, kind="float64")


@given(parties(), st.data())
def test_no_box_moves_a_probability_further_than_the_bound(party: Party, data: st.DataObject):
    logits, members, weights = party
    which = data.draw(st.integers(0, len(members) - 1))
    scale = data.draw(st.floats(0, 3))
    size = data.draw(st.sampled_from([1, 1e3]))
    spoken = [np.array([z]) for z in logits]
    spoken[which] = spoken[which] * size
    silent = weights.copy()
    silent[which] = 0

    with_it, _ = fuse(spoken, members, weights, scale=scale)
    without_it, _ = fuse(spoken, members, silent, scale=scale)

    bound = largest_change(weights[which], scale=scale)
    assert np.abs(with_it - without_it).max() <= bound + 1e-12


@pytest.mark.parametrize("scale", [1.0, 0.7])
def test_the_bound_is_reached_from_half_way_below_even_odds(scale: float):
    """Of the two classes where it weighs most it is sure of one and rules the other out."""
    liar = member((1, 1, 1, 1))
    weights = np.array([[0.6, 0.1, 0.3, 0.2]])
    moved = scale * (0.6 + 0.3) * math.log(0.99 / 0.01)
    bias = np.array([-moved / 2, -50.0, 0.0, -50.0])
    loud = np.array([[1e3, 0.0, -1e3, 0.0]])

    after, before = (
        fuse([loud], [liar], w, bias=bias, scale=scale)[0][0, 0] for w in (weights, 0 * weights)
    )

    assert after - before == pytest.approx(largest_change(weights[0], scale=scale), abs=1e-9)
    assert before == pytest.approx(1 - after, abs=1e-9)


@pytest.mark.parametrize(
    ("weights", "options", "change"),
    [
        ((0, 0, 0, 0), {}, 0.0),
        ((0.5, 0.5, 0.5, 0.5), {}, math.tanh(0.25 * math.log(99))),
        ((0, 0.8, 0.1, 0.2), {}, math.tanh(0.25 * math.log(99))),
        ((0.5, 0, 0, 0), {}, math.tanh(0.125 * math.log(99))),
        ((0.5, 0.5, 0, 0), {"scale": 2.0}, math.tanh(0.5 * math.log(99))),
        ((0.5, 0.5, 0, 0), {"clip": 0.1}, math.tanh(0.25 * math.log(9))),
    ],
)
def test_the_bound_is_the_tanh_of_the_two_largest_weights(
    weights: tuple[float, ...], options: dict[str, float], change: float
):
    assert largest_change(np.array(weights), **options) == pytest.approx(change, abs=1e-15)


def test_a_class_that_one_box_alone_saw_gets_that_box_s_full_evidence():
    """The other two say nothing of it, and their silence takes nothing from what the one says."""
    members = [member((5, 5, 0, 0)), member((5, 5, 0, 0)), member((0, 5, 5, 0), box="c")]
    logits = [np.zeros((1, K)), np.zeros((1, K)), np.array([[0.0, 0.0, 2.0, 0.0]])]

    fused, each = fuse(logits, members, uniform_weights(members))

    p = math.exp(2) / (1 + math.exp(2))
    assert_parity(each[0, 2], [0, 1 - p, p, 0], kind="float64")
    # class 0: even odds, twice; class 1: the mean with the third's log(1 - p) / p = -2
    assert_parity(fused, softmax(np.array([[0.0, -2 / 3, 2.0, 0.0]])), kind="float64")


@given(LOGITS, MEMBERS, st.integers(1, 6), st.floats(0.1, 3))
def test_uniform_fusion_of_identical_boxes_is_one_of_them_at_the_same_scale(
    z: list[float], who: Member, copies: int, scale: float
):
    def fused(count: int) -> NDArray[np.float64]:
        members = [who] * count
        weights = uniform_weights(members)
        return fuse([np.array([z])] * count, members, weights, scale=scale)[0]

    assert_parity(fused(copies), fused(1), kind="float64")


@given(parties())
def test_what_stands_at_a_class_that_a_box_never_saw_counts_nothing(party: Party):
    logits, members, weights = party
    other = np.where([[n > 0 for n in m.counts] for m in members], weights, 7.0)
    spoken = [np.array([z]) for z in logits]

    assert_parity(
        fuse(spoken, members, other)[0], fuse(spoken, members, weights)[0], kind="float64"
    )


def test_one_scale_per_class_multiplies_the_evidence_of_that_class():
    rng = np.random.default_rng(0)
    logits = list(rng.normal(size=(2, 5, K)))
    members, weights = [member((3, 1, 7, 5)), member((2, 2, 2, 2))], rng.random((2, K))
    scale = np.array([0.5, 1.0, 2.0, 0.0])

    wanted, _ = fuse(logits, members, scale * weights)

    assert_parity(fuse(logits, members, weights, scale=scale)[0], wanted, kind="float64")


def test_huge_counts_and_single_precision_change_nothing_but_rounding():
    z = np.array([[0.3, -1.0, 2.0, 0.5]])
    few, many = member((30, 10, 20, 40)), member([n * 10**12 for n in (3, 1, 2, 4)])
    wide, _ = fuse([z], [many], alike(1.0))

    assert_parity(log_prior(many.counts), np.log([0.3, 0.1, 0.2, 0.4]), kind="float64")
    assert_parity(fuse([z.astype(np.float32)], [many], alike(1.0))[0], wide, kind="float32")
    assert np.abs(fuse([z], [few], alike(1.0))[0] - wide).max() < 0.02


@given(LOGITS, st.floats(0.05, 20))
def test_a_positive_temperature_never_changes_one_branch_s_answer(z: list[float], t: float):
    balanced = (6, 6, 6, 6)

    p = member_probabilities(np.array([z]), member(balanced, temperature=t))

    # two logits that differ by less than rounding may tie after the division
    assert z[int(p.argmax())] >= max(z) - 1e-9


def test_the_order_of_the_boxes_does_not_matter():
    rng = np.random.default_rng(0)
    logits = list(rng.normal(size=(3, 5, K)))
    members = [member((3, 0, 7, 5)), member((0, 2, 2, 2)), member((1, 1, 1, 0))]
    weights = rng.random((3, K))

    forth, each = fuse(logits, members, weights)
    back, each_back = fuse(logits[::-1], members[::-1], weights[::-1])

    assert_parity(back, forth, kind="float64")
    assert_parity(each_back[:, ::-1], each, kind="float64")


def test_the_declared_prior_is_normalized():
    z, who = np.zeros((1, 4)), member((1, 1, 1, 1))

    fused, _ = fuse([z], [who], alike(1.0), prior=np.array([2.0, 1.0, 1.0, 4.0]))

    assert_parity(fused, [[0.25, 0.125, 0.125, 0.5]], kind="float64")


def test_a_member_knows_what_it_saw():
    assert member((3, 0, 7, 5)).seen == (0, 2, 3)
    assert member((3, 0, 7, 5)).images == 15


def test_every_member_needs_its_logits_and_its_weight():
    z = np.zeros((1, 4))

    with pytest.raises(ValueError, match="zip"):
        fuse([z], [member(), member()], alike(0.5, 0.5))
    with pytest.raises(ValueError, match="zip"):
        fuse([z, z], [member(), member()], alike(1.0))


@given(st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=5))
def test_softmax_is_a_distribution_whatever_its_scores(scores: list[float]):
    shares = softmax(np.array([scores]))

    assert np.isfinite(shares).all()
    assert shares.sum() == pytest.approx(1)

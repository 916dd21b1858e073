"""The cascade's rule: coarse first, further only when not sure; and how its threshold is chosen."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from edge_stl.fusion import Member, asked_so_far, cascade, fuse, stage_factors
from edge_stl.fusion.threshold import (
    choose_threshold,
    cross_trade,
    stage_answers,
    stops,
    trade,
)
from edge_stl.testing import assert_parity


STAGES = ((1, 3), (0,), (2,))
WEIGHTS = np.array([[0.4] * 3, [0.1, 0.0, 0.2], [0.2, 0.3, 0.3], [0.3, 0.3, 0.1]])
"""Of sum 1 per class; member 1 never saw the second class."""
PRIOR = np.array([0.5, 0.3, 0.2])


def members() -> list[Member]:
    counts = [(5, 5, 5), (4, 0, 6), (9, 1, 2), (3, 3, 3)]
    return [Member(f"b{i}", "box", c, 1.0 + i, 0.5) for i, c in enumerate(counts)]


def logits(count: int = 6, seed: int = 0) -> list[NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    return [3 * rng.normal(size=(count, 3)) for _ in range(4)]


def test_at_1_it_is_the_fusion_of_all_and_at_0_of_the_coarse_members_alone():
    z, m = logits(), members()
    answer, rows = cascade(z, m, WEIGHTS, STAGES, threshold=1, prior=PRIOR, scale=0.7)
    whole = fuse(z, m, WEIGHTS, prior=PRIOR, scale=0.7)
    assert_parity(answer, whole[0], kind="float64")
    assert_parity(rows, whole[1], kind="float64")
    answer, rows = cascade(z, m, WEIGHTS, STAGES, threshold=0, prior=PRIOR, scale=0.7)
    # as if there were no others: weights of sum 1 per class, and a in the ratio of n^(1/4)
    alone = np.array([[1 / 4, 0, 2 / 3], [3 / 4, 1, 1 / 3]])
    n_alone, n_all = (np.mean(1 / np.square(w).sum(axis=0)) for w in (alone, WEIGHTS))
    a = 0.7 * (n_alone / n_all) ** 0.25
    assert 0.5 < a < 0.7
    coarse = fuse([z[1], z[3]], [m[1], m[3]], alone, prior=PRIOR, scale=a)
    assert_parity(answer, coarse[0], kind="float64")
    assert_parity(rows[:, [1, 3]], coarse[1], kind="float64")
    assert np.isnan(rows[:, [0, 2]]).all()


def test_the_least_sure_image_decides_for_the_batch():
    z, m = logits(), members()
    sure = cascade(z, m, WEIGHTS, STAGES, threshold=0)[0].max(axis=1)
    between = (sure.min() + sure.max()) / 2
    rows = cascade(z, m, WEIGHTS, STAGES, threshold=between)[1]
    assert not np.isnan(rows[:, 0]).any()
    best = int(sure.argmax())
    one = cascade([x[best : best + 1] for x in z], m, WEIGHTS, STAGES, threshold=between)[1]
    assert np.isnan(one[:, 0]).all()


def test_a_class_that_only_finer_members_speak_for_keeps_its_factor_of_the_scales():
    w = np.array([[1.0, 0.5, 0.0], [0.0, 0.5, 0.0]])
    first, last = stage_factors(w, ((0,), (1,)))
    # n of the first alone is 1 in both classes; of both it is 1 and 2, 1.5 in the mean
    assert first == pytest.approx(1.5**-0.25 * np.array([1, 2, 1]))
    assert last.tolist() == [1, 1, 1]
    (silent, _) = stage_factors(w[:, [1]], ((1,), (0,)))
    assert silent == pytest.approx(2 * 2**-0.25)


def test_a_member_that_is_silent_takes_no_part_in_the_scaling():
    # member 3 has no weight: of the coarse members only 1 speaks, one file of four alike
    w = np.array([[0.25] * 2, [0.25] * 2, [0.5] * 2, [0.0] * 2])
    first, second, last = stage_factors(w, STAGES)
    n = 1 / (2 * 0.25**2 + 0.5**2)
    assert first == pytest.approx(4 * n**-0.25)
    assert second == pytest.approx(2 * (2 / n) ** 0.25)
    assert last.tolist() == [1, 1]


@pytest.mark.parametrize("stages", [(), ((0, 1),), ((0, 1), (1, 2, 3)), ((0, 1, 2, 3, 4),)])
def test_stages_that_do_not_hold_every_member_once_are_refused(stages: Sequence[Sequence[int]]):
    with pytest.raises(ValueError, match=r"stages .* of 4 members; expected each member once"):
        cascade(logits(), members(), WEIGHTS, stages, threshold=0.5)


def test_the_answers_of_the_stages_are_those_of_the_cascade():
    z, m = logits(20), members()
    p = fuse(z, m, WEIGHTS)[1]
    each = stage_answers(p, m, WEIGHTS, STAGES, prior=PRIOR, scale=0.7)
    for t in (0.0, 0.5, 0.7, 0.9, 1.0):
        stopped = stops(each, t)
        for i, stage in enumerate(stopped):
            one = [x[i : i + 1] for x in z]
            answer, rows = cascade(one, m, WEIGHTS, STAGES, threshold=t, prior=PRIOR, scale=0.7)
            assert_parity(answer[0], each[stage, i], kind="float64")
            said = np.flatnonzero(~np.isnan(rows[0, :, 0]))
            assert list(said) == asked_so_far(STAGES)[stage]


def simplest(each: NDArray[np.float64], labels: NDArray[np.int64], loss: float) -> float:
    """Return the threshold by trying all of them, from 1 down."""
    index, best = np.arange(len(labels)), 1.0
    full = each[-1].argmax(axis=1)
    for t in sorted({0.0, 1.0, *np.ceil(each.max(axis=2) * 1e4).ravel() / 1e4}, reverse=True):
        said = each.argmax(axis=2)[stops(each, t), index]
        lost = (full == labels).mean() - (said == labels).mean()
        believed = (each[-1][index, full] - each[-1][index, said]).mean()
        if max(lost, believed) > loss + 1e-12:
            break
        best = t
    return best


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(2, 30), st.sampled_from([0, 0.1, 1]))
def test_the_threshold_is_the_least_before_it_first_costs_too_much(
    seed: int, stages: int, images: int, loss: float
):
    rng = np.random.default_rng(seed)
    each = rng.dirichlet(np.full(3, 0.5), (stages, images))
    labels = rng.integers(0, 3, images)
    chosen, tried = choose_threshold(each, labels, loss=loss), simplest(each, labels, loss)
    assert 0 <= chosen <= 1
    assert list(stops(each, chosen)) == list(stops(each, tried))


def test_a_lucky_dip_below_a_threshold_that_costs_too_much_is_not_taken():
    """Image 0 is lost at 0.9; images 1 and 2 are won below: in all nothing is lost at 0."""
    coarse = [[0.91, 0.09], [0.2, 0.8], [0.3, 0.7], [0.6, 0.4]]
    full = [[0.49, 0.51], [0.51, 0.49], [0.51, 0.49], [0.6, 0.4]]
    each, labels = np.array([coarse, full]), np.array([1, 1, 1, 0])
    assert trade(each, labels, stops(each, 0)).accuracy == 0.75
    assert trade(each, labels, stops(each, 1)).accuracy == 0.5
    assert choose_threshold(each, labels, loss=0.1) == pytest.approx(0.91)


def test_what_the_ensemble_believes_to_lose_counts_where_the_labels_are_lucky():
    """Every label happens to agree with the coarse answers; the full ensemble is sure of others."""
    each = np.array([[[0.8, 0.2]] * 10, [[0.1, 0.9]] * 10])
    assert choose_threshold(each, np.zeros(10, dtype=np.int64), loss=0.1) == pytest.approx(0.8)
    assert choose_threshold(each, np.zeros(10, dtype=np.int64), loss=0.8) == 0


def test_a_trade_is_measured_with_thresholds_that_the_image_had_no_part_in():
    rng = np.random.default_rng(0)
    each = rng.dirichlet(np.full(3, 0.3), (2, 60))
    labels = rng.integers(0, 3, 60)
    parts = np.arange(60) % 5
    told = cross_trade(each, labels, parts, loss=0.05)
    stopped = np.empty(60, dtype=np.int64)
    for part in range(5):
        own = parts == part
        stopped[own] = stops(each[:, own], simplest(each[:, ~own], labels[~own], 0.05))
    assert told == trade(each, labels, stopped)
    assert told.images == 60
    assert sum(told.stopped) == pytest.approx(1)

"""Factors fitted on a holdout: a minimum, inside the bounds, that a small holdout barely moves."""

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_stl.fusion import CLIP, Member, fuse, score, softmax, uniform_weights
from edge_stl.fusion.fitted import Fit, answers, fit_weights, votes_of
from edge_stl.testing import assert_parity


CLASSES = 4
SHARPNESS = (3.0, 1.0, 0.0)  # a good branch, a weak one, and one that guesses


def fleet(images: int) -> tuple[NDArray[np.float64], NDArray[np.int64], list[Member]]:
    """Return branch probabilities, labels and members of three branches of different skill."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, CLASSES, images)
    truth = np.eye(CLASSES)[labels]
    each = [softmax(s * truth + rng.normal(size=truth.shape)) for s in SHARPNESS]
    members = [Member(f"b{i}", f"box-{i}", (50,) * CLASSES, 1.0, 0.5) for i in range(3)]
    return np.stack(each, axis=1), labels, members


def fitted(images: int, *, pull: float = 1.0) -> Fit:
    p, labels, members = fleet(images)
    return fit_weights(p, labels, members, start=uniform_weights(members), pull=pull)


def penalized(
    p: NDArray[np.float64],
    labels: NDArray[np.int64],
    *,
    start: NDArray[np.float64],
    factors: NDArray[np.float64],
    bias: NDArray[np.float64],
    pull: float,
) -> float:
    """Return the objective, written once more from its definition."""
    q = np.clip(p, CLIP, 1 - CLIP)
    scores = bias + (np.log(q / (1 - q)) * start * factors[:, None]).sum(axis=1)
    loss = -np.log(softmax(scores)[np.arange(len(labels)), labels]).mean()
    away = ((factors - 1) ** 2).mean() + (bias**2).sum()
    return float(loss + pull / len(labels) * away)


def test_no_step_to_any_side_lowers_the_objective() -> None:
    """From weights that differ by class, as those of uneven boxes do."""
    p, labels, members = fleet(300)
    start = np.random.default_rng(2).random((3, CLASSES))
    fit = fit_weights(p, labels, members, start=start, pull=1.0)

    def value(f: NDArray[np.float64], b: NDArray[np.float64]) -> float:
        return penalized(p, labels, start=start, factors=f, bias=b, pull=1.0)

    best = value(fit.weights, fit.bias)
    rng = np.random.default_rng(0)
    for size in (0.3, 0.03):
        for _ in range(50):
            w = np.maximum(0, fit.weights + size * rng.normal(size=3))
            b = fit.bias + size * rng.normal(size=CLASSES)
            assert value(w, b) > best
    unpulled = penalized(p, labels, start=start, factors=fit.weights, bias=fit.bias, pull=0)
    assert fit.loss_after == pytest.approx(unpulled, abs=1e-12)


def test_a_skilled_branch_gets_most_and_one_that_guesses_next_to_nothing() -> None:
    weights = fitted(3000).weights
    assert weights[0] > weights[1] > 10 * weights[2] >= 0
    assert weights[0] > 2 * weights[1]


def test_the_fit_lowers_the_loss_and_says_both() -> None:
    fit = fitted(1000)
    assert 0 < fit.loss_after < fit.loss_before - 0.05


def test_a_strong_pull_and_a_small_holdout_stay_at_the_start() -> None:
    assert np.abs(fitted(300, pull=1e7).weights - 1).max() < 1e-3
    far = np.abs(fitted(3000).weights - 1).max()
    assert np.abs(fitted(10).weights - 1).max() < far


def test_the_start_is_one_times_the_start_weights() -> None:
    p, labels, members = fleet(300)
    start = np.random.default_rng(2).random((3, CLASSES))
    at_start = answers(votes_of(p, members, start), np.ones(3), np.zeros(CLASSES))
    fit = fit_weights(p, labels, members, start=start, pull=1e9)
    assert_parity(fit.weights, np.ones(3), kind="float32")
    assert fit.loss_before == pytest.approx(score(at_start, labels).log_loss, abs=1e-12)


def test_start_weights_that_are_all_twice_as_large_need_half_the_factors() -> None:
    """Without a pull only the product counts, so the start may carry the scale."""
    p, labels, members = fleet(500)
    start = uniform_weights(members)
    once, twice = (fit_weights(p, labels, members, start=a * start, pull=0.0) for a in (1, 2))
    assert np.abs(twice.weights * 2 - once.weights).max() < 1e-5
    assert twice.loss_after == pytest.approx(once.loss_after, abs=1e-9)


def test_the_pull_on_a_factor_does_not_grow_with_the_number_of_files() -> None:
    """Every file twice, each at half the weight, is the same fleet and so the same fit."""
    p, labels, members = fleet(50)
    start = uniform_weights(members)
    once = fit_weights(p, labels, members, start=start)
    doubled = fit_weights(
        np.concatenate([p, p], axis=1), labels, members * 2, start=np.concatenate([start] * 2) / 2
    )
    assert np.abs(doubled.weights - np.tile(once.weights, 2)).max() < 1e-5
    assert np.abs(doubled.bias - once.bias).max() < 1e-5


def test_a_file_without_weight_keeps_its_factor() -> None:
    p, labels, members = fleet(300)
    start = uniform_weights(members)
    start[1] = 0
    assert fit_weights(p, labels, members, start=start).weights[1] == 1.0
    assert fit_weights(p, labels, members, start=0 * start).weights.tolist() == [1.0] * 3


def test_answers_are_those_of_fuse() -> None:
    """The fit and the graph add the same evidence."""
    rng = np.random.default_rng(4)
    counts = ((3, 0, 7, 5), (2, 2, 2, 2), (0, 0, 9, 0))
    members = [Member("a", f"box{i}", own, 1.5, 0.5) for i, own in enumerate(counts)]
    weights, bias = rng.random((3, CLASSES)), rng.normal(size=CLASSES)
    prior, factors = np.array([2.0, 1.0, 1.0, 4.0]), np.array([0.5, 2.0, 1.0])
    logits = list(rng.normal(size=(3, 20, CLASSES)))
    wanted, each = fuse(logits, members, factors[:, None] * weights, prior=prior, bias=bias)
    votes = votes_of(each, members, weights)
    assert_parity(answers(votes, factors, bias, prior=prior), wanted, kind="float64")
    single = votes_of(each.astype(np.float32), members, weights)
    assert_parity(single, votes, kind="float32")


def test_two_classes_and_a_single_file_are_fitted() -> None:
    labels = np.array([0] * 70 + [1] * 30)
    first = np.where(labels == 0, 0.6, 0.4)
    p = np.stack([first, 1 - first], axis=1)[:, None]
    member = Member("a", "box", (5, 5), 1.0, 0.5)
    fit = fit_weights(p, labels, [member], start=np.ones((1, 2)), pull=0.01)
    # the file is always right, so only the pull keeps its factor finite
    assert fit.weights[0] > 2
    assert fit.loss_after < 0.05 < fit.loss_before


def test_a_branch_that_is_always_wrong_is_silenced_and_never_negative() -> None:
    p, labels, members = fleet(500)
    p[:, 0] = np.roll(p[:, 0], 1, axis=1)
    fit = fit_weights(p, labels, members, start=uniform_weights(members))
    assert fit.weights[0] == 0.0
    assert (fit.weights >= 0).all()


def test_the_classes_of_a_skewed_holdout_show_in_the_bias() -> None:
    p, labels, members = fleet(2000)
    kept = (labels != 0) | (np.arange(len(labels)) % 10 == 0)
    fit = fit_weights(p[kept], labels[kept], members, start=uniform_weights(members), pull=0.0)
    assert fit.bias[0] < fit.bias[1:].min() - 1


def test_a_class_that_a_box_never_saw_carries_no_evidence() -> None:
    p, labels, members = fleet(500)
    members[2] = Member("b2", "box-2", (50, 50, 0, 0), 1.0, 0.5)
    before = fit_weights(p, labels, members, start=uniform_weights(members))
    p[:, 2, 2:] = 0.7
    after = fit_weights(p, labels, members, start=uniform_weights(members))
    np.testing.assert_array_equal(before.weights, after.weights)


def test_shapes_that_do_not_fit_are_refused() -> None:
    p, labels, members = fleet(20)
    with pytest.raises(ValueError, match=r"branch probabilities \(20, 3, 4\), 19 labels"):
        fit_weights(p, labels[:-1], members, start=uniform_weights(members))
    with pytest.raises(ValueError, match=r"2 members, start weights \(3, 4\); expected"):
        fit_weights(p, labels, members[:2], start=np.ones((3, CLASSES)))
    with pytest.raises(ValueError, match=r"3 members, start weights \(3,\); expected"):
        fit_weights(p, labels, members, start=np.ones(3))
    with pytest.raises(ValueError, match=r"branch probabilities \(0, 3, 4\), 0 labels"):
        fit_weights(p[:0], labels[:0], members, start=np.ones((3, CLASSES)))
    with pytest.raises(ValueError, match=r"branch probabilities \(20, 4\), 20 labels"):
        fit_weights(p[:, 0], labels, members[:1], start=np.ones((1, CLASSES)))

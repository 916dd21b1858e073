"""Weights fitted on a holdout: a minimum, inside the bounds, that a small holdout barely moves."""

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_stl.fusion import CLIP, Member, softmax, uniform_weights
from edge_stl.fusion.fitted import Fit, fit_weights


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
    weights: NDArray[np.float64],
    bias: NDArray[np.float64],
    *,
    pull: float,
) -> float:
    """Return the objective, written once more from its definition."""
    q = np.clip(p, CLIP, 1 - CLIP)
    score = bias + (np.log(q / (1 - q)) * weights[:, None]).sum(axis=1)
    loss = -np.log(softmax(score)[np.arange(len(labels)), labels]).mean()
    members = len(weights)
    away = members * ((weights - 1 / members) ** 2).sum() + (bias**2).sum()
    return float(loss + pull / len(labels) * away)


def test_no_step_to_any_side_lowers_the_objective() -> None:
    p, labels, _ = fleet(300)
    fit = fitted(300)
    best = penalized(p, labels, fit.weights, fit.bias, pull=1.0)
    rng = np.random.default_rng(0)
    for size in (0.3, 0.03):
        for _ in range(50):
            w = np.maximum(0, fit.weights + size * rng.normal(size=3))
            b = fit.bias + size * rng.normal(size=CLASSES)
            assert penalized(p, labels, w, b, pull=1.0) > best


def test_a_skilled_branch_gets_most_and_one_that_guesses_next_to_nothing() -> None:
    weights = fitted(3000).weights
    assert weights[0] > weights[1] > 10 * weights[2] >= 0
    assert weights[0] > 2 * weights[1]


def test_the_fit_lowers_the_loss_and_says_both() -> None:
    fit = fitted(1000)
    assert 0 < fit.loss_after < fit.loss_before - 0.05


def test_a_strong_pull_and_a_small_holdout_stay_at_the_start() -> None:
    assert np.abs(fitted(300, pull=1e7).weights - 1 / 3).max() < 1e-3
    far = np.abs(fitted(3000).weights - 1 / 3).max()
    assert np.abs(fitted(10).weights - 1 / 3).max() < far


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
    with pytest.raises(ValueError, match="2 members, 3 start weights; expected"):
        fit_weights(p, labels, members[:2], start=np.ones(3))
    with pytest.raises(ValueError, match=r"branch probabilities \(0, 3, 4\), 0 labels"):
        fit_weights(p[:0], labels[:0], members, start=np.ones(3))

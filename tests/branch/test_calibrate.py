"""The temperature is the best there is, and a box cannot look better by leaving classes out."""

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from edge_stl.branch import fit_temperature
from edge_stl.branch._calibrate import class_mean_log_loss
from edge_stl.fusion import Member, member_probabilities


def loss_at(t: float, logits: np.ndarray, labels: np.ndarray, counts: tuple[int, ...]) -> float:
    who = Member("", "", counts, t, 0.0)
    return class_mean_log_loss(member_probabilities(logits, who), labels, who.seen)


@settings(max_examples=50)
@given(st.integers(0, 10**6), st.floats(0.1, 6), st.floats(0.01, 0.1))
def test_no_temperature_of_a_fine_grid_is_better(seed: int, noise: float, sharpness: float):
    rng = np.random.default_rng(seed)
    counts = (30, 10, 0, 20)
    labels = rng.choice([0, 1, 3], 40)
    # small enough that no probability is cut off at 1e-12 even at the lowest temperature
    logits = np.clip(
        sharpness * (np.eye(4)[labels] * 2 + noise * rng.normal(size=(40, 4))), -0.5, 0.5
    )

    fitted = fit_temperature(logits, labels, counts)

    best = min(loss_at(t, logits, labels, counts) for t in np.geomspace(0.05, 20, 200))
    assert loss_at(fitted, logits, labels, counts) <= best + 1e-6


def test_overconfident_logits_are_cooled_by_the_factor_they_are_too_large():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(4000, 3))
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    labels = (p.cumsum(axis=1) < rng.random((4000, 1))).sum(axis=1)

    once = fit_temperature(z, labels, (9, 9, 9))

    assert once == pytest.approx(1, abs=0.1)
    assert fit_temperature(5 * z, labels, (9, 9, 9)) == pytest.approx(5 * once, rel=1e-3)


def test_the_temperature_stays_in_its_range():
    labels = np.array([0, 1] * 10)
    right, wrong = np.eye(2)[labels], np.eye(2)[1 - labels]

    assert fit_temperature(right, labels, (9, 9)) == pytest.approx(0.05, rel=1e-3)
    assert fit_temperature(wrong, labels, (9, 9)) == pytest.approx(20, rel=1e-3)


@pytest.mark.parametrize("counts", [(3, 4), (3, 0)])
def test_without_images_or_with_a_single_class_it_is_one(counts: tuple[int, int]):
    assert fit_temperature(np.zeros((0, 2)), np.zeros(0, np.int64), counts) == 1
    if not counts[1]:
        assert fit_temperature(np.array([[9.0, 0.0]]), np.array([0]), counts) == 1


def test_the_loss_is_the_mean_over_classes_of_their_means():
    p = np.array([[0.5, 0.5], [0.25, 0.75], [0.8, 0.2]])

    loss = class_mean_log_loss(p, np.array([0, 0, 1]), (0, 1))

    assert loss == pytest.approx(((math.log(2) + math.log(4)) / 2 + math.log(5)) / 2)


def test_a_class_without_an_image_counts_as_chance():
    p = np.array([[1.0, 0.0, 0.0]])

    assert class_mean_log_loss(p, np.array([0]), (0, 1, 2)) == pytest.approx(2 * math.log(3) / 3)


def test_an_impossible_class_costs_the_log_of_a_trillion():
    p = np.array([[1.0, 0.0]])

    assert class_mean_log_loss(p, np.array([1]), (1,)) == pytest.approx(12 * math.log(10))

"""Accuracy, macro accuracy, log-loss and calibration error, on images few enough to count."""

import math

import numpy as np
import pytest

from edge_stl.fusion import Scores, score


def test_four_images_scored_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.3, 0.7]])

    scores = score(probabilities, np.array([0, 0, 1, 1]))

    assert scores.images == 4
    assert scores.accuracy == 0.75
    assert scores.macro_accuracy == 0.75
    losses = (math.log(0.9), math.log(0.8), math.log(0.4), math.log(0.7))
    assert scores.log_loss == pytest.approx(-sum(losses) / 4)
    # each top probability has a bin of 1/15 for itself: 0.9, 0.8, 0.6 (wrong), 0.7
    assert scores.ece == pytest.approx((0.1 + 0.2 + 0.6 + 0.3) / 4)


def test_a_bin_is_judged_by_its_mean():
    probabilities = np.array([[0.95, 0.05], [0.95, 0.05], [0.97, 0.03], [0.97, 0.03]])

    scores = score(probabilities, np.array([0, 0, 0, 1]))

    assert scores.ece == pytest.approx(0.96 - 0.75)


def test_bins_are_fifteen_equal_widths_of_the_top_probability():
    # 0.59 is in bin 8 (8/15 = 0.533), 0.61 in bin 9 (9/15 = 0.6): the two gaps do not cancel
    apart = score(np.array([[0.59, 0.41], [0.61, 0.39]]), np.array([0, 1]))
    together = score(np.array([[0.61, 0.39], [0.65, 0.35]]), np.array([0, 1]))

    assert apart.ece == pytest.approx((0.41 + 0.61) / 2)
    assert together.ece == pytest.approx(0.63 - 0.5)


def test_certainty_belongs_to_the_last_bin():
    assert score(np.array([[1.0, 0.0], [0.96, 0.04]]), np.array([0, 1])).ece == pytest.approx(0.48)


def test_macro_accuracy_is_the_mean_over_the_classes_present():
    probabilities = np.eye(3)[[0, 0, 0, 0, 0]]

    scores = score(probabilities, np.array([0, 0, 0, 0, 1]))

    assert scores.accuracy == 0.8
    assert scores.macro_accuracy == 0.5


def test_an_impossible_label_costs_the_log_of_a_trillion():
    scores = score(np.array([[1.0, 0.0]]), np.array([1]))

    assert scores.log_loss == pytest.approx(12 * math.log(10))


def test_perfect_certainty_scores_perfectly():
    assert score(np.eye(3), np.arange(3)) == Scores(3, 1.0, 1.0, 0.0, 0.0)


def test_scores_are_plain_values():
    assert Scores(3, 1.0, 0.5, 0.25, 0.125).to_dict() == {
        "images": 3,
        "accuracy": 1.0,
        "macro_accuracy": 0.5,
        "log_loss": 0.25,
        "ece": 0.125,
    }
    assert all(type(v) in {int, float} for v in score(np.eye(2), np.arange(2)).to_dict().values())


@pytest.mark.parametrize(("rows", "labels"), [(0, 0), (2, 1), (1, 2)])
def test_no_image_or_uneven_lengths_are_refused(rows: int, labels: int):
    with pytest.raises(ValueError, match=f"{rows} rows of probabilities and {labels} labels"):
        score(np.full((rows, 2), 0.5), np.zeros(labels, np.int64))

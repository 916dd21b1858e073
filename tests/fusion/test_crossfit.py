"""What a fit is worth is measured on images it did not see; boxes that harm are named."""

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_stl.fusion import Member, score, softmax, uniform_weights
from edge_stl.fusion.crossfit import FOLDS, SURE, Verdict, cross_fit, folds_of, in_order
from edge_stl.fusion.fitted import answers, fit_weights, votes_of


CLASSES = 4
GOOD, WEAK, GUESS = 2.0, 1.0, 0.0
LIAR = -2.0  # speaks against the truth


def fleet(
    *sharpness: float, images: int = 300, seed: int = 3
) -> tuple[NDArray[np.float64], NDArray[np.int64], list[Member]]:
    """Return branch probabilities, labels and members, one box each, of these skills."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, images)
    truth = np.eye(CLASSES)[labels]
    each = [softmax(s * truth + rng.normal(size=truth.shape)) for s in sharpness]
    members = [Member("a", f"box{i}", (50,) * CLASSES, 1.0, 0.5) for i in range(len(sharpness))]
    return np.stack(each, axis=1), labels, members


def verdict_of(*sharpness: float, images: int = 300, seed: int = 3) -> Verdict:
    p, labels, members = fleet(*sharpness, images=images, seed=seed)
    return cross_fit(p, labels, members, start=uniform_weights(members))


def test_every_image_is_measured_by_a_fit_that_did_not_see_it() -> None:
    """The parts fitted and measured once more, from the definition."""
    p, labels, members = fleet(GOOD, WEAK, GUESS)
    start = np.random.default_rng(2).random((3, CLASSES))
    parts, votes = folds_of(p, labels), votes_of(p, members, start)
    expected = np.empty((len(labels), CLASSES))
    for part in range(FOLDS):
        held = parts == part
        fit = fit_weights(p[~held], labels[~held], members, start=start)
        expected[held] = answers(votes[:, held], fit.weights, fit.bias)
    verdict = cross_fit(p, labels, members, start=start)
    scores = score(expected, labels)
    assert verdict.log_loss_after == pytest.approx(scores.log_loss, abs=1e-9)
    assert verdict.accuracy_after == scores.accuracy
    before = score(answers(votes, np.ones(3), np.zeros(CLASSES)), labels)
    assert verdict.log_loss_before == pytest.approx(before.log_loss, abs=1e-12)
    assert verdict.accuracy_before == before.accuracy
    assert verdict.images == 300


def test_labels_that_mean_nothing_cannot_be_answered_better_by_a_fit() -> None:
    """A report on images that were seen would praise the fit here; the unseen ones do not."""
    p, labels, members = fleet(*[GUESS] * 40, images=60)
    start = uniform_weights(members)
    verdict = cross_fit(p, labels, members, start=start, pull=0.01)
    seen = fit_weights(p, labels, members, start=start, pull=0.01)
    assert seen.loss_after < seen.loss_before - 0.05
    assert verdict.log_loss_before == pytest.approx(seen.loss_before)
    assert verdict.log_loss_after > verdict.log_loss_before


def test_unseen_images_are_answered_worse_than_those_the_fit_saw_and_better_than_before() -> None:
    p, labels, members = fleet(GOOD, WEAK, GUESS, LIAR)
    start = uniform_weights(members)
    verdict = cross_fit(p, labels, members, start=start)
    seen = fit_weights(p, labels, members, start=start)
    assert seen.loss_after + 1e-4 < verdict.log_loss_after < verdict.log_loss_before - 0.1
    assert verdict.accuracy_after > verdict.accuracy_before


def test_a_box_that_speaks_against_the_truth_is_named_and_the_others_are_not() -> None:
    verdict = verdict_of(GOOD, LIAR, WEAK, GOOD)
    (harm,) = verdict.harmful
    assert harm.box == "box1"
    assert harm.change < -SURE * harm.error < 0


def test_the_worst_box_comes_first_and_all_branches_of_a_box_go_together() -> None:
    p, labels, members = fleet(GOOD, LIAR, WEAK, 3 * LIAR, GOOD, GOOD)
    members[2] = Member("b", "box1", (50,) * CLASSES, 1.0, 0.5)
    verdict = cross_fit(p, labels, members, start=uniform_weights(members))
    assert [harm.box for harm in verdict.harmful] == ["box3", "box1"]


def test_a_box_is_judged_by_all_its_branches() -> None:
    """Its first branch is good; its second undoes more than that."""
    p, labels, members = fleet(GOOD, WEAK, 2 * LIAR, GOOD)
    members[2] = Member("b", "box1", (50,) * CLASSES, 1.0, 0.5)
    start = uniform_weights(members)
    (harm,) = cross_fit(p, labels, members, start=start).harmful
    assert harm.box == "box1"
    members[2] = Member("b", "box2", (50,) * CLASSES, 1.0, 0.5)
    (harm,) = cross_fit(p, labels, members, start=start).harmful
    assert harm.box == "box2"


def test_good_boxes_are_rarely_accused() -> None:
    """Ten fleets of six equal boxes: with one standard error instead of two some would be named."""
    accused = sum(len(verdict_of(*[WEAK] * 6, images=200, seed=s).harmful) for s in range(10))
    assert accused == 0


def test_a_box_without_weight_or_without_others_does_no_harm() -> None:
    p, labels, members = fleet(GOOD, LIAR)
    assert not cross_fit(
        p, labels, members, start=np.array([[1.0] * CLASSES, [0.0] * CLASSES])
    ).harmful
    p, labels, members = fleet(LIAR)
    assert not cross_fit(p, labels, members, start=np.ones((1, CLASSES))).harmful


def test_a_box_that_lies_about_one_class_only_is_named() -> None:
    p, labels, members = fleet(GOOD, LIAR, GOOD, images=400)
    start = uniform_weights(members)
    start[1, 1:] = 0
    start /= start.sum(axis=0)
    (harm,) = cross_fit(p, labels, members, start=start).harmful
    assert harm.box == "box1"
    silenced = np.where(np.arange(3)[:, None] == 1, 0.0, start)
    assert not cross_fit(p, labels, members, start=silenced).harmful


def test_two_images_of_two_classes_are_measured() -> None:
    p, _, members = fleet(GOOD, WEAK, images=2)
    verdict = cross_fit(p, np.array([0, 1]), members, start=uniform_weights(members))
    assert verdict.images == 2
    assert np.isfinite([verdict.log_loss_before, verdict.log_loss_after]).all()


def test_parts_are_alike_in_size_and_in_every_class() -> None:
    p, labels, _ = fleet(GOOD, WEAK, images=203)
    parts = folds_of(p, labels)
    sizes = np.bincount(parts, minlength=FOLDS)
    assert sizes.max() - sizes.min() <= 1
    for c in range(CLASSES):
        own = np.bincount(parts[labels == c], minlength=FOLDS)
        assert own.max() - own.min() <= 1


def test_copies_of_an_image_come_into_one_part() -> None:
    p, labels, _ = fleet(GOOD, images=40)
    parts = folds_of(np.concatenate([p, p, p]), np.concatenate([labels] * 3))
    np.testing.assert_array_equal(parts[:40], parts[40:80])
    np.testing.assert_array_equal(parts[:40], parts[80:])


def test_the_order_of_the_images_changes_nothing() -> None:
    p, labels, members = fleet(GOOD, WEAK, LIAR, images=100)
    mixed = np.random.default_rng(1).permutation(100)
    np.testing.assert_array_equal(folds_of(p, labels)[mixed], folds_of(p[mixed], labels[mixed]))
    once, again = in_order(p, labels), mixed[in_order(p[mixed], labels[mixed])]
    np.testing.assert_array_equal(once, again)
    start = uniform_weights(members)
    results = [cross_fit(p[o], labels[o], members, start=start) for o in (once, again)]
    assert results[0] == results[1]


def test_labels_of_one_class_are_refused() -> None:
    p, labels, members = fleet(GOOD, WEAK)
    with pytest.raises(ValueError, match="labels of one class; expected two classes at least"):
        cross_fit(p, np.zeros_like(labels), members, start=uniform_weights(members))


def test_a_class_without_an_image_is_not_ruled_out_by_the_biases_of_the_others() -> None:
    p, labels, members = fleet(GOOD, WEAK, images=2000)
    kept = labels != 2
    start = uniform_weights(members)
    fit = fit_weights(p[kept], labels[kept], members, start=start, pull=0.0)
    assert fit.bias[2] == 0
    assert fit.bias[[0, 1, 3]].sum() == pytest.approx(0, abs=1e-12)
    assert np.abs(fit.bias).max() < 0.2
    # the answer to images of that class itself stays in reach
    shares = answers(votes_of(p[~kept], members, start), fit.weights, fit.bias)
    assert (shares.argmax(axis=1) == 2).mean() > 0.5


def test_a_class_with_one_image_is_measured_by_a_fit_that_knows_none() -> None:
    p, labels, members = fleet(GOOD, WEAK, images=100)
    labels = np.where(labels == 3, 0, labels)
    labels[7] = 3
    verdict = cross_fit(p, labels, members, start=uniform_weights(members))
    assert np.isfinite(verdict.log_loss_after)

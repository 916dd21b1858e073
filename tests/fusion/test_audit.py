"""A holdout finds boxes that harm, spares those with rare classes, and counts what is certain."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_stl.fusion import (
    Member,
    fuse,
    fuse_median,
    median_answers,
    reliability_weights,
    uniform_weights,
)
from edge_stl.fusion.audit import (
    Trial,
    certified,
    certified_median,
    little,
    try_boxes,
    worst,
)
from edge_stl.fusion.fitted import answers, votes_of


K = 10
UNIFORM = np.full(K, 1 / K)
Floats = NDArray[np.float64]
Fleet = tuple[Floats, NDArray[np.int64], list[Member]]


def fleet(
    boxes: int, *, images: int = 300, seed: int = 0, margin: float = 2.5, classes: int = K
) -> Fleet:
    """Return branch probabilities of honest boxes, labels, members: right in about 75 of 100."""
    rng = np.random.default_rng([seed, boxes])
    labels = rng.integers(0, classes, images)
    logits = rng.normal(size=(images, boxes, classes))
    logits[np.arange(images), :, labels] += margin
    p = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    members = [Member("d1", f"cam{i}", (40,) * classes, 1.0, 0.8, 60) for i in range(boxes)]
    return p, labels, members


def answer_of(
    p: Floats, members: Sequence[Member], rule: Callable[..., Floats] = uniform_weights
) -> Callable[[Sequence[int]], Floats]:
    def answer(kept: Sequence[int]) -> Floats:
        own = [members[i] for i in kept]
        votes = votes_of(p[:, list(kept)], own, rule(own))
        return answers(votes, np.ones(len(own)), np.zeros(p.shape[2]))

    return answer


def tried(p: Floats, labels: NDArray[np.int64], members: Sequence[Member]) -> dict[str, Trial]:
    return {t.box: t for t in try_boxes(answer_of(p, members), p, labels, members)}


def rare(p: Floats, members: list[Member], index: int, classes: Sequence[int]) -> Floats:
    """Return what a box says that saw some of the classes only; its member is changed in place."""
    counts = tuple(4 if c in classes else 0 for c in range(p.shape[2]))
    members[index] = Member("d1", members[index].box, counts, 1.0, 0.6, 2)
    out = p.copy()
    out[:, index] = 0
    out[:, index, list(classes)] = p[:, index, list(classes)]
    out[:, index] /= out[:, index].sum(axis=1, keepdims=True)
    return out


# -- who is found ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_a_loud_box_is_suspected_where_the_others_are_right_more_often_without_it(seed: int):
    p, labels, members = fleet(5, seed=seed)
    told = {
        t.box: t
        for t in try_boxes(answer_of(p, members), p, labels, members, loud={m.box for m in members})
    }

    for box, plain in tried(p, labels, members).items():
        assert not plain.suspect  # honest boxes that nobody calls loud
        assert told[box].loud == told[box].suspect == (plain.mended > plain.spoiled)
    assert any(not t.suspect for t in told.values())


def test_a_box_that_is_right_and_too_loud_is_found_only_if_it_is_said_to_be_loud():
    p, labels, members = fleet(5, images=60, seed=3)
    sure = np.zeros_like(p[:, 0])
    sure[np.arange(60), p[:, 0].argmax(axis=1)] = 1  # saturated: as sure of its errors
    p[:, 0] = sure
    plain = tried(p, labels, members)["cam0"]
    (told,) = (
        t
        for t in try_boxes(answer_of(p, members), p, labels, members, loud={"cam0"})
        if t.box == "cam0"
    )

    assert plain.mended > plain.spoiled
    assert not plain.suspect
    assert told.loud
    assert worst([told]) is told


@pytest.mark.parametrize("boxes", [3, 5, 9])
@pytest.mark.parametrize("seed", range(5))
def test_a_box_with_flipped_labels_is_found_and_nobody_else(boxes: int, seed: int):
    p, labels, members = fleet(boxes, seed=seed)
    p[:, 1] = p[:, 1, ::-1]
    found = tried(p, labels, members)
    assert [box for box, trial in found.items() if trial.suspect] == ["cam1"]
    assert found["cam1"].guesses
    assert worst(list(found.values())) == found["cam1"]


@pytest.mark.parametrize("seed", range(20))
def test_an_honest_fleet_has_no_suspect(seed: int):
    p, labels, members = fleet(5, seed=seed)
    assert not any(trial.suspect for trial in tried(p, labels, members).values())


@pytest.mark.parametrize("seed", range(20))
def test_an_honest_box_with_two_rare_classes_is_no_suspect(seed: int):
    p, labels, members = fleet(5, seed=seed, margin=1.5)
    p = rare(p, members, 2, (3, 7))
    trial = tried(p, labels, members)["cam2"]
    assert not trial.suspect
    assert trial.images == np.isin(labels, (3, 7)).sum()


def test_a_box_that_is_loud_and_wrong_on_its_classes_harms():
    p, labels, members = fleet(3, seed=4, margin=1.2)
    p[:, 0] = 0.01 / (K - 1)
    p[np.arange(len(labels)), 0, (labels + 1) % K] = 0.99
    trial = tried(p, labels, members)["cam0"]
    assert trial.harms
    assert trial.mended > 5 * trial.spoiled
    assert trial.change_elsewhere > 0


def test_the_tests_are_exact():
    p, labels, members = fleet(3, seed=4, margin=1.2)
    p[:, 0] = p[:, 0, ::-1]
    trial = tried(p, labels, members)["cam0"]
    both = trial.mended + trial.spoiled
    ways = sum(
        sum(flips) >= trial.mended for flips in itertools.product((0, 1), repeat=min(both, 16))
    )
    if both <= 16:
        assert trial.p_harm == pytest.approx(ways / 2**both)
    import scipy.stats

    test = scipy.stats.binomtest(trial.mended, both, 0.5, alternative="greater")
    assert trial.p_harm == pytest.approx(test.pvalue, rel=1e-9)
    hits = round((trial.accuracy or 0) * trial.images)
    test = scipy.stats.binomtest(hits, trial.images, 0.19, alternative="less")
    assert trial.p_guess == pytest.approx(test.pvalue, rel=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_a_box_that_knows_nothing_is_found(seed: int):
    p, labels, members = fleet(9, seed=seed)
    p[:, 4] = p[np.random.default_rng(seed).permutation(len(labels)), 4]
    found = tried(p, labels, members)
    assert [box for box, trial in found.items() if trial.guesses] == ["cam4"]


def test_a_little_is_between_a_guess_and_something():
    assert little(2) == pytest.approx(0.55)
    assert little(10) == pytest.approx(0.19)
    assert little(1000) == pytest.approx(0.002)
    assert all(1 / n < little(n) < 1 for n in range(2, 2000))


def test_two_boxes_that_contradict_each_other_are_not_judged():
    p, labels, members = fleet(2)
    p[:, 1] = p[:, 1, ::-1]
    assert try_boxes(answer_of(p, members), p, labels, members) == ()


def test_a_box_whose_classes_the_holdout_lacks_is_not_judged():
    p, labels, members = fleet(4)
    p = rare(p, members, 0, (8, 9))
    some = labels < 8
    trial = tried(p[some], labels[some], members)["cam0"]
    assert (trial.images, trial.accuracy, trial.suspect) == (0, None, False)


def test_all_files_of_a_box_are_tried_together():
    p, labels, members = fleet(4)
    members[3] = Member("a1", "cam0", members[3].counts, 1.0, 0.8, 60)
    found = tried(p, labels, members)
    assert sorted(found) == ["cam0", "cam1", "cam2"]


# -- what is certain ------------------------------------------------------------------------------


def attacked(p: Floats, rng: np.random.Generator, box: int) -> Floats:
    """Return the same with one box saying whatever it likes, mostly with all its weight."""
    out = p.copy()
    shape = out[:, box].shape
    wild = rng.random(shape) ** rng.integers(1, 30)
    wild[np.arange(shape[0]), rng.integers(0, shape[1], shape[0])] += rng.choice([0, 1, 1e6])
    out[:, box] = wild / wild.sum(axis=1, keepdims=True)
    return out


@pytest.mark.parametrize("rule", [uniform_weights, reliability_weights])
def test_nothing_one_box_says_makes_a_certified_answer_wrong(rule: Callable[..., Floats]):
    p, labels, members = fleet(5, margin=4)
    p = rare(p, members, 2, (0, 1, 2, 3))
    weights = rule(members)
    safe = certified(p, labels, members, weights, prior=UNIFORM, scale=1.7)
    assert 0.2 < safe.mean() < 0.95, "a bound that certifies all or nothing says nothing"
    rng = np.random.default_rng(0)
    broken = 0
    for _ in range(40):
        for box in range(5):
            wild = attacked(p, rng, box)
            seen = np.array(members[box].counts) > 0
            wild[:, box] = np.where(seen, wild[:, box], 0)
            votes = votes_of(wild, members, 1.7 * weights)
            said = answers(votes, np.ones(5), np.zeros(K)).argmax(axis=1)
            assert (said == labels)[safe].all()
            broken += int((said != labels)[~safe].sum())
    assert broken > 0, "no attack did anything: the check could not fail"


def test_a_lone_box_certifies_nothing():
    p, labels, members = fleet(1)
    weights = uniform_weights(members)
    assert not certified(p, labels, members, weights, prior=UNIFORM).any()
    assert not certified_median(p, labels, members, prior=UNIFORM).any()


def test_the_certified_answers_of_the_fused_ensemble_are_right_as_they_stand():
    p, labels, members = fleet(4)
    weights = uniform_weights(members)
    logits = [np.log(p[:, i]) for i in range(4)]
    fused, _ = fuse(logits, members, weights)
    safe = certified(p, labels, members, weights, prior=UNIFORM)
    assert (fused.argmax(axis=1) == labels)[safe].all()
    median, _ = fuse_median(logits, members)
    safe = certified_median(p, labels, members, prior=UNIFORM)
    assert (median.argmax(axis=1) == labels)[safe].all()


@pytest.mark.parametrize("boxes", [3, 4, 5])
def test_nothing_one_box_says_makes_a_certified_median_wrong(boxes: int):
    p, labels, members = fleet(boxes, margin=3.0)
    safe = certified_median(p, labels, members, prior=UNIFORM)
    assert 0.1 < safe.mean() < 1
    rng = np.random.default_rng(1)
    broken = 0
    for _ in range(40):
        for box in range(boxes):
            said = median_answers(attacked(p, rng, box), members).argmax(axis=1)
            assert (said == labels)[safe].all()
            broken += int((said != labels)[~safe].sum())
    assert broken > 0


def test_more_boxes_certify_more():
    shares = []
    for boxes in (3, 5, 9):
        p, labels, members = fleet(boxes)
        safe = certified(p, labels, members, uniform_weights(members), prior=UNIFORM)
        shares.append(safe.mean())
    assert shares == sorted(shares)
    assert shares[0] < shares[-1]


@pytest.mark.parametrize(("mended", "harms"), [(6, False), (7, True)])
def test_the_level_is_shared_by_all_boxes_and_only_claimed_classes_count(mended: int, harms: bool):
    """6 of 6 has p = 1/64, above 0.05/4; 7 of 7 has p = 1/128, below it."""
    p, labels, members = fleet(4)
    p = rare(p, members, 0, (0, 1))
    claimed, other = np.flatnonzero(labels < 2), np.flatnonzero(labels > 1)

    def answer(kept: Sequence[int]) -> Floats:
        right = np.ones(len(labels), dtype=bool)
        right[claimed[:mended]] = 0 not in kept
        right[other[:50]] = 0 in kept  # spoiled, on classes that the box does not claim
        return np.eye(K)[np.where(right, labels, (labels + 1) % K)]

    trial = try_boxes(answer, p, labels, members)[0]
    assert (trial.box, trial.mended, trial.spoiled, trial.harms) == ("cam0", mended, 0, harms)
    assert trial.p_harm == pytest.approx(2.0**-mended)
    assert trial.change_elsewhere == pytest.approx((mended - 50) / len(labels))

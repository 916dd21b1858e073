"""The study of ways to fuse: fair to every rule, blind to the test images, trained once."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray
from PIL import Image

from benchmarks import _fleet, fusion
from benchmarks._common import guarded
from benchmarks._fleet import FleetSettings, OneVsRest, Pixels, fleet_answers, hold_out
from benchmarks._fusion_rules import DEFAULT, RULES, Adding, Evidence, rule
from benchmarks._readers.sets import SETS
from edge_stl.branch import Trainer
from edge_stl.errors import UsageError
from edge_stl.fusion import Member, calibration_scale, fuse, reliability_weights
from edge_stl.plan import Plan, new_plan
from edge_stl.testing import assert_parity


K = 4
CLASSES = SETS["cifar10"].classes
QUICK = ["--boxes", "2", "--epochs", "1", "--network", "cnn-xs", "--held", "40", "--seeds", "1"]

Logits = list[NDArray[np.float32]]


def member(box: str, counts: tuple[int, ...], *, log_loss: float = 0.5) -> Member:
    return Member("a", box, counts, 1.3, log_loss, validation=200)


@st.composite
def fleets(draw: st.DrawFn) -> tuple[Logits, list[Member]]:
    """Return what five boxes above chance say of eight images, and the boxes: no cap bites."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    counts = draw(st.lists(st.integers(50, 80), min_size=5 * K, max_size=5 * K))
    members = [
        member(f"box{i}", tuple(counts[K * i : K * i + K]), log_loss=draw(st.floats(0.3, 0.5)))
        for i in range(5)
    ]
    return list(rng.normal(scale=2, size=(5, 8, K)).astype(np.float32)), members


# ---- rules ----


@settings(deadline=None)
@given(fleets())
def test_the_named_default_is_the_product_s_own_answer(fleet: tuple[Logits, list[Member]]) -> None:
    logits, members = fleet
    weights = reliability_weights(members)
    wanted, _ = fuse(logits, members, weights, scale=calibration_scale(weights))
    assert_parity(np.exp(RULES[DEFAULT](logits, members)), wanted, kind="float64")


@settings(deadline=None)
@given(fleets())
def test_the_mean_written_again_is_the_product_s_where_no_cap_bites(
    fleet: tuple[Logits, list[Member]],
) -> None:
    logits, members = fleet
    weights = reliability_weights(members)
    totals = np.array([weights[i].max() for i in range(5)])
    assert totals.max() < 0.4
    shares, _ = fuse(logits, members, weights)
    ours = np.log(shares)
    again = rule(Evidence(), Adding())(logits, members)
    # softmax forgets a constant per image
    assert_parity(
        again - again.mean(axis=1, keepdims=True),
        ours - ours.mean(axis=1, keepdims=True),
        kind="float64",
    )


def test_log_pooling_of_all_classes_counts_a_class_never_seen_as_ruled_out() -> None:
    """Else the log of any probability, being negative, would make unseen classes win."""
    unsure = np.array([[0.1, 0.0, 0.0, 0.0]], dtype=np.float32)
    members = [member("x", (9, 9, 0, 0))]
    for name in ("log pooling, all classes", "log pooling, all classes, priors left in"):
        assert RULES[name]([unsure], members).argmax() == 0
        assert RULES[name]([unsure], members)[0, 2:].max() < np.log(0.1)
    kind = RULES["log pooling over the classes seen, sum"]([unsure], members)
    assert kind[0, 2:].tolist() == [0, 0]


def test_log_pooling_is_the_product_of_the_probabilities() -> None:
    rng = np.random.default_rng(0)
    logits = [row.astype(np.float32) for row in rng.normal(size=(3, 20, K))]
    members = [member(f"box{i}", (9, 9, 9, 9)) for i in range(3)]
    each = fuse(logits, members, np.ones((3, K)))[1].prod(axis=1)
    found = RULES["log pooling, all classes"](logits, members)
    np.testing.assert_array_equal(found.argmax(axis=1), each.argmax(axis=1))


def test_where_nobody_is_above_chance_all_count_alike_as_in_the_product() -> None:
    rng = np.random.default_rng(3)
    logits = [row.astype(np.float32) for row in rng.normal(size=(3, 20, K))]
    members = [member(f"box{i}", (9, 9, 9, 5), log_loss=9.0) for i in range(3)]
    found = rule(Evidence(), Adding())(logits, members)
    assert_parity(found, RULES["log-odds, mean"](logits, members), kind="float64")


UNEVEN = [
    member("a", (9, 9, 0, 0)),
    member("b", (0, 0, 9, 0)),
    member("c", (1, 0, 5, 99), log_loss=9.0),
]


@pytest.mark.parametrize("members", [UNEVEN, UNEVEN[1:2], UNEVEN[2:], UNEVEN[1:] * 2])
def test_every_rule_answers_for_uneven_and_hopeless_boxes(members: list[Member]) -> None:
    """One class, loss above chance: no division by zero, and nothing that is not a number."""
    rng = np.random.default_rng(1)
    logits = [rng.normal(size=(6, K)).astype(np.float32) for _ in members]
    for every in RULES.values():
        scores = every(logits, members)
        assert scores.shape == (6, K)
        assert np.isfinite(scores).all()


# ---- fleets ----


@pytest.fixture
def plan() -> Plan:
    return new_plan(
        classes=["a", "b", "c", "d"],
        resolution=16,
        transform="haar",
        levels=1,
        branches="detail",
        network="cnn-xs",
        name="tiny",
        epochs=1,
    )


def pixels(images: int, *, seed: int, classes: int = K) -> Pixels:
    """Return images as bright as their class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    noise = rng.integers(0, 60, (images, 16, 16, 3))
    return Pixels((noise + 40 * labels[:, None, None, None]).astype(np.uint8), labels)


def test_held_out_images_are_never_dealt_to_a_box_and_are_alike_in_every_class() -> None:
    complete = pixels(103, seed=0)
    complete.images[:, 0, 0, 0] = np.arange(103)  # every image can be told by its first value
    train, held = hold_out(complete, 20)
    known = set(train.images[:, 0, 0, 0].tolist())
    out = set(held.images[:, 0, 0, 0].tolist())
    assert not known & out
    assert known | out == set(range(103))
    assert np.bincount(held.labels).tolist() == [5] * K
    np.testing.assert_array_equal(hold_out(complete, 20)[1].images, held.images)


def test_boxes_train_on_what_they_are_dealt_alone(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What every trainer was given, put together: the images dealt, each once, none held out."""
    given: list[NDArray[np.uint8]] = []

    class Watched(Trainer):
        def __init__(self, images: Any, labels: Any, **rest: Any) -> None:
            given.append(np.asarray(images))
            super().__init__(images, labels, **rest)

    monkeypatch.setattr(_fleet, "Trainer", Watched)
    train, held = hold_out(pixels(100, seed=0), 20)
    chosen = FleetSettings("iid", 2, "auto", one_vs_rest=False, seed=0)
    test = pixels(8, seed=1)
    voters = fleet_answers(plan, chosen, train=train, held=held, test=test, folder=tmp_path)
    assert sum(len(images) for images in given) == len(train.labels) == 80
    sides = {v.member.box: len(v.member.seen) for v in voters}
    assert sides == {"box01": K, "box02": K}
    fine = {image.tobytes() for images in given if images.shape[1] == 16 for image in images}
    assert fine
    assert not fine & {image.tobytes() for image in held.images}


def test_a_second_call_trains_nothing_and_gives_the_same(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, held, test = pixels(80, seed=0), pixels(12, seed=1), pixels(8, seed=2)
    chosen = FleetSettings("classes:2", 3, "all", one_vs_rest=False, seed=0)

    def call() -> list[_fleet.Voter]:
        return fleet_answers(plan, chosen, train=train, held=held, test=test, folder=tmp_path)

    first = call()
    monkeypatch.setattr(_fleet, "Trainer", None)
    again = call()
    assert [v.member for v in first] == [v.member for v in again]
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.held, two.held)
        np.testing.assert_array_equal(one.test, two.test)
    assert {(v.held.shape, v.test.shape) for v in first} == {((12, K), (8, K))}
    with pytest.raises(TypeError, match="NoneType"):  # another fleet is not taken for this one
        fleet_answers(
            plan,
            FleetSettings("classes:2", 3, "all", one_vs_rest=False, seed=1),
            train=train,
            held=held,
            test=test,
            folder=tmp_path,
        )


def test_the_one_vs_rest_loss_is_torch_s_and_another_than_softmax_s() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]])
    targets = torch.tensor([0, 2])
    truth = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    wanted = 3 * torch.nn.BCEWithLogitsLoss()(logits, truth)
    found = OneVsRest.loss(None, logits, targets)  # type: ignore[arg-type]
    assert_parity(found, wanted, kind="float32")
    assert abs(float(found - torch.nn.functional.cross_entropy(logits, targets))) > 0.1


# ---- the command ----


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Write the ten classes of CIFAR-10 as tiny pictures."""
    for split, each, seed in (("train", 14, 0), ("test", 3, 1)):
        shown = pixels(10 * each, seed=seed, classes=10)
        for i, label in enumerate(shown.labels):
            folder = tmp_path / "data" / "cifar10" / split / CLASSES[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(shown.images[i] // 2).save(folder / f"{i:03d}.png")
    return tmp_path / "data"


@pytest.fixture
def run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., dict[str, Any]]:
    monkeypatch.setitem(fusion._SETS, "cifar10", (16, 1))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, out: str = "out") -> dict[str, Any]:
        line = ["fusion", "cifar10", "--data", str(data), "--out", str(tmp_path / out), "--json"]
        threads = torch.get_num_threads()
        monkeypatch.setattr(sys, "argv", [*line, *QUICK, *arguments])
        try:
            fusion.main()
        finally:
            torch.set_num_threads(threads)
            torch.set_flush_denormal(False)
        document: dict[str, Any] = json.loads(capsys.readouterr().out)
        return document

    return run


def test_selection_never_looks_at_the_test_images(
    run: Callable[..., dict[str, Any]], data: Path
) -> None:
    """Black test pictures under wrong names: nothing that is selected by changes."""
    arguments = ("--select", "--splits", "iid", "--no-one-vs-rest")
    before = run(*arguments)
    rows = before["fleets"]["iid, 2"]
    assert {*RULES, "mean of the branches alone", "reliability, scale 1"} < set(rows)
    assert "fitted on 20, pull 1" in rows
    for path in (data / "cifar10" / "test").rglob("*.png"):
        Image.new("RGB", (16, 16)).save(path)
    assert run(*arguments, out="again") == before
    # without --select the test images are what is measured
    black = run(*arguments[1:], out="again")["fleets"]["iid, 2"]
    assert black[DEFAULT][0]["accuracy"] == pytest.approx(0.1)
    assert "fitted on 40, pull 1" in black


def test_one_vs_rest_fleets_are_trained_beside_the_others(
    run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    rows = run("--splits", "classes:6")["fleets"]["classes:6, 2"]
    (other,) = rows["branches trained one-vs-rest: reliability (the default)"]
    assert set(other) == {"accuracy"}
    assert set(rows["reliability, scale 1"][0]) == {"accuracy", "log_loss", "ece"}
    one, two = (np.load(path)["test0"] for path in (tmp_path / "out").glob("*.npz"))
    assert np.abs(one - two).max() > 1e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mnist"], "argument set: invalid choice: 'mnist'"),
        (["cifar10", "--boxes", "6,x"], "argument --boxes: 'x': expected a whole number of 1"),
        (["cifar10", "--boxes", "0"], "argument --boxes: '0': expected a whole number of 1"),
        (["cifar10", "--seeds", "0"], "argument --seeds: '0': expected a whole number of 1"),
        (["cifar10", "--splits", "iid,odd"], "argument --splits: 'odd': is no split; expected iid"),
        (["cifar10", "--network", "big"], "argument --network: invalid choice: 'big'"),
        (["cifar10", "--branch", "own"], "argument --branch: invalid choice: 'own'"),
    ],
)
def test_wrong_arguments_are_named_before_anything_is_read(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["fusion", *arguments])
    monkeypatch.setattr(fusion, "image_folders", None)
    with pytest.raises(SystemExit, match="2"):
        fusion.main()
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--held", "9"],
            "--held 9: there are 140 training images of 10 classes; expected from 10",
        ),
        (["--held", "140"], "--held 140: there are 140 training images .* to 139"),
        (["--images", "101"], "--images 101: 100 of 140 training images are left beside those"),
    ],
)
def test_too_few_images_are_said_in_one_line(
    run: Callable[..., dict[str, Any]], arguments: list[str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        run(*arguments)


def test_a_missing_set_is_one_line_and_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["fusion", "cifar10", "--data", str(tmp_path)])
    assert guarded(fusion.main) == 10
    (line,) = capsys.readouterr().err.splitlines()
    assert "no CIFAR-10 found" in line

"""Accuracy against bytes: the same images, network and effort, one ledger, honest choices."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from device_agent.cotrain._problem import BranchProblem
from edge_stl.cli import main
from edge_stl.cotrain import FRAME_BYTES, HEADER_BYTES
from edge_stl.errors import UsageError
from edge_stl.fleet._compare import check_methods
from edge_stl.fleet._compare_page import picture, size_text
from edge_stl.fleet._contestants import CONTESTANTS
from edge_stl.fleet._split import Split
from edge_stl.fleet._study import Study, read_images
from edge_stl.plan import new_plan, plan_toml, read_plan


CLASSES = ["bus", "car", "van"]
QUICK = ("--boxes", "3", "--rounds", "2", "--steps", "1", "--batch", "4", "--rates", "0.05,0.1")

Call = Callable[..., tuple[int, Any, str]]


@pytest.fixture(scope="module")
def fleet(pictures: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    plan = new_plan(
        classes=CLASSES, resolution=16, levels=1, branches="all", network="cnn-s-gn", epochs=1
    )
    (folder / "plan.toml").write_text(plan_toml(plan))
    pictures(folder / "photos", CLASSES, count=24)
    return folder


@pytest.fixture
def compare(fleet: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    def call(out: Path, *options: str) -> tuple[int, Any, str]:
        capsys.readouterr()
        code = main(
            ["compare", str(fleet / "plan.toml"), str(fleet / "photos"), "-o", str(out), "--json",
             *options]
        )  # fmt: skip
        told, err = capsys.readouterr()
        return code, json.loads(told) if told else None, err

    return call


@pytest.fixture(scope="module")
def study(fleet: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    plan = read_plan(fleet / "plan.toml")
    archive = read_images(plan, fleet / "photos", tmp_path_factory.mktemp("cache") / "images")
    name = plan.branches[-1].name
    return Study.deal(plan, name, archive, None, boxes=3, split=Split(), seed=0, batch=4)


def test_a_comparison_tells_accuracy_and_bytes_of_every_method(
    compare: Call, tmp_path: Path, assert_schema: Callable[[Any, str], None]
):
    out = tmp_path / "run"
    methods = "centralized,ensemble,alone,full"
    code, told, err = compare(out, *QUICK, "--methods", methods, "--seeds", "2")

    assert (code, err) == (0, "")
    assert_schema(told, "compare")
    rows = {row["method"]: row for row in told["methods"]}
    assert list(rows) == ["ensemble", "alone", "full", "centralized"]  # the table's own order
    assert json.loads((out / "results.json").read_text()) == told
    with (out / "compare.csv").open() as file:
        assert [row["method"] for row in csv.DictReader(file)] == list(rows)
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")

    ensemble, full = rows["ensemble"], rows["full"]
    files = sorted((out / "branches" / "seed1").glob("*.onnx"))
    assert [p.name for p in files] == [
        "ensemble.onnx", *(f"w1.box0{k}.onnx" for k in (1, 2, 3))
    ] or len(files) == 4  # fmt: skip
    assert ensemble["bytes_training"] == 0
    assert ensemble["bytes_total"] == pytest.approx(
        sum(p.stat().st_size for p in files if p.name != "ensemble.onnx"), rel=0.01
    )
    assert rows["alone"]["bytes_total"] == 0
    assert rows["alone"]["chosen"] in ([{"rate": 0.05}, {"rate": 0.1}])
    # three boxes in a ring: two rounds to two neighbours each, then to the first and back
    message = full["ledger"]["total"]["values"] // (2 * 3 * 2 + 2 * 2)
    assert full["bytes_training"] == (2 * 3 * 2 + 2 * 2) * (message + HEADER_BYTES + FRAME_BYTES)
    assert full["gradients_per_box"] == 2
    assert {row["validation"] for row in full["tried"]} <= {k / 6 for k in range(7)}
    assert rows["centralized"]["bytes_training"] == 0
    assert rows["centralized"]["bytes_files"] > 0


def test_a_stopped_comparison_goes_on_and_another_one_is_refused(compare: Call, tmp_path: Path):
    out = tmp_path / "run"
    code, first, _ = compare(out, *QUICK, "--methods", "full")
    assert code == 0
    runs = json.loads((out / "runs.json").read_text())
    for row in runs["runs"].values():
        row["accuracy"] = 0.125  # what was finished is not run again
    (out / "runs.json").write_text(json.dumps(runs))

    code, again, _ = compare(out, *QUICK, "--methods", "full")
    assert (code, again["methods"][0]["accuracy"]) == (0, 0.125)
    assert first["methods"][0]["chosen"] == again["methods"][0]["chosen"]

    code, _, err = compare(out, *QUICK, "--methods", "full", "--batch", "3")
    assert code == 2
    assert "other batch; expected the same. Choose another -o" in err

    (out / "runs.json").write_text("{")
    code, _, err = compare(out, *QUICK, "--methods", "full")
    assert code == 2
    assert "cannot be read as the runs" in err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--methods", "ful"), "--methods ful: not a method"),
        (("--methods", ","), "--methods: none; expected some of"),
        (("--rates", "0,1"), "--rates 0,1: expected numbers above 0"),
        (("--graph", "star"), "--graph star: neither a kind of graph"),
        (("--kept", "0"), "--kept 0: expected a share above 0"),
        (("--branch", "nope"), "--branch nope: not a branch of the plan"),
        (("--split", "odd"), "--split odd: is no split"),
        (("--schedule", "odd"), "schedule = 'odd'"),
    ],
)
def test_wrong_options_are_refused_in_one_line(
    compare: Call, tmp_path: Path, options: tuple[str, ...], said: str
):
    code, told, err = compare(tmp_path / "run", *QUICK, *options)

    assert (code, told) == (2, None)
    assert said in err
    assert err.count("\n") == 1


def test_too_few_images_to_choose_settings_on_are_refused(compare: Call, tmp_path: Path):
    code, _, err = compare(tmp_path / "run", *QUICK, "--boxes", "9")

    assert code == 10
    assert "dealt to 9 boxes, no class of a box has the 5 images" in err


def test_a_network_with_batch_norm_is_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    plan = new_plan(classes=CLASSES, resolution=16, levels=1, network="cnn-s", epochs=1)
    (tmp_path / "plan.toml").write_text(plan_toml(plan))

    code = main(
        ["compare", str(tmp_path / "plan.toml"), str(tmp_path / "nowhere"), "-o",
         str(tmp_path / "run")]
    )  # fmt: skip

    assert code == 2
    assert "cnn-s has batch norm" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_nobody_is_tested_or_chosen_on_what_trains(study: Study):
    train = [hand[box.train] for hand, box in zip(study.hands, study.boxes, strict=True)]
    held = [hand[box.validation] for hand, box in zip(study.hands, study.boxes, strict=True)]
    parts = [*train, *held, study.held_out]
    everything = np.concatenate(parts)

    assert len(np.unique(everything)) == len(everything) == len(study.archive.labels)
    assert len(study.together.train) == sum(len(part) for part in train)
    assert len(study.together.validation) == 0
    assert len(study.validation[1]) == sum(len(part) for part in held) > 0


def test_the_ensemble_in_onnxruntime_answers_as_the_oracle_chooses(study: Study, tmp_path: Path):
    generator = torch.Generator().manual_seed(5)
    vectors = [
        study.start + 0.05 * torch.randn(len(study.start), generator=generator) for _ in range(3)
    ]

    accuracy, size = study.real_ensemble(vectors, tmp_path / "branches")

    assert accuracy == study.apart(vectors, study.test)[0]
    assert size > 3 * 4 * len(study.start)


def test_every_method_starts_from_the_same_numbers(study: Study):
    problems = [study.problem(box) for box in (*study.boxes, study.together)]
    problems[0].load(torch.zeros_like(study.start))

    assert torch.equal(study.problem(study.boxes[1]).start(), study.start)


def test_a_comparison_that_first_asks_a_kept_model_starts_from_the_same_numbers(study: Study):
    fresh = replace(study)
    fresh.branch_file(torch.zeros_like(study.start), 0)

    assert torch.equal(fresh.start, study.start)


def test_minibatches_are_a_pure_function_of_the_step(study: Study):
    box = study.boxes[0]
    first = [box.batch(step) for step in range(2 * box.count)]
    for step in (3, 0, 2 * box.count - 1):
        bands, targets = box.batch(step)
        assert torch.equal(bands, first[step][0])
        assert torch.equal(targets, first[step][1])
    assert {len(targets) for _, targets in first} <= {3, 4}
    assert not torch.equal(first[0][0], first[box.count][0])


def test_a_box_sees_in_compare_what_it_sees_in_cotrain(study: Study):
    for hand, box in zip(study.hands, study.boxes, strict=True):
        real = BranchProblem(
            study.archive.pixels[hand],
            study.archive.labels[hand],
            plan=study.plan,
            branch=study.branch,
            batch=study.batch,
            seed=study.seed,
        )
        own, other = study.problem(box), real.branch.minibatches
        assert torch.equal(own.start(), real.start())
        for step in range(2 * box.count + 1):
            (bands, targets), (theirs, classes) = own.batch(step), real.batch(step)
            assert torch.equal(bands, theirs)
            assert torch.equal(targets, classes)
            gradient, loss = own.gradient(study.start, (bands, targets))
            same, cost = real.gradient(study.start, (theirs, classes))
            assert torch.equal(gradient, same)
            assert loss == cost
        assert np.array_equal(box.held_back()[1], real.held_back)
        assert np.array_equal(
            study.logits(study.start, box.held_back()[0]), real.held_back_answers()
        )
        assert box.train_counts == other.train_counts
        assert box.validation_counts == other.validation_counts


def test_a_box_that_holds_nothing_back_answers_nothing(study: Study):
    assert study.logits(
        study.start, study.boxes[0].bands(np.zeros((0, 16, 16, 3), np.uint8))
    ).shape == (0, 3)


def test_methods_come_in_the_order_of_the_table():
    assert check_methods(["full", "ensemble"]) == ("ensemble", "full")
    assert set(check_methods(list(CONTESTANTS))) == set(CONTESTANTS)
    with pytest.raises(UsageError, match="--methods x: not a method"):
        check_methods(["x"])


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (12_345, "12.3 kB"), (4.2e9, "4.2 GB")]
)
def test_sizes_are_read_by_a_person(size: float, text: str):
    assert size_text(size) == text


def test_the_picture_needs_no_window():
    row = {
        "method": "full", "title": "full", "accuracy": 0.5, "accuracy_std": 0.01,
        "bytes_per_box": 1e6, "bytes_training": 9e5,
    }  # fmt: skip
    settings = {
        "boxes": 3, "split": "iid", "graph": "ring", "rounds": 2, "steps": 1, "batch": 4,
        "network": "cnn-s-gn",
    }  # fmt: skip

    assert picture({"settings": settings, "methods": [row]}).startswith(b"\x89PNG")

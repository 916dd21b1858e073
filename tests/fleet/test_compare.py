"""Accuracy against bytes: the same images, network and effort, one ledger, honest choices."""

import csv
import json
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from device_agent.cotrain._problem import BranchProblem
from edge_stl.cli import main
from edge_stl.cotrain import FRAME_BYTES, HEADER_BYTES, SERVER, Graph
from edge_stl.errors import Interrupted, UsageError
from edge_stl.fleet._compare import Comparison, at_edge, check_methods, compare as run_comparison
from edge_stl.fleet._compare_bench import Bench
from edge_stl.fleet._compare_page import edge_line, picture, size_text
from edge_stl.fleet._contestants import CONTESTANTS, Effort
from edge_stl.fleet._split import Split
from edge_stl.fleet._study import Study, read_images
from edge_stl.plan import new_plan, plan_toml, read_plan


CLASSES = ["bus", "car", "van"]
QUICK = ("--boxes", "3", "--rounds", "2", "--steps", "1", "--batch", "4", "--rates", "0.05,0.1")

Call = Callable[..., tuple[int, Any, str]]


def _comparison(fleet: Path, out: Path, *methods: str) -> Comparison:
    """What `QUICK` asks for."""
    plan = read_plan(fleet / "plan.toml")
    return Comparison(
        plan=plan,
        branch=plan.branches[-1].name,
        images=fleet / "photos",
        out=out,
        methods=methods,
        boxes=3,
        graph="ring",
        rounds=2,
        batch=4,
        rates=(0.05, 0.1),
    )


def _count(monkeypatch: pytest.MonkeyPatch, name: str) -> list[tuple[Any, ...]]:
    """Return a list that gets the arguments of every call of a method of `Bench`."""
    calls, real = [], getattr(Bench, name)

    def counted(bench: Bench, *given: Any) -> Any:
        calls.append(given)
        return real(bench, *given)

    monkeypatch.setattr(Bench, name, counted)
    return calls


def _but_seconds(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != "seconds"}


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


def test_settings_of_a_file_are_those_of_the_run_and_are_not_tried(
    compare: Call, tmp_path: Path, assert_schema: Callable[[Any, str], None]
):
    """CHOCO with a given gamma tries rates alone; a larger share costs more bytes than --kept."""
    file = tmp_path / "own.toml"
    file.write_text("[choco]\ngamma = 0.3\nshare = 0.9\n[jwins]\nshares = [0.05]\n")
    options = (*QUICK, "--methods", "random,choco,jwins", "--kept", "0.5")

    code, told, err = compare(tmp_path / "own", *options, "--settings", str(file))
    assert (code, err) == (0, "")
    assert_schema(told, "compare")
    assert told["settings"]["method_settings"] == {
        "choco": {"gamma": 0.3, "share": 0.9}, "jwins": {"shares": [0.05]}
    }  # fmt: skip
    random, choco, jwins = told["methods"]
    assert [row["rate"] for row in choco["tried"]] == [0.05, 0.1]
    assert set(choco["chosen"]) == {"rate"}
    assert choco["bytes_training"] > 1.5 * random["bytes_training"] > 3 * jwins["bytes_training"]

    code, _, err = compare(tmp_path / "own", *options)
    assert code == 2
    assert "of a comparison with other method_settings; expected the same" in err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[choco]\ngama = 1\n", r"\[choco\] gama: unknown key; did you mean 'gamma'\?"),
        ("[choco]\ngamma = 7\n", r"\[choco\] gamma = 7(\.0)?: out of range; expected above 0"),
        ("rounds = 3\n", r"no settings of a method; expected tables like \[jwins\]"),
        ("[chocko]\n", r"chocko: unknown key; did you mean 'choco'\?"),
        ("choco = 1\n", r"choco: expected a table \[choco\] with its settings"),
    ],
)
def test_a_file_of_settings_that_is_none_is_refused_in_one_line(
    compare: Call, tmp_path: Path, text: str, said: str
):
    file = tmp_path / "own.toml"
    file.write_text(text)

    code, _, err = compare(tmp_path / "run", *QUICK, "--settings", str(file))

    assert code == 2
    assert err.count("\n") == 1
    assert re.search(said, err), err
    assert not (tmp_path / "run").exists()


def test_a_wrong_schedule_is_told_before_an_image_is_read(compare: Call, tmp_path: Path):
    code, _, err = compare(tmp_path / "run", *QUICK, "--schedule", "sometimes")

    assert code == 2
    assert re.search(r"schedule = 'sometimes'", err), err
    assert not (tmp_path / "run" / "cache").exists()


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
    for row in runs["asked"].values():
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


def test_another_rate_is_tried_beside_those_that_were(
    compare: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "run"
    compare(out, *QUICK, "--methods", "full")
    trained = _count(monkeypatch, "_train")

    code, again, _ = compare(out, *QUICK[:-1], "0.05,0.1,1e-9", "--methods", "full")

    assert code == 0
    assert [row["rate"] for row in again["methods"][0]["tried"]] == [1e-9, 0.05, 0.1]
    assert trained == [("full", 0, {"rate": 1e-9})]


@pytest.fixture(scope="module")
def watched(
    fleet: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], list[str]]:
    """A comparison, and what happened in it: trainings, branch files, looks at test images."""
    out, happened = tmp_path_factory.mktemp("watched"), []
    look, ask, file = Study.test_pixels.func, Study.test.func, Study.branch_file

    def noted(what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given: (happened.append(what), function(*given))[1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Study, "test_pixels", property(noted("test", look)))
        patch.setattr(Study, "test", property(ask))  # looks each time
        patch.setattr(Study, "branch_file", noted("file", file))
        document = run_comparison(
            _comparison(fleet, out, "ensemble", "alone", "full"),
            progress=lambda label, _done, _total: happened.append(label),
        )
    assert not list(out.glob("*.model*"))
    return document, happened


def test_settings_are_tried_without_test_images_and_the_chosen_model_is_asked_once(
    watched: tuple[dict[str, Any], list[str]],
):
    _, happened = watched

    assert happened == [
        "ensemble rate 0.05", "ensemble rate 0.1", "file", "file", "file", "test",
        "alone rate 0.05", "alone rate 0.1", "test",
        "full rate 0.05", "full rate 0.1", "test", "file",
    ]  # fmt: skip


@pytest.mark.parametrize(("spoiled", "again"), [(False, 0), (True, 1)])
def test_a_comparison_stopped_before_the_test_images_goes_on_with_the_kept_models(
    watched: tuple[dict[str, Any], list[str]],
    fleet: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoiled: bool,
    again: int,
):
    what = _comparison(fleet, tmp_path, "full")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Bench, "_ask", stop)
        with pytest.raises(Interrupted, match=r"stopped; 1 of 2 runs are done and kept\. The same"):
            run_comparison(what)
    models = sorted(tmp_path.glob("*.model"))
    assert [path.name for path in models] == ["full-0-rate-0.05.model", "full-0-rate-0.1.model"]
    if spoiled:
        for path in models:
            path.write_bytes(path.read_bytes()[:-1])
    trained = _count(monkeypatch, "_train")

    document = run_comparison(what)

    assert len(trained) == again
    assert _but_seconds(document["methods"][0]) == _but_seconds(watched[0]["methods"][2])
    assert not list(tmp_path.glob("*.model*"))


def test_ctrl_c_says_what_is_kept(compare: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real, trained = Bench._train, []

    def interrupted(bench: Bench, *given: Any) -> object:
        if trained:
            signal.raise_signal(signal.SIGINT)
        trained.append(given)
        return real(bench, *given)

    monkeypatch.setattr(Bench, "_train", interrupted)
    code, _, err = compare(tmp_path / "run", *QUICK, "--methods", "full")

    assert code == 30
    assert err == (
        f"edge-stl: {tmp_path / 'run'}: stopped; 1 of 2 runs are done and kept. The same command "
        "goes on there\n"
    )
    assert len(json.loads((tmp_path / "run" / "runs.json").read_text())["trained"]) == 1


@pytest.mark.parametrize(
    ("chosen", "names"),
    [
        ({"rate": 0.1, "gamma": 0.4}, ["rate", "gamma"]),
        ({"rate": 0.05, "gamma": 0.2}, ["gamma"]),
        ({"rate": 0.02, "gamma": 0.3}, ["rate"]),
        ({"rate": 0.05, "gamma": 0.3}, []),
    ],
)
def test_a_choice_at_the_edge_of_what_was_tried_is_told(chosen: dict[str, float], names: list[str]):
    grid = [{"rate": r, "gamma": g} for r in (0.02, 0.05, 0.1) for g in (0.2, 0.3, 0.4)]

    assert at_edge(grid, chosen) == names
    assert at_edge([chosen], chosen) == []  # nothing to choose from
    told = edge_line({"methods": [{"title": "X", "chosen": chosen, "at_edge": names}]})
    ends = ", ".join(f"{name} {chosen[name]}" for name in names)
    assert told == (f"at the edge of what was tried: X ({ends})" if names else None)


def test_the_bytes_of_a_box_are_its_share_of_all_that_was_sent_and_carried(study: Study):
    effort, size = Effort(Graph.make("ring", 3), rounds=2), 4 * len(study.start)

    served = CONTESTANTS["fedavg"].run(study, effort, {"rate": 0.05}).ledger
    averaged = CONTESTANTS["pca"].run(study, effort, {"rate": 0.05}).ledger

    # a model down to each of three boxes and one back from it, in each of two rounds
    assert served.total.values == 2 * 3 * 2 * size
    assert [served.node(k).values for k in (SERVER, 0, 1, 2)] == [6 * size] + [2 * size] * 3
    # the two steps are those before compression: a ring of three moves 4/3 of a gradient
    assert averaged.total.total == pytest.approx(2 * 3 * size * 4 / 3, rel=1e-3)
    assert len({averaged.node(k).total for k in range(3)}) == 1


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
    expected, fresh = replace(study).start, replace(study)
    fresh.branch_file(torch.zeros_like(expected), 0)

    assert torch.equal(fresh.start, expected)


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

"""Every verb does what its help says, prints what its schema says, and ends with its exit code."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from edge_stl import __version__
from edge_stl.cli import main
from edge_stl.plan import new_plan, plan_toml, read_plan


CLASSES = ["bus", "car", "van"]
VERBS = [
    "demo", "plan new", "plan show", "train", "merge", "split", "predict", "evaluate", "inspect",
    "check", "simulate", "compare", "cotrain", "doctor", "deploy",
    "agent watch", "agent install-service",
    "keygen", "sign", "verify", "trust add", "trust revoke", "trust list",
]  # fmt: skip
Run = Callable[..., tuple[int, str, str]]
Schema = Callable[[Any, str], None]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process: exit code, stdout, stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def run_json(run: Run, assert_schema: Schema) -> Callable[..., Any]:
    """Run a verb with --json: one object on stdout that holds to its schema, nothing on stderr."""

    def call(schema: str, *arguments: object, code: int = 0) -> Any:
        got, out, err = run(*schema.split("-"), *arguments, "--json")
        assert got == code, err
        assert out.endswith("\n")
        assert out.count("\n") == 1
        assert err.count("\n") == (1 if code else 0)
        document = json.loads(out)
        assert_schema(document, schema)
        return document

    return call


@pytest.fixture(scope="module")
def desk(
    fabricate_fleet: Callable[..., list[Path]],
    pictures: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A folder with plan, photos, branch files and an ensemble; never written to by a test."""
    folder = tmp_path_factory.mktemp("desk")
    plan = new_plan(classes=CLASSES, resolution=16, levels=1, network="mlp-s", epochs=2)
    (folder / "plan.toml").write_text(plan_toml(plan))
    pictures(folder / "photos", CLASSES, count=8)
    fabricate_fleet(plan, folder / "branches")
    files = sorted(map(str, (folder / "branches").iterdir()))
    assert main(["merge", *files, "-o", str(folder / "ensemble.onnx"), "-q"]) == 0
    return folder


def photo(desk: Path, name: str = "bus") -> Path:
    return desk / "photos" / name / "000.png"


def unflagged(said: str) -> str:
    """Return what was said but for flags: made-up numbers are far from each other."""
    return "".join(row for row in said.splitlines(keepends=True) if not row.startswith("flag: "))


def branch_files(desk: Path) -> list[Path]:
    return sorted((desk / "branches").iterdir())


# -- help ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_has_an_example(verb: str, run: Run):
    code, out, err = run(*verb.split(), "--help")
    assert (code, err) == (0, "")
    assert f"Example: edge-stl {verb}" in out
    assert run(*verb.split(), "-h")[1] == out


def test_help_lists_what_is_built_and_nothing_else(run: Run):
    code, out, _ = run("--help")
    assert code == 0
    listed = [line.split()[1] for line in out.splitlines() if line.startswith("│ ")]
    assert set(listed) >= {verb.split()[0] for verb in VERBS}


def test_what_is_no_command_is_refused(run: Run):
    code, out, err = run("cotrian")
    assert (code, out) == (2, "")
    assert "No such command" in err


def test_version(run: Run):
    assert run("--version") == (0, f"edge-stl {__version__}\n", "")


def test_every_schema_belongs_to_a_verb_with_json(run: Run):
    folder = Path(__file__).parents[2] / "docs" / "schemas"
    schemas = {p.stem for p in folder.glob("*.json")}
    with_json = {v.replace(" ", "-") for v in VERBS if "--json" in run(*v.split(), "--help")[1]}
    # what train --jobs and cotrain --dry-run print are other documents
    assert schemas == with_json | {"train-jobs", "cotrain-dry-run"}
    for path in folder.glob("*.json"):
        assert json.loads(path.read_text())["$schema"].endswith("2020-12/schema")


def test_the_schema_checker_can_fail(assert_schema: Schema):
    good: dict[str, Any] = {"ok": True, "target": "web", "findings": []}
    assert_schema(good, "check")
    finding = {"what": "a", "where": "b"}
    for bad in (
        {**good, "ok": 1},
        {**good, "target": "moon"},
        {"ok": True, "findings": []},
        {**good, "findings": [finding]},
        {**good, "findings": {}},
        [],
    ):
        with pytest.raises(AssertionError, match=r"\$"):
            assert_schema(bad, "check")
    with pytest.raises(AssertionError, match="does not match"):
        assert_schema({"output": "x", "plan_digest": "g" * 64}, "plan-new")
    with pytest.raises(AssertionError, match="none of the alternatives"):
        assert_schema({"predictions": [{"image": "x"}]}, "predict")


# -- the verbs, one by one ----------------------------------------------------------------------


def test_plan_new_from_names_a_file_and_a_folder(
    run_json: Callable[..., Any], desk: Path, tmp_path: Path
):
    (tmp_path / "names.txt").write_text("bus\ncar\n\nvan\n")
    digests = set()
    for i, classes in enumerate(("bus,car,van", tmp_path / "names.txt", desk / "photos")):
        out = tmp_path / f"{i}.toml"
        told = run_json("plan-new", "--classes", classes, "--resolution", 16, "-o", out)
        assert told["output"] == str(out)
        assert read_plan(out).digest == told["plan_digest"]
        digests.add(told["plan_digest"])
    assert len(digests) == 1


def test_plan_new_takes_every_choice(run: Run, tmp_path: Path):
    out = tmp_path / "p.toml"
    code, said, err = run(
        "plan", "new", "--classes", "a,b", "--resolution", 32, "-o", out, "--channels", 1,
        "--transform", "db2", "--levels", 1, "--branches", "single", "--network", "cnn-xs",
        "--name", "yard", "--fit", "pad", "--epochs", 7, "--shift", 0.2, "--no-flip",
    )  # fmt: skip
    assert (code, err) == (0, "")
    plan = read_plan(out)
    assert said == f"{out}  digest {plan.digest}\n"
    assert (plan.name, plan.classes, plan.input.channels) == ("yard", ("a", "b"), 1)
    assert (plan.transform.wavelet, plan.transform.levels, plan.input.fit) == ("db2", 1, "pad")
    assert [b.name for b in plan.branches] == ["ca1", "ch1", "cv1", "cd1"]
    assert {b.network for b in plan.branches} == {"cnn-xs"}
    assert (plan.training.epochs, plan.augment.shift, plan.augment.flip) == (7, 0.2, False)


@pytest.mark.parametrize(
    ("transform", "branches", "names"),
    [
        ("stl-dct:2", [], ["p00", "p01", "p02", "p03"]),
        ("stl-dft:2", ["--branches", "single"], ["f00", "f01r", "f01i", "f02"]),
        ("stl-dct:4", ["--branches", "all"], ["all"]),
        ("haar", [], ["a2", "d2", "d1"]),
        ("dct:4", [], ["a2", "d2", "d1"]),
    ],
)
def test_plan_new_chooses_branches_that_the_transform_has(
    transform: str, branches: list[str], names: list[str], run: Run, tmp_path: Path
):
    out = tmp_path / "p.toml"
    new = ["plan", "new", "--classes", "a,b", "--resolution", 16, "--transform", transform]
    code, _, err = run(*new, *branches, "-o", out)
    assert (code, err) == (0, "")
    plan = read_plan(out)
    assert [b.name for b in plan.branches] == names
    assert str(plan.bank).startswith(transform)


def test_plan_show_tells_of_a_polyphase_plan_that_it_needs_its_own_resolution(
    run: Run, run_json: Callable[..., Any], desk: Path, tmp_path: Path
):
    out, drawn = tmp_path / "p.toml", tmp_path / "b.png"
    new = ["plan", "new", "--classes", "a,b", "--resolution", 16, "--transform", "stl-dft:2"]
    assert run(*new, "-o", out)[0] == 0
    told = run_json("plan-show", out, "--image", photo(desk), "-o", drawn)
    names = ["f00", "f01r", "f01i", "f02"]
    assert told["carried"] == told["auto"] == {"16": names}
    assert told["bands"] == dict.fromkeys(names, 8)
    assert {r["native_resolution"] for r in told["branches"]} == {16}
    with Image.open(drawn) as picture:
        assert picture.size[0] > 1000


def test_plan_show_tells_sizes_and_draws_bands(
    run: Run, run_json: Callable[..., Any], desk: Path, tmp_path: Path
):
    told = run_json("plan-show", desk / "plan.toml")
    assert told["picture"] is None
    assert told["carried"] == {"16": ["a1", "d1"], "8": ["a1"]}
    assert told["auto"] == {"16": ["d1"], "8": ["a1"]}
    assert told["bands"] == {"cA1": 8, "cH1": 8, "cV1": 8, "cD1": 8}
    assert [r["native_resolution"] for r in told["branches"]] == [8, 16]
    out = tmp_path / "b.png"
    told = run_json("plan-show", desk / "plan.toml", "--image", photo(desk), "-o", out)
    assert told["picture"]["output"] == str(out)
    with Image.open(out) as picture:
        assert picture.size[0] > 1000
    code, said, err = run("plan", "show", desk / "plan.toml")
    assert (code, err) == (0, "")
    assert "multiply-adds" in said
    assert "cH1 cV1 cD1" in said


def test_merge_writes_one_file_and_says_what_each_branch_weighs(
    run: Run, run_json: Callable[..., Any], desk: Path, tmp_path: Path
):
    out = tmp_path / "e.onnx"
    told = run_json("merge", *branch_files(desk), "-o", out)
    assert out.read_bytes() == (desk / "ensemble.onnx").read_bytes()
    assert (told["weights"], told["layout"], told["refused"]) == ("reliability", "nhwc", [])
    assert told["output"] == str(out)
    assert sum(row["weight"] for row in told["branches"]) == pytest.approx(1, abs=1e-5)
    shown = run_json("inspect", out)
    assert shown["scale"] == told["scale"] > 0
    assert [r["weight"] for r in shown["branches"]] == [r["weight"] for r in told["branches"]]
    code, said, err = run("merge", *branch_files(desk), "-o", out, "--weights", "uniform")
    assert (code, unflagged(err)) == (0, "")
    rows = run_json("inspect", out)["branches"]
    assert all(f"{row['weight']:.4f}" in said for row in rows)
    assert [row["weight"] for row in rows] != [row["weight"] for row in told["branches"]]
    assert f"{out}  sha256 " in said.splitlines()[-1]
    quiet = run("merge", *branch_files(desk), "-o", out, "-q")[1]
    assert quiet == f"{out}  sha256 {told['sha256']}\n"


def test_merge_goes_on_without_refused_files(
    run: Run, run_json: Callable[..., Any], desk: Path, tmp_path: Path
):
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    files = [*branch_files(desk), tmp_path / "bad.onnx"]
    told = run_json("merge", *files, "-o", tmp_path / "e.onnx", "--skip-refused")
    assert told["refused"] == [
        {"file": "bad.onnx", "reasons": ["is not an ONNX file, or is truncated"]}
    ]
    code, _, err = run("merge", *files, "-o", tmp_path / "e.onnx", "--skip-refused")
    assert (code, unflagged(err)) == (
        0,
        "refused: bad.onnx: is not an ONNX file, or is truncated\n",
    )


def test_merge_changes_an_ensemble_with_the_options_it_was_made_with(
    run: Run, run_json: Callable[..., Any], desk: Path, tmp_path: Path
):
    files = branch_files(desk)
    first, second, third = (tmp_path / n for n in ("1.onnx", "2.onnx", "3.onnx"))
    options = ("--weights", "geometric", "--layout", "nchw")
    assert run("merge", *files, "-o", first, *options)[0] == 0
    rest = [p for p in files if "box1" not in p.name]
    assert run("merge", *rest, "-o", second, *options)[0] == 0
    told = run_json("merge", first, "--remove", "box1", "-o", third)
    assert (told["weights"], told["layout"]) == ("geometric", "nchw")
    assert third.read_bytes() == second.read_bytes()
    back = [arg for p in files if "box1" in p.name for arg in ("--add", p)]
    assert run("merge", third, *back, "-o", third)[0] == 0
    assert third.read_bytes() == first.read_bytes()
    told = run_json("merge", first, "--remove", "d1.box0", "--weights", "uniform", "-o", third)
    assert told["weights"] == "uniform"
    assert "d1.box0" not in {f"{r['branch']}.{r['box']}" for r in told["branches"]}


def test_merge_fits_weights_on_a_holdout_and_says_what_that_bought(
    run: Run, run_json: Callable[..., Any], desk: Path, tmp_path: Path
):
    out, fitted = tmp_path / "e.onnx", ("--weights", "fitted", "--holdout", desk / "photos")
    told = run_json("merge", *branch_files(desk), "-o", out, *fitted)
    assert told["weights"] == "fitted"
    assert told["holdout"]["images"] == 24
    assert told["holdout"]["classes_without_images"] == []
    code, said, err = run("merge", *branch_files(desk), "-o", out, *fitted)
    assert code == 0
    assert "24 holdout images, none seen by its fit" in said
    assert f"{told['holdout']['log_loss_after']:.4f}" in said
    assert said.splitlines()[-1] == f"{out}  sha256 {told['sha256']}"
    assert ("is no better than" in err) == (
        told["holdout"]["log_loss_after"] >= told["holdout"]["log_loss_before"]
    )
    shown = run_json("inspect", out)
    assert (shown["weights"], shown["holdout"]["images"]) == ("fitted", 24)
    assert "weights fitted on 24 holdout images; biases bus " in run("inspect", out)[1]
    assert run_json("check", out)["ok"]
    assert run_json("merge", *branch_files(desk), "-o", out)["holdout"] is None


def test_merge_warns_of_a_class_without_images_and_of_files_left_out(
    run: Run, desk: Path, tmp_path: Path
):
    shutil.copytree(desk / "photos", tmp_path / "h")
    for path in (tmp_path / "h" / "car").iterdir():
        path.rename(tmp_path / "h" / "bus" / f"more{path.name}")
    (tmp_path / "h" / "van" / "bad.png").write_text("no picture")
    call = ["merge", *branch_files(desk), "-o", tmp_path / "e.onnx", "--weights", "fitted"]
    code, _, err = run(*call, "--holdout", tmp_path / "h")
    assert code == 0
    assert "warning: the holdout has no image of car; no bias is fitted there" in err
    assert "left out of the holdout: 1 " in err
    assert run(*call, "--holdout", tmp_path / "h", "-q")[2] == ""


def test_merge_names_the_box_that_harms(
    run: Run, desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from edge_stl.fusion import crossfit

    harm = crossfit.Harm("box0", -0.25, 0.01)
    monkeypatch.setattr(crossfit, "_harmful", lambda *_, **__: (harm,))
    fitted = ("--weights", "fitted", "--holdout", desk / "photos")
    code, said, _ = run("merge", *branch_files(desk), "-o", tmp_path / "e.onnx", *fitted)
    assert code == 0
    assert (
        "box box0 harms: with reliability weights, leaving it out changes the log-loss of" in said
    )
    assert "unseen images by -0.2500 (standard error 0.0100); the fit took its weight from" in said


def test_a_fitted_ensemble_is_changed_with_a_holdout_or_with_weights_that_need_none(
    run: Run, run_json: Callable[..., Any], desk: Path, tmp_path: Path
):
    first, less, again = (tmp_path / n for n in ("1.onnx", "2.onnx", "3.onnx"))
    holdout = ("--holdout", desk / "photos")
    files = branch_files(desk)
    assert run("merge", *files, "-o", first, "--weights", "fitted", *holdout)[0] == 0
    code, out, err = run("merge", first, "--remove", "box1", "-o", less)
    assert (code, out) == (2, "")
    assert "expected --holdout IMAGES, or --weights with a rule that needs no images" in err
    assert not less.exists()
    told = run_json("merge", first, "--remove", "box1", "-o", less, *holdout)
    rest = [p for p in files if "box1" not in p.name]
    assert run("merge", *rest, "-o", again, "--weights", "fitted", *holdout)[0] == 0
    assert (told["weights"], less.read_bytes()) == ("fitted", again.read_bytes())
    told = run_json("merge", first, "--remove", "box1", "-o", less, "--weights", "uniform")
    assert (told["weights"], told["holdout"]) == ("uniform", None)


def test_split_gives_the_files_back(
    run: Run, run_json: Callable[..., Any], desk: Path, tmp_path: Path
):
    told = run_json("split", desk / "ensemble.onnx", "-o", tmp_path / "new" / "folder")
    assert [Path(r["file"]).read_bytes() for r in told["files"]] == [
        (desk / "branches" / Path(r["file"]).name).read_bytes() for r in told["files"]
    ]
    assert len(told["files"]) == len(branch_files(desk))
    code, said, _ = run("split", desk / "ensemble.onnx", "-o", tmp_path / "again")
    assert code == 0
    assert said.count("  sha256 ") == len(told["files"])


def test_predict_answers_every_image_and_then_says_what_failed(
    run: Run, run_json: Callable[..., Any], desk: Path, tmp_path: Path
):
    (tmp_path / "bad.png").write_text("no picture")
    told = run_json("predict", desk / "ensemble.onnx", photo(desk), photo(desk, "van"))
    assert [row["image"] for row in told["predictions"]] == [
        str(photo(desk)),
        str(photo(desk, "van")),
    ]
    images = (photo(desk), tmp_path / "bad.png", photo(desk, "car"), tmp_path / "none.png")
    told = run_json("predict", desk / "ensemble.onnx", *images, code=10)
    assert ["error" in row for row in told["predictions"]] == [False, True, False, True]
    code, said, err = run("predict", desk / "ensemble.onnx", *images)
    assert code == 10
    assert len(said.splitlines()) == 2
    lines = err.splitlines()
    assert ["bad.png" in lines[0], "none.png" in lines[1]] == [True, True]
    assert lines[2] == "edge-stl: predict: 2 of 4 images have no answer"


def test_evaluate_measures_a_folder(run: Run, run_json: Callable[..., Any], desk: Path):
    told = run_json("evaluate", desk / "ensemble.onnx", desk / "photos")
    assert told["images"] == 24
    assert len(told["branches"]) == len(branch_files(desk))
    code, said, err = run("evaluate", desk / "ensemble.onnx", desk / "photos")
    assert (code, err) == (0, "")
    assert "24 images: macro accuracy" in said


def test_inspect_tells_kind_and_contents(
    run: Run, run_json: Callable[..., Any], desk: Path, tmp_path: Path
):
    import onnx

    told = run_json("inspect", desk / "ensemble.onnx")
    assert (told["kind"], len(told["branches"])) == ("ensemble", 5)
    assert all("weight" in row for row in told["branches"])
    told = run_json("inspect", branch_files(desk)[0])
    assert (told["kind"], told["classes"]) == ("branch", CLASSES)
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    io = [onnx.helper.make_tensor_value_info(n, 1, [1]) for n in "xy"]
    foreign = onnx.helper.make_model(onnx.helper.make_graph([node], "g", io[:1], io[1:]))
    (tmp_path / "f.onnx").write_bytes(foreign.SerializeToString())
    assert run_json("inspect", tmp_path / "f.onnx")["kind"] == "other"
    code, said, _ = run("inspect", desk / "ensemble.onnx")
    assert code == 0
    assert "3 classes: bus, car, van" in said


@pytest.mark.parametrize("target", ["portable", "jetpack5", "jetpack6", "web", "latest"])
def test_check_is_content_with_what_merge_writes(
    target: str, run: Run, run_json: Callable[..., Any], desk: Path
):
    told = run_json("check", desk / "ensemble.onnx", "--target", target)
    assert told == {"ok": True, "target": target, "findings": []}
    assert "ok for" in run("check", desk / "ensemble.onnx", "--target", target)[1]


def test_check_lists_findings_and_fails(
    run: Run, run_json: Callable[..., Any], desk: Path, tmp_path: Path
):
    (tmp_path / "cut.onnx").write_bytes((desk / "ensemble.onnx").read_bytes()[:-50])
    told = run_json("check", tmp_path / "cut.onnx", code=40)
    assert told["ok"] is False
    assert told["findings"]
    code, said, err = run("check", tmp_path / "cut.onnx")
    assert code == 40
    assert "Fix: " in said
    assert err.count("\n") == 1


# -- train --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_train_writes_its_rows_and_remembers_the_box(
    run: Run, run_json: Callable[..., Any], desk: Path, tmp_path: Path
):
    common = (desk / "plan.toml", desk / "photos", "-o", tmp_path / "out", "--work", tmp_path / "w")
    options = ("--threads", 1, "--epochs", 1, "--branch", "all")
    told = run_json("train", *common, "--box", "cam07", *options)
    assert [row["branch"] for row in told["files"]] == ["a1", "d1"]
    assert {row["epochs"] for row in told["files"]} == {1}
    code, said, err = run("train", *common, *options, "-q")
    assert (code, err) == (0, "")
    for row in told["files"]:
        assert f"{row['file']}  sha256 {row['sha256']}" in said
    again = run_json("train", *common, *options)
    assert [row["resumed"] for row in again["files"]] == [True, True]
    other = run_json("train", *common, *options, "--seed", 5)
    assert other["files"][0]["sha256"] != told["files"][0]["sha256"]
    assert run_json("train", *common, *options, "--seed", 5, "--fresh")["files"] != []
    assert run("train", *common, "--box", "cam08")[0] == 2
    assert run("merge", *(tmp_path / "out").iterdir(), "-o", tmp_path / "e.onnx")[0] == 0


@pytest.mark.slow
def test_cuda_is_refused_where_there_is_none_and_auto_takes_what_there_is(
    run: Run, desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    common = (desk / "plan.toml", desk / "photos", "-o", tmp_path / "out", "--work", tmp_path / "w")
    options = ("--box", "a", "--epochs", 1, "--threads", 1)
    code, _, err = run("train", *common, *options, "--device", "cuda")
    assert code == 20
    assert "torch sees no CUDA device" in err
    assert run("train", *common, *options, "--device", "auto")[0] == 0


STEPPING = """
import sys, time
from edge_stl.cli import main, _output
def training(self, branch, done, total, epoch, loss):
    print("step", file=sys.stderr, flush=True)
    time.sleep(0.1)
_output.ProgressReporter.training = training
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_signal_stops_training_within_seconds_and_the_same_command_goes_on(
    run: Run, desk: Path, tmp_path: Path
):
    """Both Ctrl-C and what systemd sends; five seconds on a machine that does nothing else."""

    def command(name: str) -> list[str]:
        return [
            "train", str(desk / "plan.toml"), str(desk / "photos"), "-o", str(tmp_path / name),
            "--work", str(tmp_path / f"{name}-work"), "--box", "cam07", "--branch", "all",
            "--threads", "1", "--epochs", "8",
        ]  # fmt: skip

    assert run(*command("whole"))[0] == 0
    for number in (signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen(
            [sys.executable, "-c", STEPPING, *command(number.name)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        for _ in range(3):
            assert process.stderr.readline() == "step\n"
        process.send_signal(number)
        began = time.monotonic()
        out, err = process.communicate(timeout=60)
        crowd = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
        assert time.monotonic() - began < 5 * crowd
        assert process.returncode == 30, err
        *steps, last = err.splitlines()
        assert len(steps) <= 2, "it stops after the step it is in"
        assert last.startswith("edge-stl: stopped in branch a1 after ")
        assert last.endswith("The same command goes on there")
        assert out == ""
        assert not list((tmp_path / number.name).iterdir())
        assert run(*command(number.name))[0] == 0
        for path in (tmp_path / "whole").iterdir():
            assert (tmp_path / number.name / path.name).read_bytes() == path.read_bytes()


# -- as a process -------------------------------------------------------------------------------


def process(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edge_stl", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def test_the_module_is_the_command(desk: Path):
    ran = process("inspect", desk / "ensemble.onnx", "--json")
    assert ran.returncode == 0
    assert json.loads(ran.stdout)["kind"] == "ensemble"
    failed = process("inspect", desk / "none.onnx")
    assert (failed.returncode, failed.stdout) == (10, "")
    assert failed.stderr.startswith("edge-stl: ")
    assert failed.stderr.count("\n") == 1


def test_debug_shows_the_traceback_and_the_line(desk: Path):
    failed = process("inspect", desk / "none.onnx", "--debug")
    assert failed.returncode == 10
    assert failed.stderr.startswith("Traceback")
    assert failed.stderr.splitlines()[-1].startswith("edge-stl: ")


def test_a_reader_that_has_enough_hears_no_complaint(desk: Path):
    images = " ".join([str(photo(desk))] * 30)
    line = f"{sys.executable} -m edge_stl predict {desk / 'ensemble.onnx'} {images} | head -1"
    ran = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert ran.stderr == ""
    assert ran.stdout.count("\n") == 1


def test_a_reader_that_is_gone_is_no_error():
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as gone:
        ran = subprocess.run(
            [sys.executable, "-m", "edge_stl", "--help"],
            stdout=gone,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (ran.returncode, ran.stderr) == (0, "")


WITHOUT = """
import importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
        return None
sys.meta_path.insert(0, Absent())
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda n, p=None: None if n.split(".")[0] in {blocked!r} else find(n, p)
from edge_stl.cli import main
import json
codes = []
for arguments in json.loads(sys.argv[1]):
    codes.append(main(arguments))
print(json.dumps(codes))
"""


def without(blocked: set[str], *calls: list[object]) -> tuple[list[int], str]:
    """Run commands in one interpreter that lacks some packages; their codes, and stderr."""
    ran = subprocess.run(
        [
            sys.executable,
            "-c",
            WITHOUT.format(blocked=blocked),
            json.dumps([[str(a) for a in call] for call in calls]),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1]), ran.stderr


def test_a_desk_without_torch_does_all_but_train(desk: Path, tmp_path: Path):
    e = tmp_path / "e.onnx"
    codes, err = without(
        {"torch", "matplotlib", "sklearn"},
        ["merge", *branch_files(desk), "-o", e, "-q"],
        ["merge", e, "--remove", "box1", "-o", tmp_path / "less.onnx", "-q"],
        [
            "merge",
            e,
            "--remove",
            "box1",
            "-o",
            tmp_path / "fit.onnx",
            "-q",
            "--weights",
            "fitted",
            "--holdout",
            desk / "photos",
        ],
        ["split", e, "-o", tmp_path / "split"],
        ["inspect", e],
        ["check", e],
        ["predict", e, photo(desk)],
        ["evaluate", e, desk / "photos"],
        ["plan", "show", desk / "plan.toml"],
    )
    assert (codes, err) == ([0] * 9, "")
    assert e.read_bytes() == (desk / "ensemble.onnx").read_bytes()
    train = ["train", desk / "plan.toml", desk / "photos", "-o", tmp_path / "o", "--box", "a"]
    work = ["--work", tmp_path / "w"]
    simulate = ["simulate", desk / "plan.toml", desk / "photos", "-o", tmp_path / "s"]
    codes, err = without({"torch"}, [*train, *work], [*train, *work, "--device", "auto"], simulate)
    assert codes == [2, 2, 2]
    assert err.count("pip install 'edge-stl[train]'") == 3
    assert err.count("\n") == 3
    assert not (tmp_path / "w").exists()


def test_a_missing_runtime_says_which_extra_brings_it(desk: Path, tmp_path: Path):
    codes, err = without(
        {"onnxruntime", "torch"},
        ["predict", desk / "ensemble.onnx", photo(desk)],
        ["evaluate", desk / "ensemble.onnx", desk / "photos"],
        ["merge", *branch_files(desk), "-o", tmp_path / "e.onnx"],
        ["check", desk / "ensemble.onnx"],
    )
    assert codes == [2, 2, 2, 2]
    extras = [line.split("edge-stl[")[1] for line in err.splitlines()]
    assert extras == ["predict]'", "predict]'", "merge]'", "merge]'"]
    fit = ["--weights", "fitted", "--holdout", desk / "photos"]
    codes, err = without(
        {"scipy"},
        ["merge", *branch_files(desk), "-o", tmp_path / "e.onnx", *fit],
        ["merge", *branch_files(desk), "-o", tmp_path / "e.onnx", "-q"],
    )
    assert codes == [2, 0]
    assert err == "edge-stl: fitting weights needs scipy: pip install 'edge-stl[merge]'\n"
    codes, err = without({"onnx"}, ["split", desk / "ensemble.onnx", "-o", tmp_path / "s"])
    assert codes == [2]
    assert "needs onnx: pip install 'edge-stl[merge]'" in err
    codes, err = without({"onnx"}, ["predict", desk / "ensemble.onnx", photo(desk)])
    assert (codes, err) == ([0], "")

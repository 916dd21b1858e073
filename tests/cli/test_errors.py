"""A wrong call is one line on stderr, nothing on stdout, and the documented exit code."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from device_agent.work import WorkFolder
from edge_stl.cli import main
from edge_stl.errors import DataError
from edge_stl.plan import new_plan, plan_toml


CLASSES = ["bus", "car", "van"]
PLAN = new_plan(classes=CLASSES, resolution=16, levels=1, network="mlp-s", epochs=1)


@pytest.fixture(scope="module")
def here(
    fabricate: Callable[..., bytes],
    fabricate_fleet: Callable[..., list[Path]],
    pictures: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A folder with good and bad things of every kind."""
    folder = tmp_path_factory.mktemp("here")
    (folder / "plan.toml").write_text(plan_toml(PLAN))
    text = plan_toml(PLAN)
    (folder / "typo.toml").write_text(text.replace("resolution", "resolutoin"))
    (folder / "odd.toml").write_text(text.replace("resolution = 16", "resolution = 17"))
    (folder / "broken.toml").write_text("format = ")
    pictures(folder / "photos", CLASSES, count=4)
    pictures(folder / "trams", [*CLASSES, "tram"], count=1)
    pictures(folder / "small", CLASSES, count=2, side=4)
    pictures(folder / "coarse", CLASSES, count=4, side=8)
    (folder / "empty").mkdir()
    (folder / "file").write_text("hello")
    files = fabricate_fleet(PLAN, folder / "branches")
    other = new_plan(classes=CLASSES, resolution=16, levels=1, network="mlp-s", epochs=2)
    (folder / "other.onnx").write_bytes(fabricate(other, "a1", box="box7"))
    assert main(["merge", *map(str, files), "-o", str(folder / "e.onnx"), "-q"]) == 0
    data = bytearray((folder / "e.onnx").read_bytes())
    at = data.rindex(b"d1.box0/2.weight") + 400
    data[at] ^= 1
    (folder / "tampered.onnx").write_bytes(data)
    early = onnx.load(folder / "e.onnx")
    (prop,) = [p for p in early.metadata_props if p.key == "edge_stl.ensemble"]
    prop.value = re.sub(r'"weights":\[[^]]*\]', '"weight":0.2', prop.value)
    (folder / "early.onnx").write_bytes(early.SerializeToString())
    return folder


TRAIN = ["train", "plan.toml", "photos", "-o", "out", "--work", "w"]
NEW = ["plan", "new", "--resolution", "16", "-o", "new.toml", "--classes"]
SIM = ["simulate", "plan.toml", "photos", "-o", "sim"]
FIT = ["merge", "branches/a1.box0.onnx", "-o", "y", "--weights", "fitted", "--holdout"]
CALLS: list[tuple[int, list[str], str]] = [
    # 2: wrong use
    (2, ["fly"], "No such command 'fly'"),
    (2, ["merge"], "Missing"),
    (2, ["merge", "x.onnx"], "Missing option"),
    (2, ["merge", "x.onnx", "-o", "y", "--weights", "magic"], "'magic' is not one of"),
    (2, ["merge", "x.onnx", "-o", "y", "--layout", "hwc"], "'hwc' is not one of"),
    (2, ["merge", "branches/a1.box0.onnx", "-o", "y", "--weights", "plan"], "declares no weights"),
    (2, ["merge", "branches/a1.box0.onnx", "-o", "y", "--weights", "fitted"],
     "expected --holdout IMAGES"),
    (2, ["merge", "branches/a1.box0.onnx", "-o", "y", "--cascade"],
     "--cascade: nothing says how sure a coarse answer must be; expected --holdout IMAGES"),
    (2, ["merge", "branches/a1.box0.onnx", "-o", "y", "--threshold", "0.5"],
     "--threshold: is for a cascade; expected --cascade beside it"),
    (2, ["merge", "branches/a1.box0.onnx", "-o", "y", "--cascade", "--threshold", "2"],
     "--threshold 2.0: is no share; expected a number from 0 to 1"),
    (2, ["merge", "branches/a1.box0.onnx", "-o", "y", "--cascade", "--threshold", "0.5"],
     "so none is finer than the others; expected branches that need two resolutions"),
    (2, ["predict", "e.onnx", "photos/bus/000.png", "--threshold", "0.5"], "e.onnx is no cascade"),
    (2, ["evaluate", "e.onnx", "photos", "--threshold", "0.5"], "e.onnx is no cascade"),
    (2, ["merge", "branches/a1.box0.onnx", "-o", "y", "--keep", "box0"],
     "--keep box0: nothing speaks against any box; expected --holdout IMAGES"),
    (2, ["merge", "branches/a1.box0.onnx", "-o", "y", "--holdout", "photos", "--keep", "box7"],
     "--keep box7: no such box here; expected one of box0"),
    (2, ["merge", "e.onnx", "other.onnx", "--remove", "box1", "-o", "y"], "exactly one ensemble"),
    (2, ["merge", "e.onnx", "--remove", "box9", "-o", "y"], "neither a box nor a branch"),
    (2, ["merge", "e.onnx", "-o", "y", "--remove", "box0", "--remove", "box1", "--remove", "box2"],
     "leaves no branch"),
    (2, ["check", "e.onnx", "--target", "moon"], "'moon' is not one of"),
    (2, ["predict", "e.onnx"], "1 path; expected an ensemble file and image files"),
    (2, ["predict", "e.onnx", "file", "--threads", "-1"], "-1 is not in the range"),
    (2, ["evaluate", "e.onnx"], "1 path; expected an ensemble file and one folder"),
    (2, ["plan", "grow"], "No such command"),
    (2, ["plan", "show", "none.toml"], "cannot be read (No such file or directory)"),
    (2, ["plan", "show", "typo.toml"], "unknown key"),
    (2, ["plan", "show", "odd.toml"], "17 is not divisible by 2"),
    (2, ["plan", "show", "broken.toml"], "not a TOML file"),
    (2, ["plan", "show", "photos"], "Is a directory"),
    (2, [*NEW, "a"], "classes"),
    (10, [*NEW, "no/folder"], "--classes no/folder: there is no such file or folder"),
    (2, [*NEW, "a,a"], "stand more than once"),
    (2, [*NEW, "a,b", "--transform", "har"], "haar"),
    (2, [*NEW, "a,b", "--transform", "dct:3"], "size 2, 4 or 8"),
    (2, [*NEW, "a,b", "--transform", "dct:4", "--levels", "3"], "--levels 3"),
    (2, [*NEW, "a,b", "--transform", "stl-dct:1"], "stl-dct has size 2 to 9"),
    (2, [*NEW, "a,b", "--transform", "stl-dft:10"], "stl-dft has size 2 to 9"),
    (2, [*NEW, "a,b", "--transform", "stl-dct"], "--transform stl-dct"),
    (2, [*NEW, "a,b", "--transform", "stl-dct:3"], "16 is not divisible by 3"),
    (2, [*NEW, "a,b", "--transform", "stl-dct:4", "--levels", "2"], "--levels 2"),
    (2, [*NEW, "a,b", "--transform", "stl-dct:4", "--branches", "detail"], "has no levels"),
    (2, [*NEW, "a,b", "--transform", "stl-dft:4", "--branches", "context"], "single and all"),
    (2, [*NEW, "a,b", "--network", "resnet"], "'resnet' is not a network"),
    (2, [*NEW, "a,b", "--channels", "2"], "channels"),
    (2, [*NEW, "a,b", "--levels", "9"], "levels"),
    (2, [*NEW, "a,b", "-o", "plan.toml"], "a plan is never changed"),
    (2, [*TRAIN], "--box is needed on the first run"),
    (2, [*TRAIN, "--box", "Cam 7"], "--box 'Cam 7'"),
    (2, [*TRAIN, "--box", "a", "--branch", "d9"], "--branch d9"),
    (2, [*TRAIN, "--box", "a", "--epochs", "0"], "0 is not in the range"),
    (2, [*TRAIN[:5], "--work", "out/w", "--box", "a"], "one is inside the other"),
    (2, ["train", "none.toml", "photos", "-o", "out", "--box", "a"], "cannot be read"),
    (2, [*SIM, "--resolutions", "5"], "--resolutions 5"),
    (2, [*SIM, "--resolutions", "a,b"], "expected numbers with commas"),
    (2, [*SIM, "--boxes", "0"], "0 is not in the range"),
    (2, [*SIM, "--boxes", "2", "--repeat", "2"], "--boxes 2 --repeat 2: both say how many boxes"),
    (2, [*SIM, "--repeat", "0"], "0 is not in the range"),
    (2, [*SIM, "--engine", "spark"], "'spark' is not one of"),
    (2, [*SIM, "--ray-address", "auto"], "--ray-address auto: is for --engine ray"),
    (2, [*SIM, "--weights", "fitted"], "'fitted' is not one of"),
    (2, [*SIM, "--split", "even"], "--split even: is no split; expected iid, dirichlet:A"),
    (2, [*SIM, "--split", "classes:9"], "there are training images of 3 classes; expected K from"),
    (2, [*SIM, "--split", "classes:2", "--boxes", "1"], "there is room for 2 of 3 classes"),
    (2, [*SIM, "--share", "some"], "'some' is not one of"),
    (2, [*SIM, "--share", "all", "--split", "classes:2"], "where every box sees every image"),
    (2, [*SIM, "--camera", "jpeg:0"], "--camera jpeg:0: is no camera; expected box, bilinear"),
    (2, ["simulate", "plan.toml", "photos", "-o", "photos"], "is not empty"),
    # 10: data
    (10, ["predict", "none.onnx", "file"], "there is no such file"),
    (10, ["predict", "file", "file"], "is not an ONNX file, or is truncated"),
    (10, ["predict", "branches/a1.box0.onnx", "file"], "not an ensemble of edge-stl"),
    (10, ["predict", "e.onnx", "file"], "is not an image"),
    (10, ["predict", "e.onnx", "small/bus/000.png"], "images are never enlarged"),
    (10, ["evaluate", "e.onnx", "empty"], "holds no image"),
    (10, ["evaluate", "e.onnx", "nowhere"], "nowhere"),
    (10, ["evaluate", "e.onnx", "trams"], "tram: not a class of the plan"),
    (10, ["evaluate", "e.onnx", "small"], "no image can be used"),
    (10, ["inspect", "file"], "is not an ONNX file"),
    (10, ["inspect", "photos"], "not a regular file"),
    (10, ["check", "none.onnx"], "there is no such file"),
    (10, ["split", "branches/a1.box0.onnx", "-o", "s"], "is a branch file; expected an ensemble"),
    (10, ["split", "file", "-o", "s"], "is not an ONNX file"),
    (10, ["merge", "file", "--remove", "a", "-o", "y"], "is not an ONNX file"),
    (10, [*FIT, "photos"], "a holdout of 12 readable images of 3 classes; expected at least 20"),
    (10, [*FIT, "small"], "no image can be used"),
    (10, [*FIT, "trams"], "tram: not a class of the plan"),
    (10, [*FIT, "nowhere"], "nowhere"),
    (10, ["plan", "show", "plan.toml", "--image", "file", "-o", "b.png"], "is not an image"),
    (10, [*NEW, "empty"], "names no class"),
    (10, ["train", "plan.toml", "trams", "-o", "out", "--work", "w", "--box", "a"], "tram"),
    (10, ["train", "plan.toml", "small", "-o", "out", "--work", "w", "--box", "a"], "only 0 of 6"),
    (10, ["train", "plan.toml", "coarse", "-o", "out", "--work", "w", "--box", "a", "--branch",
          "d1"], "reach 8 px"),
    (10, ["simulate", "plan.toml", "empty", "-o", "sim"], "holds no image"),
    # 20: machine or resources
    (20, ["merge", "branches/a1.box0.onnx", "-o", "nowhere/e.onnx", "-q"], "cannot be written"),
    (20, ["split", "e.onnx", "-o", "file/s"], "cannot be made"),
    (20, ["train", "plan.toml", "photos", "-o", "file/out", "--work", "w", "--box", "a"],
     "cannot be made"),
    # 40, 50, 60
    (40, ["check", "tampered.onnx"], "finding for target portable"),
    (40, ["check", "file"], "1 finding for target portable"),
    (50, ["merge", "branches/a1.box0.onnx", "branches/a1.box1.onnx", "other.onnx", "-o", "y"],
     "1 of 3 files refused"),
    (50, ["merge", "file", "-o", "y"], "no file may be merged"),
    (50, ["merge", "e.onnx", "-o", "y"], "is an ensemble; expected a branch file"),
    (50, ["merge", "e.onnx", "--add", "other.onnx", "-o", "y"], "other.onnx"),
    (60, ["split", "tampered.onnx", "-o", "s"], "comes back as"),
    (60, ["merge", "tampered.onnx", "--remove", "box1", "-o", "y"], "comes back as"),
    (60, ["inspect", "tampered.onnx"], "comes back as"),
    (60, ["split", "early.onnx", "-o", "s"], "early.onnx: was merged by an earlier version"),
    (60, ["merge", "early.onnx", "--remove", "box1", "-o", "y"], "Merge its branch files again"),
    (60, ["inspect", "early.onnx"], "one weight for all classes; expected one per class"),
    (40, ["check", "early.onnx"], "early.onnx: 1 finding for target portable"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("code", "arguments", "said"), CALLS, ids=[f"{c}-{' '.join(a)}" for c, a, _ in CALLS]
)
def test_a_wrong_call_is_one_line_and_its_exit_code(
    code: int,
    arguments: list[str],
    said: str,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(here)
    before = {p.name for p in here.iterdir()}
    got = main(arguments)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert got == code, err
    assert len(lines) == 1, err
    assert lines[0].startswith("edge-stl: ")
    assert said in lines[0]
    assert "Traceback" not in err
    if code != 40:
        assert out == ""
    made = {p.name for p in here.iterdir()} - before
    assert made <= {"out", "w"}, "a refused call leaves no file"


def test_a_work_folder_in_use_is_exit_20(
    here: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    call = ["train", str(here / "plan.toml"), str(here / "photos"), "-o", str(tmp_path / "out")]
    with WorkFolder(tmp_path / "w", "a"):
        assert main([*call, "--work", str(tmp_path / "w"), "--box", "a"]) == 20
    assert "another agent is working here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (RuntimeError("boom\nsecond line"), 1, "unexpected RuntimeError: boom. Run again with"),
        (RuntimeError(), 1, "unexpected RuntimeError: no message."),
        (MemoryError(), 20, "out of memory"),
        (DataError("two\nlines"), 10, "two lines"),
        (KeyboardInterrupt(), 30, "stopped; the same command starts again"),
        (PermissionError(13, "Permission denied"), 1, "unexpected PermissionError"),
    ],
)
def test_the_last_door_turns_anything_into_one_line(
    error: BaseException,
    code: int,
    said: str,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("exporter.inspect.inspect_path", fail)
    assert main(["inspect", str(here / "e.onnx")]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith(f"edge-stl: {said}")


@pytest.mark.parametrize("arguments", [[], ["plan"]])
def test_no_command_is_answered_with_the_help(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
):
    main(arguments)
    out, err = capsys.readouterr()
    assert "Usage: edge-stl" in out
    assert "Traceback" not in err

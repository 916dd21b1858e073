"""A fleet on one machine: the real agent in processes of its own, one ensemble, honest scores."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_stl.cli import main
from edge_stl.errors import EdgeStlError, Interrupted, ResourceError, UsageError
from edge_stl.fleet import _task
from edge_stl.fleet._boxes import Box, train_boxes
from edge_stl.fleet._settings import box_count
from edge_stl.fleet._simulate import centralized_plan
from edge_stl.plan import new_plan, plan_from_document, plan_toml
from exporter.merge import merge_paths
from exporter.options import Options
from exporter.read import read_branch


pytestmark = pytest.mark.slow
CLASSES = ["bus", "car", "van"]


@pytest.fixture(scope="module")
def fleet(pictures: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fleet")
    plan = new_plan(classes=CLASSES, resolution=16, levels=1, network="mlp-s", epochs=9)
    (folder / "plan.toml").write_text(plan_toml(plan))
    pictures(folder / "photos", CLASSES, count=20)
    return folder


Call = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def simulate(fleet: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    def call(*options: str) -> tuple[int, Any, str]:
        capsys.readouterr()
        code = main(
            ["simulate", str(fleet / "plan.toml"), str(fleet / "photos"), "-o", str(fleet / "run"),
             "--boxes", "2", "--json", "--jobs", "2", *options]
        )  # fmt: skip
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else None, err

    return call


def test_a_whole_fleet_and_again_and_otherwise(
    simulate: Call, fleet: Path, assert_schema: Callable[[Any, str], None]
):
    """Train, rerun in the same folder, and refuse other settings there."""
    code, told, err = simulate("--epochs", "1", "--centralized")
    assert (code, err) == (0, "")
    assert_schema(told, "simulate")
    (seed,) = told["seeds"]
    assert [(r["box"], r["branch"], r["native_resolution"]) for r in seed["boxes"]] == [
        ("box01", "a1", 8),
        ("box02", "d1", 16),
    ]
    # 60 images: a fifth of each class is for the test, a tenth of the rest of each for validation
    assert sum(r["images"] for r in seed["boxes"]) <= 48
    assert seed["training_bytes"] == 0
    assert seed["centralized"]["images"] > max(r["images"] for r in seed["boxes"])
    assert told["mean"]["accuracy"] == seed["ensemble"]["accuracy"]
    best = max(r["accuracy"] for r in seed["boxes"])
    assert told["mean"]["best_box"] == best
    assert told["mean"]["gain"] == pytest.approx(seed["ensemble"]["accuracy"] - best)
    std = dict(told["std"])
    for row in [*std.pop("resolutions"), std]:
        assert {v for k, v in row.items() if k != "resolution"} == {0.0}
    run = fleet / "run"
    assert json.loads((run / "results.json").read_text()) == told
    files = sorted((run / "seed0" / "branches").iterdir())
    assert [p.name for p in files] == ["a1.box01.onnx", "d1.box02.onnx"]
    for path, row in zip(files, seed["boxes"], strict=True):
        assert path.stat().st_size == row["bytes"]
        assert read_branch(path).manifest.training.epochs == 1
    ensemble = (run / "seed0" / "ensemble.onnx").read_bytes()
    assert ensemble == merge_paths(files, options=Options()).model
    assert len(ensemble) == seed["ensemble"]["bytes"]
    dealt = [{p.read_bytes() for p in (run / "seed0" / "boxes" / b).rglob("*.png")} for b in
             ("box02", "centralized")]  # fmt: skip
    tested = {p.read_bytes() for p in (run / "seed0" / "test").rglob("*.png")}
    assert len(tested) == 12
    assert (len(dealt[0]), len(dealt[1])) == (24, 48)
    assert not tested & (dealt[0] | dealt[1])

    code, again, err = simulate("--epochs", "1")
    assert (code, err) == (0, "")
    assert again["seeds"] == [{**seed, "centralized": None}]

    # what the folders of versions without --split, --share and --camera say
    assert set(json.loads((run / "simulation.json").read_text())) == {
        "plan", "images", "test", "boxes", "resolutions", "branch", "weights", "epochs",
    }  # fmt: skip
    code, again, err = simulate(
        "--epochs", "1", "--split", "iid", "--share", "disjoint", "--camera", "box"
    )
    assert (code, err) == (0, "")

    code, nothing, err = simulate("--epochs", "2")
    assert (code, nothing) == (2, None)
    assert "holds a simulation with other settings or images. Choose another -o" in err


def test_centralized_is_the_same_network_on_the_whole_image():
    plan = new_plan(classes=CLASSES, resolution=16, transform="dct:4", network="cnn-s")
    document = plan.to_document() | {"fusion": {"weights": {"a2": 1.0}}}
    central = centralized_plan(plan_from_document(document, where="test"))
    assert [(b.bands, b.network) for b in central.branches] == [(("cA0",), "cnn-s")]
    assert central.band_size(central.branches[0]) == 16
    assert central.fusion.weights is None
    assert (central.training, central.augment, central.input) == (
        plan.training,
        plan.augment,
        plan.input,
    )


FAILING: list[tuple[str, str, type[Exception], int, str]] = [
    ("sys.exit(10)", "edge-stl: images: none can be read", EdgeStlError, 10,
     "^box b: images: none can be read$"),
    ("sys.exit(30)", "note\nedge-stl: stopped in branch x", Interrupted, 30,
     "^box b: stopped in branch x$"),
    ("os.kill(os.getpid(), 15)", "", Interrupted, 30, "^box b: stopped$"),
    ("os.kill(os.getpid(), 9)", "", ResourceError, 20,
     "^box b: its process was killed by signal 9 3 times; expected it to end by itself"),
    ("sys.exit(1)", "", EdgeStlError, 1, "^box b: exit code 1$"),
]  # fmt: skip


@pytest.mark.parametrize(("end", "err", "kind", "exit_code", "said"), FAILING)
def test_what_a_box_says_when_it_fails_is_passed_on(
    end: str,
    err: str,
    kind: type[Exception],
    exit_code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
):
    program = f"import os, sys; print({err!r}, file=sys.stderr, flush=True); {end}"
    monkeypatch.setattr(_task, "_AGENT", ("-c", program))
    box = Box(name="b", images=tmp_path, out=tmp_path, work=tmp_path / "w")
    with pytest.raises(kind, match=said) as caught:
        train_boxes(tmp_path / "plan.toml", [box], jobs=1)
    assert getattr(caught.value, "exit_code", None) == exit_code


def test_when_a_box_fails_those_that_train_are_asked_to_stop_and_the_others_never_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(_task, "_AGENT", (str(Path(__file__).with_name("stand_in_agent.py")),))
    boxes = [
        Box(name=name, images=tmp_path, out=tmp_path / "out", work=tmp_path / name)
        for name in ("ok-1", "long-1", "bad-1", "ok-2")
    ]
    with pytest.raises(EdgeStlError, match=r"^box bad-1: cam: no image can be read$"):
        train_boxes(tmp_path / "plan.toml", boxes, jobs=2)
    assert (tmp_path / "long-1" / "checkpoint").exists()
    assert (tmp_path / "ok-1" / "starts").exists()
    assert not (tmp_path / "ok-2").exists()


def test_repeat_counts_the_boxes_of_every_resolution():
    plan = new_plan(classes=CLASSES, resolution=16, levels=1, network="mlp-s")
    assert box_count(plan, (), boxes=None, repeat=None) == 3
    assert box_count(plan, (), boxes=5, repeat=None) == 5
    assert box_count(plan, (), boxes=None, repeat=3) == 6
    assert box_count(plan, (16, 8, 16), boxes=None, repeat=2) == 6
    with pytest.raises(UsageError, match="--boxes 4 --repeat 2: both say how many boxes there are"):
        box_count(plan, (), boxes=4, repeat=2)

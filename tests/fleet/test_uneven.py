"""Fleets as they are, by the command line: uneven boxes, other cameras, shared images."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edge_stl.cli import main
from edge_stl.plan import new_plan, plan_toml
from exporter.read import read_branch


pytestmark = pytest.mark.slow
CLASSES = ["bus", "car", "van"]


@pytest.fixture(scope="module")
def fleet(pictures: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fleet")
    plan = new_plan(classes=CLASSES, resolution=16, levels=1, network="mlp-s", epochs=2)
    (folder / "plan.toml").write_text(plan_toml(plan))
    pictures(folder / "photos", CLASSES, count=20)
    return folder


Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def simulate(fleet: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    def call(out: str, *options: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(
            ["simulate", str(fleet / "plan.toml"), str(fleet / "photos"), "-o", str(fleet / out),
             "--jobs", "2", *options]
        )  # fmt: skip
        told = capsys.readouterr()
        return code, told.out, told.err

    return call


def test_uneven_boxes_with_other_cameras(
    simulate: Call,
    fleet: Path,
    assert_schema: Callable[[Any, str], None],
    capsys: pytest.CaptureFixture[str],
):
    """Run them, ask again, remove a box for real, and refuse other settings in the folder."""
    options = ["--split", "classes:2", "--camera", "jpeg:40"]
    code, out, err = simulate("uneven", *options, "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert_schema(told, "simulate")
    assert told["settings"] == {
        "boxes": 3, "resolutions": [8, 16], "split": "classes:2", "share": "disjoint",
        "camera": "jpeg:40",
    }  # fmt: skip
    (seed,) = told["seeds"]
    first = fleet / "uneven" / "seed0"
    dealt = []
    for row in seed["boxes"]:
        counts = row["class_images"]
        assert list(counts) == CLASSES
        assert sum(counts.values()) == row["images"]
        held = {name for name, count in counts.items() if count}
        files = sorted(p for p in (first / "boxes" / row["box"]).rglob("*") if p.is_file())
        assert {p.parent.name for p in files} == held
        assert len(held) == 2
        assert {p.suffix for p in files} == {".jpg" if row["native_resolution"] == 8 else ".png"}
        dealt += [p.stem for p in files]
        manifest = read_branch(first / "branches" / f"{row['branch']}.{row['box']}.onnx").manifest
        assert list(manifest.images.train) == list(counts.values())
    assert sorted(dealt) == sorted({*dealt})
    assert len(dealt) == 48
    with Image.open(next((first / "boxes" / "box01").rglob("*.jpg"))) as image:
        assert (image.format, image.size) == ("JPEG", (8, 8))

    assert [row["box"] for row in seed["without"]] == ["box01", "box02", "box03"]
    less = str(fleet / "less.onnx")
    assert main(["merge", str(first / "ensemble.onnx"), "--remove", "box02", "-o", less]) == 0
    capsys.readouterr()
    assert main(["evaluate", less, str(first / "test"), "--json"]) == 0
    real = json.loads(capsys.readouterr().out)
    row = seed["without"][1]
    assert row["accuracy"] == pytest.approx(real["accuracy"], abs=1e-9)
    assert row["macro_accuracy"] == pytest.approx(real["macro_accuracy"], abs=1e-9)
    assert row["cost"] == pytest.approx(seed["ensemble"]["accuracy"] - real["accuracy"], abs=1e-9)

    code, out, err = simulate("uneven", *options)
    assert (code, err) == (0, "")
    header, *lines = out.splitlines()
    assert header.rstrip().endswith("accuracy  without it")
    for line, row in zip(lines, seed["without"], strict=False):
        assert line.startswith(row["box"])
        assert line.rstrip().endswith(f"{100 * row['accuracy']:.2f} %")
    scores = seed["ensemble"]
    assert (
        f"ensemble: macro accuracy {100 * scores['macro_accuracy']:.2f} %, log-loss "
        f"{scores['log_loss']:.3f}, ECE {scores['ece']:.3f}"
    ) in lines
    assert json.loads((fleet / "uneven" / "results.json").read_text()) == told

    for other in (options[:2], options[2:], [*options[2:], "--split", "classes:3"],
                  [*options[2:], "--share", "all"]):  # fmt: skip
        code, out, err = simulate("uneven", *other)
        assert (code, out) == (2, "")
        assert "holds a simulation with other settings or images. Choose another -o" in err


def test_all_boxes_see_all_images_each_at_its_own_resolution(simulate: Call, fleet: Path):
    code, out, err = simulate(
        "shared", "--share", "all", "--boxes", "3", "--resolutions", "16,8,16", "--json"
    )
    assert (code, err) == (0, "")
    (seed,) = json.loads(out)["seeds"]
    first = fleet / "shared" / "seed0"
    names, networks = set(), set()
    for row in seed["boxes"]:
        files = sorted((first / "boxes" / row["box"]).rglob("*.png"))
        names.add(tuple(p.name for p in files))
        assert len(files) == 48
        with Image.open(files[0]) as image:
            assert image.size == (row["native_resolution"],) * 2
        file = read_branch(first / "branches" / f"{row['branch']}.{row['box']}.onnx")
        assert row["images"] + sum(file.manifest.images.validation) == 48
        networks.add(np.concatenate([v.ravel() for v in file.parameters.values()]).tobytes())
    assert len(names) == 1
    assert len(networks) == 3, "two boxes with the same images made the same network"

    code, out, _ = simulate("shared", "--share", "all", "--resolutions", "16,8,16")
    (ensemble,) = [line.split() for line in out.splitlines() if line.startswith("ensemble  ")]
    assert ensemble[1] == str(max(row["images"] for row in seed["boxes"]))


def test_a_split_that_cannot_be_is_refused_before_anything_is_written(simulate: Call, fleet: Path):
    code, out, err = simulate("never", "--split", "dirichlet:0.001", "--boxes", "9")
    assert (code, out) == (2, "")
    assert "--split dirichlet:0.001: in 1000 draws of 48 images for 9 boxes" in err
    assert len(err.splitlines()) == 1
    assert not (fleet / "never").exists()

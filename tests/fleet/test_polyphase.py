"""A fleet under one of the paper's transforms, and the pictures of it."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edge_stl.bands import bank
from edge_stl.cli import main
from edge_stl.fleet._bands_picture import bands_picture
from edge_stl.fleet._deal import default_resolutions
from edge_stl.fleet._simulate import centralized_plan
from edge_stl.fleet._votes_picture import votes_picture
from edge_stl.plan import new_plan, plan_toml
from edge_stl.predict import Ensemble
from exporter.merge import merge_paths
from exporter.options import Options


CLASSES = ["bus", "car", "van"]


def decoded(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as picture:
        return np.asarray(picture.convert("RGB"))


def test_boxes_get_the_plan_s_own_resolution_alone():
    plan = new_plan(classes=CLASSES, resolution=24, transform="stl-dct:4")
    assert list(default_resolutions(plan)) == [24]


def test_centralized_is_the_whole_image_under_these_transforms_too():
    plan = new_plan(classes=CLASSES, resolution=24, transform="stl-dct:4", network="cnn-8-half")
    central = centralized_plan(plan)
    assert [(b.bands, b.network) for b in central.branches] == [(("cA0",), "cnn-8-half")]
    assert central.band_size(central.branches[0]) == 24


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("transform", ["stl-dct:2", "stl-dct:4", "stl-dft:4", "stl-dft:3"])
def test_the_bands_fill_the_square_of_their_picture_row_by_row(transform: str, channels: int):
    """An image made of one band alone lights up that band's tile, and the first is an average."""
    b = int(transform[-1])
    plan = new_plan(classes=CLASSES, resolution=8 * b, channels=channels, transform=transform)
    edge = 8 * -(-512 // (8 * b))  # pixels of a tile on the canvas
    left, top = b * edge + 8, 18
    names = plan.bank.bands()

    def tiles(unit: np.ndarray) -> list[np.ndarray]:
        pixels = np.repeat((unit * 255).round().astype(np.uint8)[:, :, None], channels, axis=2)
        canvas = decoded(bands_picture(plan, pixels))
        corners = [(top + edge * row, left + edge * col) for row in range(b) for col in range(b)]
        return [canvas[y : y + edge - 1, x : x + edge - 1] for y, x in corners]

    first, *others = tiles(np.full((8 * b, 8 * b), 0.8))
    assert np.median(first) == 204
    assert {float(np.median(tile)) for tile in others} <= {127.0, 128.0}
    chequered = np.indices((8, 8)).sum(axis=0) % 2 - 0.5
    for i, name in enumerate(names[1:], start=1):
        alone = bank(plan.bank).synthesize({name: chequered})
        shown = tiles(0.5 + 0.45 * alone / np.abs(alone).max())
        # below the label; what rounding leaves in the other bands stays within half the range
        spread = [int(np.ptp(tile[edge // 4 :].astype(int))) for tile in shown]
        assert spread[i] >= 250, name
        assert max(s for j, s in enumerate(spread) if j != i) <= 200, name


def test_a_box_s_votes_are_drawn(
    fabricate: Callable[..., bytes], pictures: Callable[..., Path], tmp_path: Path
):
    plan = new_plan(classes=CLASSES, resolution=8, transform="stl-dct:4", network="mlp-s")
    paths = []
    for i, branch in enumerate(plan.branches):
        paths.append(tmp_path / f"{branch.name}.onnx")
        paths[-1].write_bytes(fabricate(plan, branch.name, seed=i))
    (tmp_path / "e.onnx").write_bytes(merge_paths(paths, options=Options()).model)
    test = pictures(tmp_path / "test", CLASSES, count=3, side=8)
    pixels = decoded(votes_picture(plan, Ensemble(tmp_path / "e.onnx"), test))
    assert pixels.shape[1] > 800
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50


@pytest.fixture(scope="module")
def here(pictures: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("polyphase")
    plan = new_plan(
        classes=CLASSES, resolution=16, transform="stl-dct:2", network="mlp-s", epochs=1
    )
    (folder / "plan.toml").write_text(plan_toml(plan))
    pictures(folder / "photos", CLASSES, count=10)
    pictures(folder / "coarse", CLASSES, count=10, side=8)
    return folder


Call = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def simulate(here: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    def call(images: str, *options: str) -> tuple[int, Any, str]:
        capsys.readouterr()
        code = main(
            ["simulate", str(here / "plan.toml"), str(here / images), "-o", str(tmp_path / "run"),
             "--boxes", "2", "--json", "--jobs", "2", *options]
        )  # fmt: skip
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else None, err

    return call


@pytest.mark.slow
def test_a_fleet_of_fine_boxes_trains_every_band(
    simulate: Call, assert_schema: Callable[[Any, str], None]
):
    code, told, err = simulate("photos")
    assert (code, err) == (0, "")
    assert_schema(told, "simulate")
    (seed,) = told["seeds"]
    assert [(r["box"], r["branch"], r["native_resolution"]) for r in seed["boxes"]] == [
        (box, f"p0{u}", 16) for box in ("box01", "box02") for u in range(4)
    ]


def test_a_coarser_box_is_no_box_of_such_a_plan(simulate: Call):
    code, told, err = simulate("photos", "--resolutions", "8,16")
    assert (code, told) == (2, None)
    assert err == "edge-stl: --resolutions 8: a box of this plan has one of 16\n"


@pytest.mark.slow
def test_images_coarser_than_the_plan_are_refused_in_one_line(simulate: Call):
    code, told, err = simulate("coarse")
    assert (code, told) == (10, None)
    assert err.count("\n") == 1
    assert "images: only 0 of 12 reach 16 px on their fitted side" in err

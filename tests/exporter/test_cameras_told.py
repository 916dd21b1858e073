"""From a box's images to a warning at the desk: what is published, printed, and left unsaid."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from PIL import Image

from device_agent.branch_file import finish_branch
from edge_stl.bands import resampling, sharpness
from edge_stl.branch import Settings, Trainer
from edge_stl.cli import main
from edge_stl.plan import Plan, new_plan
from exporter.cameras import desk_sharpness
from exporter.manifest import Camera
from exporter.read import branch_from_bytes


CLASSES = ["bus", "car"]
PLAN = new_plan(classes=CLASSES, resolution=32, levels=1, network="mlp-s", epochs=1)


def scenes(count: int, side: int = 32, seed: int = 0) -> NDArray[np.uint8]:
    """Return random pictures with a 1/f spectrum, as natural ones have, twice as fine first."""
    rng = np.random.default_rng(seed)
    rows, cols = np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side), indexing="ij")
    fall = 1 / np.maximum(np.hypot(rows, cols), 1 / side)
    waves = np.fft.ifft2(np.fft.fft2(rng.normal(size=(count, 3, side, side))) * fall).real
    waves = np.clip(np.rint(128 + 40 * waves / waves.std()), 0, 255)
    return waves.astype(np.uint8).transpose(0, 2, 3, 1)


def shot(images: NDArray[np.uint8], kernel: Any) -> NDArray[np.uint8]:
    matrix = resampling(kernel, fine=32, coarse=16)
    small = matrix @ images.transpose(0, 3, 1, 2) @ matrix.T
    return np.clip(np.rint(small), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def branch_file(
    images: NDArray[np.uint8], branch: str, box: str, plan: Plan = PLAN, *, steps: int = 0
) -> bytes:
    labels = np.arange(len(images)) % 2
    settings = Settings.from_plan(plan)
    trainer = Trainer(images, labels, plan=plan, branch_name=branch, settings=settings)
    for _ in range(steps):
        trainer.step()
    return finish_branch(trainer, box=box, threads=1).data


def manifest_text(data: bytes) -> str:
    (text,) = [
        p.value for p in onnx.load_from_string(data).metadata_props if p.key == "edge_stl.manifest"
    ]
    return text


def test_a_branch_file_holds_the_numbers_of_its_box_s_images_before_augmentation():
    images = scenes(40)

    data = branch_file(images, "d1", "cam32", steps=3)

    found = sharpness(images, coarser=[16])
    assert found is not None
    assert branch_from_bytes(data, name="x").manifest.camera == Camera.of(found)


@pytest.mark.parametrize(("count", "held"), [(19, False), (20, True)])
def test_a_box_with_few_images_publishes_none(count: int, held: bool):
    data = branch_file(scenes(count), "d1", "cam32")

    assert ("camera" in json.loads(manifest_text(data))) == held


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Path]]:
    folder = tmp_path_factory.mktemp("desk")

    def files(kernel: str) -> list[Path]:
        made = {
            "d1.cam32": branch_file(scenes(300, seed=1), "d1", "cam32"),
            "a1.cam16": branch_file(shot(scenes(300, seed=2), kernel), "a1", "cam16"),
        }
        for name, data in made.items():
            (folder / f"{name}-{kernel}.onnx").write_bytes(data)
        return [folder / f"{name}-{kernel}.onnx" for name in made]

    return files


@pytest.mark.parametrize("kernel", ["area", "bilinear", "nearest"])
def test_merge_tells_the_camera_in_json_and_warns_of_an_aliasing_one_on_stderr(
    kernel: str,
    desk: Callable[[str], list[Path]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    assert_schema: Callable[[Any, str], None],
):
    out = tmp_path / "ensemble.onnx"

    code = main(["merge", *map(str, desk(kernel)), "-o", str(out), "--json"])
    told = capsys.readouterr()

    document = json.loads(told.out)
    assert_schema(document, "merge")
    (row,) = document["cameras"]
    assert (code, row["box"], row["branch"], row["kernel"]) == (0, "cam16", "a1", kernel)
    aliased = kernel == "nearest"
    assert (row["finding"] == "aliased") == (row["warning"] is not None) == aliased
    assert told.err == (f"warning: {row['warning']}\n" if aliased else "")

    assert main(["inspect", str(out), "--json"]) == 0
    inspected = json.loads(capsys.readouterr().out)
    assert_schema(inspected, "inspect")
    assert {b["branch"]: b["kernel"] for b in inspected["branches"]} == {"a1": kernel, "d1": "area"}


def test_a_fleet_without_a_fine_box_merges_in_silence(
    desk: Callable[[str], list[Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    coarse = desk("nearest")[1]

    code = main(["merge", str(coarse), "-o", str(tmp_path / "e.onnx"), "--json"])

    told = capsys.readouterr()
    assert (code, told.err, json.loads(told.out)["cameras"]) == (0, "", [])


def write(images: NDArray[np.uint8], folder: Path) -> None:
    for i, image in enumerate(images):
        (folder / CLASSES[i % 2]).mkdir(exist_ok=True, parents=True)
        Image.fromarray(image).save(folder / CLASSES[i % 2] / f"{i:03}.png")


def test_a_holdout_tells_an_aliasing_camera_where_no_fine_box_does(
    desk: Callable[[str], list[Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    coarse, images = desk("nearest")[1], tmp_path / "images"
    write(scenes(60, seed=3), images)
    options = ["--weights", "fitted", "--holdout", str(images), "-o", str(tmp_path / "e.onnx")]

    code = main(["merge", str(coarse), *options, "--json"])

    told = capsys.readouterr()
    (row,) = json.loads(told.out)["cameras"]
    assert (code, row["kernel"], row["finding"]) == (0, "nearest", "aliased")
    assert "warning: a1.cam16: its camera's images are aliased" in told.err


def test_a_holdout_is_measured_and_what_cannot_be_used_is_passed_over(tmp_path: Path):
    images = scenes(30)
    write(images, tmp_path)
    (tmp_path / "bus" / "broken.png").write_bytes(b"no image")
    Image.fromarray(images[0, :8, :8]).save(tmp_path / "bus" / "small.png")

    found = desk_sharpness(tmp_path, PLAN)

    assert found is not None
    assert found.images == 30
    order = [*range(0, 30, 2), *range(1, 30, 2)]
    expected = sharpness(images[order], coarser=[16])
    assert expected is not None
    assert found.native == pytest.approx(expected.native, rel=1e-4)


def test_a_holdout_of_few_images_is_no_reference(tmp_path: Path):
    (tmp_path / "bus").mkdir()
    Image.fromarray(scenes(1)[0]).save(tmp_path / "bus" / "1.png")

    assert desk_sharpness(tmp_path, PLAN) is None

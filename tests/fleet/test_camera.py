"""A coarse camera is what its name says: a kernel of Pillow, or a JPEG file of that quality."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_stl.errors import DataError, UsageError
from edge_stl.fleet._camera import BOX, read_camera, take
from edge_stl.fleet._deal import write_box
from edge_stl.images import fit_square, scan
from edge_stl.plan import new_plan


KERNELS = ["bilinear", "bicubic", "lanczos", "nearest"]


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)


def resized(pixels: np.ndarray, side: int, kernel: str) -> np.ndarray:
    flat = pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
    image = Image.fromarray(flat).resize((side, side), Image.Resampling[kernel.upper()])
    return np.asarray(image).reshape(side, side, -1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("side", [4, 7, 16])
def test_a_kernel_is_pillow_s(kernel: str, channels: int, side: int):
    pixels = noise(16, 16, channels)
    taken = take(read_camera(kernel), pixels, side, "crop")
    assert taken.dtype == np.uint8
    assert taken.tolist() == resized(pixels, side, kernel).tolist()


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_image_becomes_square_before_it_becomes_coarse(kernel: str):
    pixels, camera = noise(12, 20, 3), read_camera(kernel)
    assert (take(camera, pixels, 6, "crop") == resized(pixels[:, 4:16], 6, kernel)).all()
    padded = np.zeros((20, 20, 3), np.uint8)
    padded[4:16] = pixels
    assert (take(camera, pixels, 6, "pad") == resized(padded, 6, kernel)).all()
    assert (take(camera, pixels, 6, "stretch") == resized(pixels, 6, kernel)).all()


def test_box_is_the_area_average_that_the_ensemble_has_too():
    pixels = noise(16, 24, 3)
    for text in ("box", "jpeg:50"):
        taken = take(read_camera(text), pixels, 4, "crop")
        assert taken.tolist() == fit_square(pixels, 4, "crop").tolist()


@pytest.mark.parametrize("text", ["box", "bicubic", "jpeg:50"])
def test_no_image_is_enlarged(text: str):
    with pytest.raises(DataError, match="8x6, smaller than 7; images are never enlarged"):
        take(read_camera(text), noise(6, 8, 3), 7, "crop")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("quality", [5, 75, 100])
def test_a_coarse_box_has_jpeg_files_of_that_quality_and_a_fine_one_its_own_files(
    quality: int, channels: int, pictures: Callable[..., Path], tmp_path: Path
):
    plan = new_plan(classes=["bus", "car"], resolution=16, levels=1, channels=channels)
    folder = pictures(tmp_path / "photos", plan.classes, count=2, channels=channels)
    images = scan(folder, plan.classes)
    camera = read_camera(f"jpeg:{quality}")
    index = np.arange(4)
    write_box(plan, images, index, resolution=8, folder=tmp_path / "coarse", camera=camera)
    written = sorted(p for p in (tmp_path / "coarse").rglob("*") if p.is_file())
    assert [p.name for p in written] == [f"{i:07d}.jpg" for i in index]
    for i, path in zip(index, written, strict=True):
        fine = np.asarray(Image.open(images.path(int(i)))).reshape(16, 16, channels)
        small = fit_square(fine, 8, "crop")
        expected = io.BytesIO()
        grey = small[:, :, 0] if channels == 1 else small
        Image.fromarray(grey).save(expected, format="JPEG", quality=quality)
        assert path.read_bytes() == expected.getvalue()
        with Image.open(path) as image, Image.open(expected) as other:
            assert (image.format, image.size) == ("JPEG", (8, 8))
            assert image.quantization == other.quantization
    write_box(plan, images, index, resolution=16, folder=tmp_path / "fine", camera=camera)
    for i, path in zip(index, sorted((tmp_path / "fine").rglob("*.png")), strict=True):
        assert path.read_bytes() == images.path(int(i)).read_bytes()


@pytest.mark.parametrize("text", ["box", *KERNELS, "jpeg:1", "jpeg:100"])
def test_a_camera_is_written_as_it_is_read(text: str):
    assert str(read_camera(text)) == text
    assert (read_camera(text) == BOX) == (text == "box")


BAD = ["", "jpeg", "jpeg:", "jpeg:0", "jpeg:101", "jpeg:x", "jpeg:7.5", "jpeg:-1", "gauss", "BOX",
       "box:2", "lanczos:3"]  # fmt: skip


@pytest.mark.parametrize("text", BAD)
def test_anything_else_is_refused_in_one_line(text: str):
    with pytest.raises(UsageError, match=f"^--camera {text}: is no camera; expected box, bilinear"):
        read_camera(text)

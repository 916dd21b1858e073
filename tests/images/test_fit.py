"""Squares by area averaging, never enlarged, at the resolution that a box's images reach."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from edge_stl.errors import DataError, UsageError
from edge_stl.images import fit_square, fitted_side, native_resolution


FITS = ("crop", "pad", "stretch")


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    rng = np.random.default_rng(height * 1000 + width)
    return rng.integers(0, 256, (height, width, channels)).astype(np.uint8)


@pytest.mark.parametrize(("fit", "side"), [("crop", 20), ("stretch", 20), ("pad", 30)])
def test_the_fitted_side_is_what_needs_no_enlarging(fit: str, side: int):
    assert fitted_side(20, 30, fit) == side
    assert fitted_side(30, 20, fit) == side


def test_an_unknown_fit_is_refused():
    with pytest.raises(UsageError, match="fit: is 'zoom'; expected crop, pad or stretch"):
        fitted_side(3, 4, "zoom")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [(16, 16), (32, 32), (20, 30), (33, 17), (64, 48)])
def test_every_fit_gives_the_square_asked_for(size: tuple[int, int], fit: str, channels: int):
    square = fit_square(noise(*size, channels), 16, fit)

    assert square.shape == (16, 16, channels)
    assert square.dtype == np.uint8


def test_crop_keeps_the_centre():
    wide = np.zeros((4, 8, 1), np.uint8)
    wide[:, 2:6] = 200

    assert fit_square(wide, 2, "crop").ravel().tolist() == [200] * 4
    assert np.array_equal(fit_square(wide.transpose(1, 0, 2), 4, "crop"), np.full((4, 4, 1), 200))


def test_pad_adds_black_on_both_sides():
    wide = np.full((2, 4, 1), 200, np.uint8)

    assert fit_square(wide, 4, "pad")[:, :, 0].tolist() == [[0] * 4, [200] * 4, [200] * 4, [0] * 4]
    assert fit_square(wide, 2, "pad")[:, :, 0].tolist() == [[100, 100], [100, 100]]


def test_stretch_shrinks_each_axis_by_itself():
    pixels = np.repeat(np.array([[0], [255]], np.uint8), 6, axis=1)[:, :, np.newaxis]

    assert fit_square(pixels, 2, "stretch")[:, :, 0].tolist() == [[0, 0], [255, 255]]


def test_the_same_size_is_left_as_it_is():
    assert np.array_equal(fit_square(noise(9, 9), 9, "crop"), noise(9, 9))


def test_the_input_is_not_changed():
    pixels = noise(20, 30)
    fit_square(pixels, 8, "pad")

    assert np.array_equal(pixels, noise(20, 30))


@pytest.mark.parametrize(("fit", "size"), [("crop", (30, 20)), ("pad", (15, 20))])
def test_no_image_is_enlarged(fit: str, size: tuple[int, int]):
    sentence = f"image: is {size[1]}x{size[0]}, smaller than 21; images are never enlarged"
    with pytest.raises(DataError, match=sentence):
        fit_square(noise(*size), 21, fit)


@settings(max_examples=80, deadline=None)
@given(side=st.integers(1, 12), ky=st.integers(1, 9), kx=st.integers(1, 9), seed=st.integers(0, 99))
def test_integer_ratios_equal_the_box_of_pillow_within_one_step(
    side: int, ky: int, kx: int, seed: int
):
    """Pillow rounds between its two passes, so a step of 1/255 is all it may differ by."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (side * ky, side * kx, 3)).astype(np.uint8)

    ours = fit_square(pixels, side, "stretch").astype(int)

    box = Image.fromarray(pixels).resize((side, side), Image.Resampling.BOX)
    assert np.abs(ours - np.asarray(box).astype(int)).max() <= 1


@settings(max_examples=50, deadline=None)
@given(side=st.integers(1, 8), k=st.integers(1, 9), seed=st.integers(0, 99))
def test_integer_ratios_are_the_exact_mean_rounded_half_up(side: int, k: int, seed: int):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (side * k, side * k, 1)).astype(np.uint8)

    ours = fit_square(pixels, side, "crop")[:, :, 0]

    mean = pixels.reshape(side, k, side, k).astype(np.float64).mean(axis=(1, 3))
    assert np.array_equal(np.floor(mean + 0.5 + 1e-9).astype(np.uint8), ours)


def test_a_very_large_ratio_does_not_overflow():
    """255 * 5000 * 5000 needs more than 32 bits."""
    pixels = np.broadcast_to(np.uint8(255), (5000, 5000, 1))

    assert fit_square(pixels, 1, "crop").item() == 255


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        ([64] * 20, (64, 0)),
        ([64] * 19 + [63], (64, 1)),  # exactly 95 %
        ([64] * 18 + [63] * 2, (32, 0)),
        ([64] * 94 + [31] * 6, (16, 0)),
        ([64] * 95 + [10] * 5, (64, 5)),
        ([1000] * 3, (64, 0)),
        ([16], (16, 0)),
        ([16] * 95 + [15] * 5, (16, 5)),
    ],
)
def test_the_native_resolution_is_the_largest_that_95_percent_reach(sides: list, expected: tuple):
    assert native_resolution(sides, resolution=64, levels=2) == expected


def test_too_few_large_images_are_refused_with_the_numbers():
    with pytest.raises(DataError, match=r"only 80 of 100 reach 16 px .* at least 95 % must"):
        native_resolution([16] * 80 + [8] * 20, resolution=64, levels=2)


def test_no_image_at_all_has_no_native_resolution():
    with pytest.raises(DataError, match="images: none can be read; expected images of at least 16"):
        native_resolution([], resolution=64, levels=2)


@given(sides=st.lists(st.integers(1, 200), min_size=1, max_size=60), levels=st.integers(0, 3))
def test_the_native_resolution_keeps_its_promise(sides: list[int], levels: int):
    try:
        r, left_out = native_resolution(sides, resolution=64, levels=levels)
    except DataError:
        r = 0
        assert sum(side >= 64 >> levels for side in sides) * 20 < 19 * len(sides)
    else:
        assert left_out == sum(side < r for side in sides)
        assert left_out * 20 <= len(sides)
    larger = [64 >> k for k in range(levels + 1) if 64 >> k > r]
    assert all(sum(side >= R for side in sides) * 20 < 19 * len(sides) for R in larger)

"""The numbers of a camera: what they are, what they do not depend on, when there are none."""

import math

import numpy as np
import pytest
import pywt

from edge_stl.bands import FEWEST_IMAGES, KERNELS, resampling, sharpness
from edge_stl.bands._sharpness import MOST_IMAGES
from edge_stl.testing import assert_parity


def scenes(count: int = 40, side: int = 32, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Return smooth random pictures with a 1/f spectrum, as natural ones have."""
    rng = np.random.default_rng(seed)
    rows, cols = np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side), indexing="ij")
    fall = 1 / np.maximum(np.hypot(rows, cols), 1 / side)
    noise = rng.normal(size=(count, channels, side, side))
    waves = np.fft.ifft2(np.fft.fft2(noise) * fall).real
    waves = 128 + 40 * waves / waves.std()
    return np.clip(np.rint(waves), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def test_the_numbers_are_the_mean_squares_of_pywavelets_details():
    images = scenes()

    found = sharpness(images)

    _, coarser, finest = pywt.wavedec2(images.mean(axis=3) / 255, "haar", level=2, axes=(1, 2))
    finest, coarser = [d / 2 for d in finest], [d / 4 for d in coarser]  # unit DC gain
    expected = (
        (finest[0] ** 2).mean() + (finest[1] ** 2).mean(),
        (finest[2] ** 2).mean(),
        (coarser[0] ** 2).mean() + (coarser[1] ** 2).mean(),
    )
    assert found.images == 40
    assert found.native == pytest.approx(expected, rel=1e-4)


def test_what_a_fine_box_foretells_is_what_a_coarse_box_measures():
    images = scenes(side=64)
    told = sharpness(images, coarser=(32, 16)).coarser

    for side in (32, 16):
        for kernel in KERNELS:
            matrix = resampling(kernel, fine=64, coarse=side)
            small = matrix @ images.transpose(0, 3, 1, 2) @ matrix.T
            taken = np.clip(np.rint(small), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
            assert sharpness(taken).native == pytest.approx(told[side][kernel], rel=0.02)


def test_the_kernels_stand_apart_and_in_order():
    table = sharpness(scenes(side=64), coarser=(16,)).coarser[16]

    ratio = {kernel: math.log(axis / lower) for kernel, (axis, _, lower) in table.items()}

    assert ratio["bilinear"] < ratio["bicubic"] - 0.05 < ratio["area"] - 0.1
    assert ratio["area"] < ratio["nearest"] - 0.2


def test_light_and_contrast_do_not_change_the_ratios():
    images = scenes()
    darker = (images // 2).astype(np.uint8)

    (a, b, c), (d, e, f) = sharpness(images).native, sharpness(darker).native

    assert a / d == pytest.approx(4, rel=0.03)
    assert (a / c, b / a) == pytest.approx((d / f, e / d), rel=0.03)


def test_too_few_images_say_nothing():
    assert sharpness(scenes(FEWEST_IMAGES - 1)) is None
    assert sharpness(scenes(FEWEST_IMAGES)).images == FEWEST_IMAGES
    assert sharpness(np.zeros((0, 32, 32, 3), np.uint8)) is None


@pytest.mark.parametrize(("side", "said"), [(3, False), (4, True), (7, True)])
def test_images_too_small_for_two_levels_say_nothing(side: int, said: bool):
    assert (sharpness(scenes(side=side)) is not None) == said


def test_sides_too_small_for_two_levels_are_left_out():
    assert list(sharpness(scenes(side=16), coarser=(8, 4, 2)).coarser) == [8, 4]


def test_flat_images_have_no_details_and_no_numbers_that_are_not_finite():
    flat = np.full((30, 16, 16, 1), 200, np.uint8)

    found = sharpness(flat, coarser=(8,))

    assert found.native == (0, 0, 0)
    assert np.isfinite([*found.coarser[8].values()]).all()


class _Rows:
    """Images that count how many rows were asked for, in which order."""

    def __init__(self, images: np.ndarray) -> None:
        self._images, self.shape, self.asked = images, images.shape, []

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        self.asked += index.tolist()
        return self._images[index]


def test_many_images_are_looked_at_from_the_first_to_the_last_and_no_more_than_needed():
    rows = _Rows(np.zeros((2 * MOST_IMAGES + 500, 4, 4, 1), np.uint8))

    found = sharpness(rows)

    assert found.images == len(rows.asked) == MOST_IMAGES
    assert rows.asked == sorted(set(rows.asked))
    assert rows.asked[-1] >= 2 * MOST_IMAGES


def test_the_order_of_a_batch_does_not_show(monkeypatch: pytest.MonkeyPatch):
    images = scenes(count=30)
    whole = sharpness(images, coarser=(16,))

    monkeypatch.setattr("edge_stl.bands._sharpness._AT_ONCE", 1)

    one = sharpness(images, coarser=(16,))
    assert_parity(np.array(one.native), np.array(whole.native), kind="float32")

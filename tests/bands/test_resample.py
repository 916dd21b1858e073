"""The kernels are those of Pillow, and every one keeps a flat image flat."""

import numpy as np
import pytest
from hypothesis import given, strategies as st
from PIL import Image

from edge_stl.bands import KERNELS, Kernel, resampling
from edge_stl.testing import assert_parity


PILLOW = {"area": "BOX", "bilinear": "BILINEAR", "bicubic": "BICUBIC", "lanczos": "LANCZOS"}


@pytest.mark.parametrize("kernel", PILLOW)
@pytest.mark.parametrize(("fine", "coarse"), [(64, 16), (64, 32), (28, 7), (48, 16)])
def test_a_kernel_is_that_of_pillow(kernel: Kernel, fine: int, coarse: int):
    # Floats: in mode F Pillow neither rounds nor clips.
    image = np.random.default_rng(0).uniform(0, 1, (fine, fine)).astype(np.float32)
    theirs = Image.fromarray(image).resize((coarse, coarse), Image.Resampling[PILLOW[kernel]])

    matrix = resampling(kernel, fine=fine, coarse=coarse)

    assert_parity((matrix @ image @ matrix.T).astype(np.float32), np.array(theirs), kind="float32")


@pytest.mark.parametrize(("fine", "coarse"), [(64, 16), (64, 32), (48, 16), (30, 6)])
def test_nearest_takes_the_pixel_that_pillow_takes(fine: int, coarse: int):
    image = np.arange(fine * fine).reshape(fine, fine).astype(np.float32)
    theirs = Image.fromarray(image).resize((coarse, coarse), Image.Resampling.NEAREST)

    matrix = resampling("nearest", fine=fine, coarse=coarse)

    assert np.array_equal(matrix @ image @ matrix.T, np.array(theirs))


@given(kernel=st.sampled_from(KERNELS), coarse=st.integers(1, 40), factor=st.integers(1, 8))
def test_a_flat_image_stays_flat_to_its_border(kernel: Kernel, coarse: int, factor: int):
    matrix = resampling(kernel, fine=coarse * factor, coarse=coarse)

    assert_parity(matrix.sum(axis=1), np.ones(coarse), kind="float64")


@pytest.mark.parametrize(("fine", "coarse"), [(64, 24), (8, 16), (8, 0)])
def test_sizes_without_an_integer_ratio_are_refused(fine: int, coarse: int):
    with pytest.raises(ValueError, match="is no integer ratio"):
        resampling("area", fine=fine, coarse=coarse)


def test_an_unknown_kernel_is_refused_and_the_known_ones_named():
    with pytest.raises(ValueError, match="'mitchell' is none of area, lanczos"):
        resampling("mitchell", fine=8, coarse=4)  # type: ignore[arg-type]


def test_a_kernel_that_everyone_shares_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        resampling("area", fine=8, coarse=4)[0, 0] = 2

"""The wavelet transform of a whole model."""

import numpy as np
import pytest
import pywt
import torch
from hypothesis import given, strategies as st

from edge_stl.cotrain import Wavelet
from edge_stl.errors import UsageError
from edge_stl.testing import assert_parity
from tests.cotrain.toy import patient


@patient
@given(
    st.integers(1, 700),
    st.sampled_from(["haar", "sym2", "db4", "bior2.2"]),
    st.integers(0, 5),
    st.sampled_from(["symmetric", "periodization"]),
)
def test_the_inverse_gives_back_every_vector(size: int, name: str, level: int, mode: str):
    wavelet = Wavelet(size, name, level, mode)
    vector = torch.randn(size, generator=torch.Generator().manual_seed(size))
    coefficients = wavelet.forward(vector)

    assert coefficients.shape == (wavelet.length,)
    assert coefficients.dtype == torch.float32
    assert_parity(wavelet.inverse(coefficients), vector, kind="float32")


@pytest.mark.parametrize(("size", "length"), [(89_834, 89_843), (1000, 1010), (371, 383)])
def test_symmetric_borders_add_as_many_coefficients_as_the_authors_have(size: int, length: int):
    wavelet = Wavelet(size)
    vector = torch.linspace(-1, 1, size).sin()

    assert wavelet.length == length
    oracle = np.concatenate(pywt.wavedec(vector.numpy(), "sym2", level=4))
    assert_parity(wavelet.forward(vector), oracle, kind="float32")


@pytest.mark.parametrize("size", [101, 89_834])
def test_periodization_is_orthonormal_and_as_long_as_the_padded_vector(size: int):
    wavelet = Wavelet(size, mode="periodization")
    one, two = torch.randn(2, size, generator=torch.Generator().manual_seed(3))

    assert wavelet.length == 16 * -(-size // 16)
    between = float(wavelet.forward(one) @ wavelet.forward(two)) / size
    assert between == pytest.approx(float(one @ two) / size, abs=1e-5)


def test_a_vector_too_short_for_all_levels_has_fewer():
    assert Wavelet(89_834).level == 4
    assert Wavelet(10).level == 1
    assert Wavelet(1).level == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "sym99"}, "wavelet = 'sym99': out of range; expected a discrete wavelet"),
        ({"name": "morl"}, "wavelet = 'morl'"),
        ({"level": -1}, "level = -1"),
        ({"mode": "zero"}, "expected symmetric or periodization"),
    ],
)
def test_a_transform_that_does_not_exist_is_refused(changes: dict[str, object], said: str):
    with pytest.raises(UsageError, match=said):
        Wavelet(100, **changes)

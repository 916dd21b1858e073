"""Transforms of tubes: what they are elsewhere, invertible, and refused where they are not."""

import copy

import numpy as np
import pytest
import pywt
import scipy.fft
import torch
from hypothesis import given, settings, strategies as st

from edge_stl.layers import (
    TubeTransform,
    dct,
    dft,
    from_matrix,
    haar,
    identity,
    tube_transform,
    wavelet,
)
from edge_stl.testing import assert_parity


few = settings(max_examples=15, deadline=None)
sizes = st.integers(1, 9)


def tubes(n: int, *, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((3, n, 2)))


@few
@given(sizes)
def test_the_dft_equals_numpys_with_the_conjugates_dropped(n: int):
    x = tubes(n)
    expected = np.fft.fft(x.numpy(), axis=1)
    transform = dft(n)
    actual = transform.to_bands(x, 1).numpy()

    for k, block in enumerate(transform.blocks):
        assert_parity(actual[:, block[0]], expected[:, k].real, kind="float64")
        imaginary = actual[:, block[1]] if len(block) == 2 else np.zeros_like(actual[:, 0])
        assert_parity(imaginary, expected[:, k].imag, kind="float64")


def test_the_dfts_coordinates_are_pairs_but_for_the_first_and_an_even_last():
    assert dft(1).blocks == ((0,),)
    assert dft(2).blocks == ((0,), (1,))
    assert dft(5).blocks == ((0,), (1, 2), (3, 4))
    assert dft(6).blocks == ((0,), (1, 2), (3, 4), (5,))


@few
@given(sizes)
def test_the_dct_equals_scipys(n: int):
    x = tubes(n)

    expected = scipy.fft.dct(x.numpy(), axis=1, norm="ortho")

    assert_parity(dct(n).to_bands(x, 1).numpy(), expected, kind="float64")


@pytest.mark.filterwarnings("ignore:Level value:UserWarning")  # full depth is meant
@pytest.mark.parametrize("name", ["haar", "db2", "db4", "sym4", "coif1"])
@pytest.mark.parametrize("n", [2, 4, 6, 8, 12])
def test_a_wavelet_equals_pywavelets(name: str, n: int):
    x = tubes(n)
    level = (n & -n).bit_length() - 1

    bands = pywt.wavedec(x.numpy(), name, mode="periodization", level=level, axis=1)

    actual = wavelet(n, name).to_bands(x, 1).numpy()
    assert_parity(actual, np.concatenate(bands, axis=1), kind="float64")


@pytest.mark.parametrize("n", [1, 2, 4, 8, 16])
def test_haar_is_orthogonal_and_the_wavelet_of_that_name(n: int):
    matrix = haar(n).matrix

    assert_parity(matrix @ matrix.T, torch.eye(n), kind="float64")
    if n > 1:
        assert_parity(matrix, wavelet(n, "haar").matrix, kind="float64")


@pytest.mark.parametrize("name", ["dft", "dct", "haar", "identity", "db3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_way_back_gives_the_tubes_along_any_dimension_in_their_own_dtype(
    name: str, dtype: torch.dtype
):
    transform = tube_transform(name, 4)
    for dim in (0, 1, 2, -1):
        x = torch.linspace(-1, 1, 64, dtype=dtype).reshape(4, 4, 4)
        bands = transform.to_bands(x, dim)
        back = transform.from_bands(bands, dim)
        assert bands.shape == back.shape == x.shape
        assert bands.dtype == back.dtype == dtype
        assert_parity(back, x, kind="branches" if dtype == torch.float32 else "float64")
        moved = transform.to_bands(x.movedim(dim, 0), 0).movedim(0, dim)
        assert_parity(bands, moved, kind="branches")


@few
@given(st.integers(1, 6), st.integers(0, 99))
def test_any_well_conditioned_matrix_is_a_transform(n: int, seed: int):
    rng = np.random.default_rng(seed)
    matrix = np.linalg.qr(rng.standard_normal((n, n)))[0] * rng.uniform(0.5, 2, n)

    transform = from_matrix(matrix, name="own")

    assert str(transform) == f"own({n})"
    assert transform.blocks == tuple((k,) for k in range(n))
    assert_parity(transform.matrix @ transform.inverse, torch.eye(n), kind="float64")


def test_taking_apart_and_putting_together_gives_the_coordinates_back():
    for n in range(1, 8):
        transform = dft(n)
        x = tubes(n)
        parts = transform.take(x, 1)
        assert [p.shape[1] for p in parts] == [n - 2 * ((n - 1) // 2), *[(n - 1) // 2] * 2]
        assert torch.equal(transform.put(*parts, 1), x)


def test_a_transform_first_used_in_inference_mode_can_train_afterwards():
    transform = dft(4)
    with torch.inference_mode():
        transform.take(transform.to_bands(tubes(4), 1), 1)
    x = tubes(4).requires_grad_()

    single, _, _ = transform.take(transform.to_bands(x, 1), 1)
    single.sum().backward()

    assert x.grad is not None


def test_a_transform_is_never_copied_and_two_of_one_kind_are_equal():
    transform = dft(4)

    assert copy.deepcopy(transform) is transform
    assert transform.equals(dft(4))
    assert not transform.equals(from_matrix(transform.matrix))
    assert not dct(4).equals(haar(4))
    assert not dct(4).equals(dct(5))


def test_a_name_gives_its_transform():
    for name, made in {"dft": dft, "dct": dct, "haar": haar, "identity": identity}.items():
        assert tube_transform(name, 8).equals(made(8))
    assert tube_transform("db2", 8).equals(wavelet(8, "db2"))


@pytest.mark.parametrize(
    ("name", "n", "sentence"),
    [
        ("dft", 0, "transform dft: size 0; expected 1 or more"),
        ("dct", -1, "transform dct: size -1; expected 1 or more"),
        ("identity", 0, "transform identity: size 0; expected 1 or more"),
        ("haar", 6, "transform haar: size 6; expected a power of two"),
        ("haar", 0, "transform haar: size 0; expected a power of two"),
        ("db2", 5, "transform db2: size 5; a wavelet expects an even one"),
        ("bior2.2", 4, "transform bior2.2: not an orthogonal wavelet; expected haar, dbN"),
        ("dmey", 4, "transform dmey: not an orthogonal wavelet; expected haar, dbN"),
        ("daub", 4, "transform daub: not a wavelet of PyWavelets"),
    ],
)
def test_a_transform_that_does_not_exist_is_refused(name: str, n: int, sentence: str):
    with pytest.raises(ValueError, match=sentence):
        tube_transform(name, n)


@pytest.mark.parametrize(
    ("matrix", "sentence"),
    [
        (np.ones((2, 3)), r"shape \(2, 3\); expected a square matrix"),
        (np.ones(4), r"shape \(4,\); expected a square matrix"),
        (np.ones((0, 0)), r"shape \(0, 0\); expected a square matrix"),
        ([[1.0, np.nan], [0.0, 1.0]], "has numbers that are not finite"),
        (np.ones((2, 2)), "condition number .*; expected an invertible matrix"),
        (np.zeros((2, 2)), "condition number .*; expected an invertible matrix"),
        (np.diag([1.0, 1e-7]), r"condition number 1\.0e\+07; expected .* at most 1e\+06"),
    ],
)
def test_a_matrix_that_is_no_transform_is_refused(matrix: object, sentence: str):
    with pytest.raises(ValueError, match=f"transform own: {sentence}"):
        from_matrix(matrix, name="own")


@pytest.mark.parametrize("matrix", [np.eye(2) * 1j, torch.eye(2) * 1j])
def test_a_complex_matrix_is_refused(matrix: object):
    with pytest.raises(TypeError, match="a complex matrix; expected a real one"):
        from_matrix(matrix)


@pytest.mark.parametrize("blocks", [((0,),), ((1,), (0,)), ((0, 1, 2),), ((0,), (1,), (1, 2))])
def test_blocks_that_do_not_list_the_coordinates_are_refused(blocks: tuple[tuple[int, ...], ...]):
    with pytest.raises(ValueError, match=r"blocks .*; expected \(k,\) and \(k, k \+ 1\)"):
        from_matrix(np.eye(3), blocks=blocks)


def test_matrices_of_two_sizes_are_refused():
    with pytest.raises(ValueError, match=r"shapes \(2, 2\) and \(3, 3\); expected two square"):
        TubeTransform("own", torch.eye(2), torch.eye(3), ((0,), (1,)))


def test_tubes_of_another_length_are_refused():
    with pytest.raises(ValueError, match=r"transform dct\(4\): 3 entries along dimension 1"):
        dct(4).to_bands(torch.zeros(2, 3), 1)

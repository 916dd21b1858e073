"""Our bands are PyWavelets' and scipy's, rescaled to unit DC gain, and they give the image back."""

import warnings
from typing import Any

import numpy as np
import pytest
import pywt
from scipy import fft

from edge_stl.bands import Transform, bank, wavelet_names
from edge_stl.testing import TOLERANCES, assert_parity


LEVELS = (1, 2, 3)
SHAPES = ((16, 16), (24, 40))
ROUNDED_TABLES = frozenset({"dmey"})  # the published taps of an infinite filter, cut off
Wavelet = pytest.mark.parametrize("wavelet", wavelet_names())


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).random(shape)


def oracle_bands(image: np.ndarray, wavelet: str, levels: int) -> dict[str, np.ndarray]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Level value of", UserWarning)
        first, *details = pywt.wavedec2(image, wavelet, mode="periodization", level=levels)
    out = {f"cA{levels}": first / 2**levels}
    for level, three in zip(range(levels, 0, -1), details, strict=True):
        for letter, values in zip("HVD", three, strict=True):
            out[f"c{letter}{level}"] = values / 2**level
    return out


def oracle_round_trip_error(image: np.ndarray, wavelet: str, levels: int) -> float:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Level value of", UserWarning)
        bands = pywt.wavedec2(image, wavelet, mode="periodization", level=levels)
        back = pywt.waverec2(bands, wavelet, mode="periodization")
    return float(np.abs(back - image).max())


def block_dct(image: np.ndarray, size: int) -> dict[str, np.ndarray]:
    height, width = image.shape
    out = {
        f"dct{u}{v}": np.zeros((height // size, width // size))
        for u in range(size)
        for v in range(size)
    }
    for i in range(height // size):
        for j in range(width // size):
            block = image[i * size : (i + 1) * size, j * size : (j + 1) * size]
            spectrum = fft.dctn(block, norm="ortho") / size
            for u in range(size):
                for v in range(size):
                    out[f"dct{u}{v}"][i, j] = spectrum[u, v]
    return out


def assert_bands(actual: dict[str, Any], expected: dict[str, Any], *, kind: str) -> None:
    assert list(actual) == list(expected)
    for name, values in expected.items():
        assert_parity(actual[name], values, kind=kind)


def test_every_discrete_orthogonal_or_biorthogonal_wavelet_of_pywavelets_is_known():
    discrete = [pywt.Wavelet(name) for name in pywt.wavelist(kind="discrete")]
    wanted = sorted(w.name for w in discrete if w.orthogonal or w.biorthogonal)

    assert list(wavelet_names()) == wanted
    assert len(wavelet_names()) == 106


@Wavelet
def test_analysis_equals_pywavelets_over_two_to_the_level(wavelet: str):
    for levels in LEVELS:
        filters = bank(Transform("wavelet", levels, wavelet))
        for shape in SHAPES:
            image = noise(*shape)
            bands = filters.analyze(image)
            assert_bands(bands, oracle_bands(image, wavelet, levels), kind="float64")


@Wavelet
def test_the_finer_approximations_equal_pywavelets_too(wavelet: str):
    transform = Transform("wavelet", 3, wavelet)
    image = noise(16, 16)

    bands = bank(transform, bands=("cA1", "cA2")).analyze(image)

    assert_parity(bands["cA1"], oracle_bands(image, wavelet, 1)["cA1"], kind="float64")
    assert_parity(bands["cA2"], oracle_bands(image, wavelet, 2)["cA2"], kind="float64")


@Wavelet
def test_wavelet_synthesis_gives_the_image_back(wavelet: str):
    for levels in LEVELS:
        filters = bank(Transform("wavelet", levels, wavelet))
        for shape in SHAPES:
            image = noise(*shape)
            back = filters.synthesize(filters.analyze(image))
            single = image.astype(np.float32)
            back32 = filters.synthesize(filters.analyze(single))
            assert back32.dtype == np.float32
            if wavelet in ROUNDED_TABLES:
                theirs = oracle_round_trip_error(image, wavelet, levels)
                assert np.abs(back - image).max() <= theirs + TOLERANCES["float64"]
                assert np.abs(back32 - single).max() <= theirs + TOLERANCES["float32"]
            else:
                assert_parity(back, image, kind="float64")
                assert_parity(back32, single, kind="float32")


@Wavelet
def test_a_constant_image_stays_constant_in_the_approximation_and_has_no_details(wavelet: str):
    slack = 1e-3 if wavelet in ROUNDED_TABLES else TOLERANCES["float64"]

    for name, values in bank(Transform("wavelet", 2, wavelet)).analyze(np.ones((16, 24))).items():
        assert np.abs(values - (1.0 if name == "cA2" else 0.0)).max() <= slack


@pytest.mark.parametrize("wavelet", [n for n in wavelet_names() if pywt.Wavelet(n).orthogonal])
def test_an_orthogonal_bank_keeps_the_energy(wavelet: str):
    image = noise(16, 24) - 0.5
    slack = 6e-3 if wavelet in ROUNDED_TABLES else 1e-10

    bands = bank(Transform("wavelet", 3, wavelet)).analyze(image)

    energy = sum(float(((v * 2 ** int(name[2:])) ** 2).sum()) for name, v in bands.items())
    assert energy == pytest.approx(float((image**2).sum()), rel=slack)


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_block_dct_equals_scipy_over_its_size(levels: int, shape: tuple[int, int]):
    transform = Transform("dct", levels)
    image = noise(*shape)

    bands = bank(transform).analyze(image)

    expected = block_dct(image, transform.block)
    assert sorted(bands) == sorted(expected)
    assert_bands(bands, {name: expected[name] for name in transform.bands()}, kind="float64")


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_the_block_dct_gives_the_image_back_and_keeps_its_energy(levels: int):
    filters = bank(Transform("dct", levels))
    image = noise(24, 40)
    single = image.astype(np.float32)

    bands = filters.analyze(image)

    assert_parity(filters.synthesize(bands), image, kind="float64")
    assert_parity(filters.synthesize(filters.analyze(single)), single, kind="float32")
    energy = sum(float(((v * 2**levels) ** 2).sum()) for v in bands.values())
    assert energy == pytest.approx(float((image**2).sum()), rel=1e-12)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_a_constant_image_is_itself_in_dct00_and_nothing_elsewhere(levels: int):
    for name, values in bank(Transform("dct", levels)).analyze(np.full((16, 8), 0.7)).items():
        assert_parity(values, np.full(values.shape, 0.7 * (name == "dct00")), kind="float64")


@pytest.mark.parametrize("wavelet", ["haar", "db2", "db4", "bior4.4", "sym5"])
def test_an_image_that_varies_only_along_axis_0_has_energy_in_ca_and_ch_alone(wavelet: str):
    rows = np.random.default_rng(0).random((16, 1))

    along_0 = bank(Transform("wavelet", 2, wavelet)).analyze(np.repeat(rows, 16, axis=1))
    along_1 = bank(Transform("wavelet", 2, wavelet)).analyze(np.repeat(rows, 16, axis=1).T)

    for level in (1, 2):
        assert np.abs(along_0[f"cH{level}"]).max() > 0.01
        assert np.abs(along_0[f"cV{level}"]).max() < 1e-10
        assert np.abs(along_0[f"cD{level}"]).max() < 1e-10
        assert_parity(along_1[f"cV{level}"], along_0[f"cH{level}"].T, kind="float64")
        assert np.abs(along_1[f"cH{level}"]).max() < 1e-10


def test_an_image_that_varies_only_along_axis_0_has_dct_energy_in_column_0_alone():
    rows = np.random.default_rng(0).random((16, 1))

    for name, values in bank(Transform("dct", 2)).analyze(np.repeat(rows, 16, axis=1)).items():
        assert (np.abs(values).max() > 0.01) == name.endswith("0")


def test_haar_of_a_4_x_4_image_is_what_a_pencil_gives():
    transform = Transform("wavelet", 2, "haar")
    image = np.array(
        [[1.0, 3.0, 5.0, 7.0], [5.0, 7.0, 1.0, 3.0], [0.0, 4.0, 2.0, 2.0], [4.0, 8.0, 6.0, 6.0]]
    )

    bands = bank(transform, bands=transform.all_bands()).analyze(image)

    # Of a block a b / c d: the mean, and (a + b - c - d), (a - b + c - d), (a - b - c + d) over 4.
    assert_bands(
        bands,
        {
            "cA2": [[4.0]],
            "cH2": [[0.0]],
            "cV2": [[0.0]],
            "cD2": [[0.0]],
            "cH1": [[-2.0, 2.0], [-2.0, -2.0]],
            "cV1": [[-1.0, -1.0], [-2.0, 0.0]],
            "cD1": [[0.0, 0.0], [0.0, 0.0]],
            "cA1": [[4.0, 4.0], [4.0, 4.0]],
        },
        kind="float64",
    )


def test_haar_of_a_2_x_2_image_with_energy_in_every_band_is_what_a_pencil_gives():
    bands = bank(Transform("wavelet", 1, "haar")).analyze(np.array([[8.0, 4.0], [2.0, 6.0]]))

    assert_bands(
        bands, {"cA1": [[5.0]], "cH1": [[1.0]], "cV1": [[0.0]], "cD1": [[2.0]]}, kind="float64"
    )


@pytest.mark.parametrize(
    "transform", [Transform("wavelet", 2, "db4"), Transform("dct", 2)], ids=str
)
def test_analysis_is_linear(transform: Transform):
    filters = bank(transform)
    x, y = noise(16, 8), noise(16, 8)[::-1]

    both = filters.analyze(2.5 * x - 3 * y)

    of_x, of_y = filters.analyze(x), filters.analyze(y)
    assert_bands(both, {k: 2.5 * of_x[k] - 3 * of_y[k] for k in both}, kind="float64")


@pytest.mark.parametrize(
    "transform", [Transform("wavelet", 2, "db4"), Transform("dct", 2)], ids=str
)
def test_leading_axes_are_images_of_their_own(transform: Transform):
    filters = bank(transform)
    stack = noise(2, 3, 8, 16)

    bands = filters.analyze(stack)

    assert_bands(
        {k: v[1, 2] for k, v in bands.items()}, filters.analyze(stack[1, 2]), kind="float64"
    )
    assert_parity(filters.synthesize(bands), stack, kind="float64")

"""The paper's transforms are scipy's DCT and numpy's FFT along the polyphase components."""

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy import fft

from edge_stl.bands import Transform, bank
from edge_stl.testing import assert_parity


SIDES = tuple(range(2, 10))
Side = pytest.mark.parametrize("side", SIDES)
Kind = pytest.mark.parametrize("kind", ["stl-dct", "stl-dft"])
ANY = st.builds(
    Transform,
    st.sampled_from(["stl-dct", "stl-dft"]),
    st.just(0),
    st.just(""),
    st.integers(2, 9),
)


def polyphase(kind: str, side: int) -> Transform:
    return Transform(kind, 0, side=side)  # type: ignore[arg-type]


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).random(shape)


def components(image: np.ndarray, side: int) -> np.ndarray:
    """Take every pixel by its number, as the paper does: component ``b i + j``, row-major."""
    out = np.zeros((side * side, image.shape[0] // side, image.shape[1] // side))
    for i in range(side):
        for j in range(side):
            out[side * i + j] = image[i::side, j::side]
    return out


def dct_oracle(image: np.ndarray, side: int) -> dict[str, np.ndarray]:
    spectrum = fft.dct(components(image, side), type=2, norm="ortho", axis=0) / side
    return {f"p{u:02d}": plane for u, plane in enumerate(spectrum)}


def dft_oracle(image: np.ndarray, side: int) -> dict[str, np.ndarray]:
    count = side * side
    spectrum = np.fft.fft(components(image, side), axis=0) / count
    out = {"f00": spectrum[0].real}
    for k in range(1, (count + 1) // 2):
        out |= {f"f{k:02d}r": spectrum[k].real, f"f{k:02d}i": spectrum[k].imag}
    if count % 2 == 0:
        out[f"f{count // 2:02d}"] = spectrum[count // 2].real
    return out


ORACLES = {"stl-dct": dct_oracle, "stl-dft": dft_oracle}


def assert_bands(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(actual) == list(expected)
    for name, values in expected.items():
        assert_parity(actual[name], values, kind="float64")


@Side
@Kind
@pytest.mark.parametrize("times", [(1, 1), (2, 3)])
def test_analysis_equals_scipy_and_numpy_along_the_components(
    kind: str, side: int, times: tuple[int, int]
):
    image = noise(side * times[0], side * times[1])

    assert_bands(bank(polyphase(kind, side)).analyze(image), ORACLES[kind](image, side))


@Side
@Kind
def test_synthesis_gives_the_image_back(kind: str, side: int):
    filters = bank(polyphase(kind, side))
    image = noise(2, 3 * side, 2 * side)
    single = image.astype(np.float32)

    assert_parity(filters.synthesize(filters.analyze(image)), image, kind="float64")
    back = filters.synthesize(filters.analyze(single))
    assert back.dtype == np.float32
    assert_parity(back, single, kind="float32")


@given(ANY, st.data())
def test_every_band_alone_is_its_own_part_of_the_image_and_of_no_other_band(
    transform: Transform, data: st.DataObject
):
    filters = bank(transform)
    names = transform.bands()
    kept = data.draw(st.sets(st.sampled_from(names), min_size=1))
    bands = filters.analyze(noise(transform.side, 2 * transform.side))

    again = filters.analyze(filters.synthesize({name: bands[name] for name in sorted(kept)}))

    for name in names:
        assert_parity(again[name], bands[name] * (name in kept), kind="float64")


@Side
@Kind
def test_a_constant_image_is_itself_in_the_first_band_and_nothing_elsewhere(kind: str, side: int):
    bands = bank(polyphase(kind, side)).analyze(np.full((side, 2 * side), 0.7))

    first, *others = bands.values()
    assert_parity(first, np.full((1, 2), 0.7), kind="float64")
    for values in others:
        assert_parity(values, np.zeros((1, 2)), kind="float64")


@Side
def test_the_first_band_of_both_is_the_area_average(side: int):
    image = noise(2 * side, 3 * side)
    mean = image.reshape(2, side, 3, side).mean(axis=(1, 3))

    assert_parity(bank(polyphase("stl-dct", side)).analyze(image)["p00"], mean, kind="float64")
    assert_parity(bank(polyphase("stl-dft", side)).analyze(image)["f00"], mean, kind="float64")


@Side
def test_the_dct_bands_have_the_energy_of_the_image_over_the_square_of_b(side: int):
    image = noise(2 * side, 3 * side) - 0.5

    bands = bank(polyphase("stl-dct", side)).analyze(image)

    energy = sum(float((values**2).sum()) for values in bands.values())
    assert energy * side**2 == pytest.approx(float((image**2).sum()), rel=1e-12)


@Side
def test_the_dft_bands_have_the_energy_of_the_image_where_a_pair_counts_twice(side: int):
    """Parseval: sum of |X|^2 over all N frequencies is N times the energy; X is N f here."""
    image = noise(2 * side, 3 * side) - 0.5

    bands = bank(polyphase("stl-dft", side)).analyze(image)

    energy = sum(
        (2.0 if name.endswith(("r", "i")) else 1.0) * float((values**2).sum())
        for name, values in bands.items()
    )
    assert energy * side**2 == pytest.approx(float((image**2).sum()), rel=1e-12)


# -- by pencil ------------------------------------------------------------------------------------


def test_a_2_x_2_image_is_what_a_pencil_gives():
    """The components of a b / c d are a, b, c, d: a signal of length 4."""
    image = np.array([[8.0, 4.0], [2.0, 6.0]])

    dct = bank(polyphase("stl-dct", 2)).analyze(image)
    dft = bank(polyphase("stl-dft", 2)).analyze(image)

    # p00 = (a + b + c + d) / 4, p02 = (a - b - c + d) / 4, and with C, S the cosines of 22.5 and
    # 67.5 degrees: p01 = (C (a - d) + S (b - c)) sqrt(1/2) / 2, p03 = (S (a - d) - C (b - c)) ...
    wide, narrow = np.sqrt(2 + np.sqrt(2)) / 2, np.sqrt(2 - np.sqrt(2)) / 2
    half = np.sqrt(0.5) / 2
    assert_bands(
        dct,
        {
            "p00": np.array([[5.0]]),
            "p01": np.array([[half * (wide * 2 + narrow * 2)]]),
            "p02": np.array([[2.0]]),
            "p03": np.array([[half * (narrow * 2 - wide * 2)]]),
        },
    )
    # f01 = ((a - c) + i (d - b)) / 4, f02 = (a - b + c - d) / 4
    assert_bands(
        dft,
        {
            "f00": np.array([[5.0]]),
            "f01r": np.array([[1.5]]),
            "f01i": np.array([[0.5]]),
            "f02": np.array([[0.0]]),
        },
    )


def test_of_size_2_two_bands_of_the_dct_are_haar_s_and_the_other_two_are_a_rotation_of_haar_s():
    image = noise(6, 8)
    haar = bank(Transform("wavelet", 1, "haar")).analyze(image)

    dct = bank(polyphase("stl-dct", 2)).analyze(image)

    assert_parity(dct["p00"], haar["cA1"], kind="float64")
    assert_parity(dct["p02"], haar["cD1"], kind="float64")
    # a + b - c - d and a - b + c - d make a - d and b - c: a turn of cH and cV by 22.5 degrees.
    cos, sin = np.cos(np.pi / 8), np.sin(np.pi / 8)
    assert_parity(dct["p01"], cos * haar["cH1"] + sin * haar["cV1"], kind="float64")
    assert_parity(dct["p03"], cos * haar["cV1"] - sin * haar["cH1"], kind="float64")
    assert np.abs(dct["p01"] - haar["cH1"]).max() > 0.01


def test_of_size_2_the_dft_is_cv_of_haar_and_the_differences_of_the_columns():
    image = noise(6, 8)

    dft = bank(polyphase("stl-dft", 2)).analyze(image)

    assert_parity(
        dft["f02"], bank(Transform("wavelet", 1, "haar")).analyze(image)["cV1"], kind="float64"
    )
    assert_parity(dft["f01r"], (image[::2, ::2] - image[1::2, ::2]) / 4, kind="float64")
    assert_parity(dft["f01i"], (image[1::2, 1::2] - image[::2, 1::2]) / 4, kind="float64")


# -- what it is not -------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [2, 4, 8])
def test_it_is_not_the_block_dct(side: int):
    """The same pixels, the same size, the same first band; the other one is two-dimensional.

    Where u is an even multiple m of b, the angle of row i is pi m i: all rows are alike, and the
    band is that of frequency m along the columns alone. Of size 2, the rows of p02 have the signs
    + and -, which is dct11. Nothing else is common.
    """
    image = noise(2 * side, 2 * side)
    common = {f"p{m * side:02d}": f"dct0{m}" for m in range(0, side, 2)}
    common |= {"p02": "dct11"} if side == 2 else {}

    ours = bank(polyphase("stl-dct", side)).analyze(image)
    block = bank(Transform("dct", side.bit_length() - 1)).analyze(image)

    for name, plane in ours.items():
        twins = [other for other, values in block.items() if np.abs(plane - values).max() < 1e-10]
        assert twins == ([common[name]] if name in common else [])


@Side
@Kind
def test_rows_and_columns_are_not_alike(kind: str, side: int):
    """Component ``b i + j`` runs along the rows: the transposed image has other bands."""
    image = noise(side, side)
    filters = bank(polyphase(kind, side))

    upright, turned = filters.analyze(image), filters.analyze(image.T)

    second = filters.names[1]
    assert float(np.abs(upright[second] - turned[second].T).max()) > 1e-3


# -- names ----------------------------------------------------------------------------------------


def test_the_bands_of_size_2_and_3_are_these():
    assert polyphase("stl-dct", 2).bands() == ("p00", "p01", "p02", "p03")
    assert polyphase("stl-dft", 2).bands() == ("f00", "f01r", "f01i", "f02")
    assert polyphase("stl-dct", 3).bands()[-1] == "p08"
    assert polyphase("stl-dft", 3).bands() == (
        *("f00", "f01r", "f01i", "f02r", "f02i"),
        *("f03r", "f03i", "f04r", "f04i"),
    )


@given(ANY, st.integers(1, 5))
def test_there_are_b_squared_bands_of_an_nth_of_the_image_each(transform: Transform, times: int):
    names = transform.bands()

    assert len(set(names)) == len(names) == transform.side**2
    assert transform.all_bands() == names
    assert transform.block == transform.side
    assert {transform.size(name, transform.side * times) for name in names} == {times}
    assert [transform.order(name) for name in names] == list(range(len(names)))
    assert {transform.coarsest(name) for name in names} == {0}
    assert bank(transform).names == names
    assert all(band.stride == transform.side for band in bank(transform).bands)


@given(ANY, st.data())
def test_bands_come_in_the_order_in_which_they_are_asked_for(
    transform: Transform, data: st.DataObject
):
    asked = data.draw(st.lists(st.sampled_from(transform.bands()), min_size=1, unique=True))
    image = noise(transform.side, transform.side)
    whole = bank(transform).analyze(image)

    some = bank(transform, bands=asked).analyze(image)

    assert_bands(some, {name: whole[name] for name in asked})


@given(ANY)
def test_it_is_written_as_the_command_line_takes_it(transform: Transform):
    assert str(transform) == f"{transform.kind}:{transform.side}"
    assert transform.polyphase


def test_the_others_are_no_polyphase_transforms():
    assert not Transform("wavelet", 2, "haar").polyphase
    assert not Transform("dct", 2).polyphase


# -- refusals -------------------------------------------------------------------------------------


@given(ANY, st.integers(1, 3))
def test_a_box_of_half_the_resolution_has_no_band(transform: Transform, level: int):
    with pytest.raises(ValueError, match=rf"native level {level} is not in 0\.\.0"):
        bank(transform, native_level=level)


@pytest.mark.parametrize(
    ("kind", "side", "name"),
    [
        *(("stl-dct", 2, name) for name in ("p04", "p4", "p0", "p004", "P00", "p-1", "p", "")),
        *(("stl-dct", 2, name) for name in ("dct00", "cA1", "f00", "p00r", "p²0", "p00\n")),
        *(("stl-dct", 6, name) for name in ("p36", "p99", "p5")),
        *(("stl-dft", 2, name) for name in ("f00r", "f00i", "f01", "f02r", "f02i", "f03r", "f1r")),
        *(("stl-dft", 3, name) for name in ("f04", "f05r", "f09r")),
        *(("stl-dft", 4, name) for name in ("f08r", "f08i", "f09", "p00")),
    ],
)
def test_a_name_that_is_no_band_is_refused(kind: str, side: int, name: str):
    transform = polyphase(kind, side)

    assert not transform.is_band(name)
    with pytest.raises(ValueError, match=f"is not a band of {kind}:{side}"):
        transform.coarsest(name)
    with pytest.raises(ValueError, match=f"is not a band of {kind}:{side}"):
        bank(transform, bands=(name,))


@pytest.mark.parametrize(("kind", "name"), [("stl-dct", "p04"), ("stl-dft", "f03r")])
def test_synthesis_of_a_band_that_is_not_there_is_refused(kind: str, name: str):
    with pytest.raises(ValueError, match=rf"bands \['{name}'\] are not in this bank of"):
        bank(polyphase(kind, 2)).synthesize({name: np.zeros((2, 2))})


@Side
@Kind
def test_an_image_that_does_not_divide_into_components_is_refused(kind: str, side: int):
    with pytest.raises(ValueError, match=f"is not a multiple of the stride {side}"):
        bank(polyphase(kind, side)).analyze(np.zeros((side, 2 * side + 1)))

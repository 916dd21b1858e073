"""Which band exists at which native level, asked without touching a pixel, and what it then is."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from edge_stl.bands import Transform, bank, wavelet_names
from edge_stl.testing import assert_parity


HAAR2, DCT4 = Transform("wavelet", 2, "haar"), Transform("dct", 2)
TRANSFORMS = st.one_of(
    st.builds(Transform, st.just("wavelet"), st.integers(0, 4), st.sampled_from(wavelet_names())),
    st.builds(Transform, st.just("dct"), st.integers(1, 3)),
)


def area_averaged(image: np.ndarray, factor: int) -> np.ndarray:
    height, width = image.shape
    return image.reshape(height // factor, factor, width // factor, factor).mean(axis=(1, 3))


def test_the_bands_of_two_haar_levels_stand_coarse_to_fine():
    assert HAAR2.bands() == ("cA2", "cH2", "cV2", "cD2", "cH1", "cV1", "cD1")
    assert HAAR2.all_bands() == (*HAAR2.bands(), "cA1")
    assert HAAR2.details(2) == ("cH2", "cV2", "cD2")
    assert HAAR2.approximation(1) == ("cA1",)


def test_the_finer_approximations_of_three_levels_are_legal_and_redundant():
    three = Transform("wavelet", 3, "db2")

    assert three.all_bands()[-2:] == ("cA2", "cA1")
    assert not {"cA1", "cA2"} & set(three.bands())


def test_the_bands_of_a_dct_of_4_stand_shell_by_shell():
    assert DCT4.bands() == (
        *("dct00",),
        *("dct01", "dct10", "dct11"),
        *("dct02", "dct03", "dct12", "dct13", "dct20", "dct21", "dct22", "dct23"),
        *("dct30", "dct31", "dct32", "dct33"),
    )
    assert DCT4.all_bands() == DCT4.bands()
    assert DCT4.details(2) == ("dct01", "dct10", "dct11")
    assert DCT4.approximation(2) == ("dct00",)
    assert DCT4.approximation(1) == ("dct00", "dct01", "dct10", "dct11")


@pytest.mark.parametrize(
    ("band", "coarsest", "size"),
    [
        *(("cA2", 2, 4), ("cH2", 1, 4), ("cV2", 1, 4), ("cD2", 1, 4)),
        *(("cA1", 1, 8), ("cH1", 0, 8), ("cV1", 0, 8), ("cD1", 0, 8)),
    ],
)
def test_where_each_haar_band_ends(band: str, coarsest: int, size: int):
    assert HAAR2.coarsest(band) == coarsest
    assert HAAR2.size(band, 16) == size


@pytest.mark.parametrize(
    ("band", "coarsest"),
    [("dct00", 2), ("dct01", 1), ("dct11", 1), ("dct02", 0), ("dct20", 0), ("dct33", 0)],
)
def test_where_each_dct_band_ends(band: str, coarsest: int):
    assert DCT4.coarsest(band) == coarsest
    assert DCT4.size(band, 16) == 4


@pytest.mark.parametrize(
    ("transform", "level", "names"),
    [
        (HAAR2, 0, ("cA2", "cH2", "cV2", "cD2", "cH1", "cV1", "cD1")),
        (HAAR2, 1, ("cA2", "cH2", "cV2", "cD2")),
        (HAAR2, 2, ("cA2",)),
        (DCT4, 1, ("dct00", "dct01", "dct10", "dct11")),
        (DCT4, 2, ("dct00",)),
    ],
)
def test_a_box_computes_the_bands_that_exist_at_its_level(
    transform: Transform, level: int, names: tuple[str, ...]
):
    assert bank(transform, native_level=level).names == names


@given(TRANSFORMS, st.integers(1, 4))
def test_band_sizes_sum_to_the_image(transform: Transform, times: int):
    resolution = transform.block * times

    sizes = [transform.size(name, resolution) for name in transform.bands()]

    assert sum(size * size for size in sizes) == resolution * resolution


@given(TRANSFORMS, st.data())
def test_the_bands_that_exist_at_a_level_sum_to_the_image_of_that_level(
    transform: Transform, data: st.DataObject
):
    level = data.draw(st.integers(0, transform.levels))
    resolution = transform.block * 2
    names = bank(transform, native_level=level).names

    assert sum(transform.size(n, resolution) ** 2 for n in names) == (resolution >> level) ** 2


@given(TRANSFORMS, st.data())
def test_a_band_that_exists_at_a_level_exists_at_every_finer_one(
    transform: Transform, data: st.DataObject
):
    name = data.draw(st.sampled_from(transform.all_bands()))
    coarsest = transform.coarsest(name)

    for level in range(coarsest + 1):
        assert bank(transform, native_level=level, bands=(name,)).names == (name,)
    if coarsest < transform.levels:
        with pytest.raises(ValueError, match=f"band {name} does not exist at native level"):
            bank(transform, native_level=coarsest + 1, bands=(name,))


@given(TRANSFORMS.filter(lambda t: t.wavelet != "dmey"), st.data())
def test_a_box_at_any_level_gets_its_image_back_from_its_bands(
    transform: Transform, data: st.DataObject
):
    level = data.draw(st.integers(0, transform.levels))
    side = 2 * transform.block >> level
    image = np.random.default_rng(side).random((side, side))
    filters = bank(transform, native_level=level)

    bands = filters.analyze(image)

    for name, values in bands.items():
        assert values.shape == (transform.size(name, 2 * transform.block),) * 2
    assert_parity(filters.synthesize(bands), image, kind="float64")


@pytest.mark.parametrize("wavelet", ["haar", "db4", "bior4.4"])
def test_the_bands_of_a_coarse_box_are_those_of_fewer_levels_on_its_own_image(wavelet: str):
    image = np.random.default_rng(0).random((16, 16))

    coarse = bank(Transform("wavelet", 3, wavelet), native_level=1).analyze(image)

    plain = bank(Transform("wavelet", 2, wavelet)).analyze(image)
    for name, values in plain.items():
        assert_parity(coarse[f"{name[:2]}{int(name[2]) + 1}"], values, kind="float64")


def test_the_dct_of_a_coarse_box_is_the_dct_of_half_the_size_on_its_own_image():
    image = np.random.default_rng(0).random((16, 16))

    coarse = bank(Transform("dct", 3), native_level=1).analyze(image)

    plain = bank(Transform("dct", 2)).analyze(image)
    assert list(coarse) == list(plain)
    for name, values in plain.items():
        assert_parity(coarse[name], values, kind="float64")


@pytest.mark.parametrize("level", [1, 2])
def test_haar_bands_of_the_area_averaged_image_equal_those_of_the_fine_one(level: int):
    image = np.random.default_rng(0).random((16, 16))
    transform = Transform("wavelet", 3, "haar")

    coarse = bank(transform, native_level=level).analyze(area_averaged(image, 2**level))

    fine = bank(transform).analyze(image)
    for name, values in coarse.items():
        assert_parity(values, fine[name], kind="float64")


def test_the_approximation_of_a_dct_survives_area_averaging_whatever_the_level():
    image = np.random.default_rng(0).random((16, 16))
    fine = bank(DCT4).analyze(image)["dct00"]

    for level in (0, 1, 2):
        averaged = area_averaged(image, 2**level)
        coarse = bank(DCT4, native_level=level).analyze(averaged)
        assert_parity(coarse["dct00"], fine, kind="float64")


def test_no_level_at_all_is_the_image_as_one_band():
    plain = Transform("wavelet", 0, "haar")
    image = np.random.default_rng(0).random((3, 5))

    assert plain.bands() == plain.all_bands() == ("cA0",)
    assert_parity(bank(plain).analyze(image)["cA0"], image, kind="float64")


def test_order_follows_the_listing():
    assert [HAAR2.order(name) for name in HAAR2.all_bands()] == list(range(8))


def test_a_transform_is_written_as_the_command_line_takes_it():
    assert str(DCT4) == "dct:4"
    assert str(HAAR2) == "haar, 2 levels"
    assert str(Transform("wavelet", 1, "db2")) == "db2, 1 level"


def test_synthesis_counts_a_band_left_out_as_zero():
    image = np.random.default_rng(0).random((8, 8))
    bands = dict(bank(HAAR2).analyze(image))

    coarse = bank(HAAR2).synthesize({"cA2": bands["cA2"]})

    assert_parity(coarse, np.kron(area_averaged(image, 4), np.ones((4, 4))), kind="float64")


# -- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["LH", "cA3", "cH0", "cA01", "dct00", "ca1", "", "cA"])
def test_a_name_that_is_no_band_is_refused(name: str):
    assert not HAAR2.is_band(name)
    with pytest.raises(ValueError, match=f"'{name}' is not a band of haar, 2 levels"):
        HAAR2.coarsest(name)
    with pytest.raises(ValueError, match=f"'{name}' is not a band of haar, 2 levels"):
        HAAR2.size(name, 8)


@pytest.mark.parametrize("name", ["dct04", "dct40", "cA1", "dct000", "dct"])
def test_a_name_that_is_no_dct_band_is_refused(name: str):
    with pytest.raises(ValueError, match=f"'{name}' is not a band of dct:4"):
        DCT4.coarsest(name)


@pytest.mark.parametrize("level", [-1, 3])
def test_a_native_level_that_the_transform_has_not_is_refused(level: int):
    with pytest.raises(ValueError, match=rf"native level {level} is not in 0\.\.2"):
        bank(HAAR2, native_level=level)


def test_an_image_that_does_not_divide_into_blocks_is_refused():
    with pytest.raises(ValueError, match="size 6 is not a multiple of the stride 4"):
        bank(HAAR2).analyze(np.zeros((8, 6)))


def test_synthesis_of_an_unknown_band_is_refused():
    with pytest.raises(ValueError, match=r"bands \['cA7'\] are not in this bank of \['cA2'"):
        bank(HAAR2).synthesize({"cA7": np.zeros((2, 2))})


def test_synthesis_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"bands \[\] are not in this bank"):
        bank(HAAR2).synthesize({})


def test_synthesis_of_a_redundant_band_is_refused():
    both = bank(HAAR2, bands=HAAR2.all_bands())
    bands = both.analyze(np.zeros((8, 8)))

    with pytest.raises(ValueError, match=r"bands \['cA1'\] are redundant"):
        both.synthesize(bands)

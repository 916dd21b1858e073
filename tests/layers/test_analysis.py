"""The torch modules compute what the numpy reference does, in the order that a branch reads."""

import numpy as np
import pytest
import torch

from edge_stl.bands import Transform, bank
from edge_stl.layers import Analysis, Synthesis
from edge_stl.testing import assert_parity


TRANSFORMS = {
    "haar": Transform("wavelet", 2, "haar"),
    "db4": Transform("wavelet", 2, "db4"),
    "dmey": Transform("wavelet", 2, "dmey"),
    "bior4.4": Transform("wavelet", 2, "bior4.4"),
    "dct:4": Transform("dct", 2),
}
Each = pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)


def images(n: int, channels: int, side: int) -> np.ndarray:
    return np.random.default_rng(side).random((n, channels, side, side)).astype(np.float32)


def groups(transform: Transform) -> list[tuple[str, ...]]:
    """Return sets of bands of one size, one of them out of the usual order."""
    if transform.kind == "dct":
        return [transform.bands(), ("dct33", "dct00", "dct12")]
    return [("cA2",), ("cD2", "cA2", "cV2", "cH2"), ("cA1", "cH1", "cV1", "cD1"), ("cV1",)]


@Each
@pytest.mark.parametrize("channels", [1, 3])
def test_analysis_equals_the_numpy_reference_band_major(transform: Transform, channels: int):
    pixels = images(2, channels, 16)

    for names in groups(transform):
        filters = bank(transform, bands=names)
        actual = Analysis(filters, resolution=16)(torch.from_numpy(pixels))
        expected = filters.analyze(pixels)
        assert actual.dtype == torch.float32
        assert_parity(
            actual.numpy(), np.concatenate([expected[n] for n in names], axis=1), kind="float32"
        )


@Each
def test_analysis_at_a_coarser_native_level_equals_the_reference_too(transform: Transform):
    pixels = images(2, 3, 8)
    names = transform.approximation(2)
    filters = bank(transform, native_level=1, bands=names)

    actual = Analysis(filters, resolution=8)(torch.from_numpy(pixels))

    assert_parity(actual.numpy(), filters.analyze(pixels)[names[0]], kind="float32")


@Each
def test_synthesis_is_the_inverse_of_analysis(transform: Transform):
    filters = bank(transform)
    pixels = images(2, 3, 16)
    bands = filters.analyze(pixels)

    back = Synthesis(filters, resolution=16)([torch.from_numpy(bands[n]) for n in filters.names])

    assert_parity(back.numpy(), filters.synthesize(bands), kind="float32")
    if transform.wavelet != "dmey":  # its rounded taps miss the image by 1e-3, as PyWavelets' do
        assert_parity(back.numpy(), pixels, kind="float32")


def test_bands_of_different_sizes_in_one_analysis_are_refused():
    filters = bank(TRANSFORMS["haar"], bands=("cA2", "cH1"))

    with pytest.raises(ValueError, match=r"bands \('cA2', 'cH1'\) have different sizes"):
        Analysis(filters, resolution=8)


def test_a_band_too_few_in_synthesis_is_refused():
    filters = bank(TRANSFORMS["haar"])

    with pytest.raises(ValueError, match=r"zip\(\) argument"):
        Synthesis(filters, resolution=8)([torch.zeros(1, 1, 2, 2)])


def test_the_filters_are_no_part_of_a_saved_state():
    analysis = Analysis(bank(TRANSFORMS["haar"], bands=("cA2",)), resolution=8)

    assert not analysis.state_dict()
    assert not list(analysis.parameters())


# -- the paper's transforms: a band is a sum of two separable terms -------------------------------


POLYPHASE = [
    Transform(kind, 0, side=side)  # type: ignore[arg-type]
    for kind in ("stl-dct", "stl-dft")
    for side in (2, 3, 4, 6, 9)
]
Polyphase = pytest.mark.parametrize("transform", POLYPHASE, ids=str)


@Polyphase
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("times", [1, 4])
def test_polyphase_analysis_equals_the_numpy_reference_band_major(
    transform: Transform, channels: int, times: int
):
    side = transform.side * times
    pixels = images(2, channels, side)
    names = transform.bands()

    for asked in (names, names[::-1], names[2:3], (names[3], names[0])):
        filters = bank(transform, bands=asked)
        actual = Analysis(filters, resolution=side)(torch.from_numpy(pixels))
        expected = filters.analyze(pixels)
        assert actual.shape == (2, channels * len(asked), times, times)
        assert_parity(
            actual.numpy(), np.concatenate([expected[n] for n in asked], axis=1), kind="float32"
        )


@Polyphase
def test_polyphase_synthesis_is_the_inverse_of_analysis(transform: Transform):
    side = 2 * transform.side
    filters = bank(transform)
    pixels = images(2, 3, side)
    bands = filters.analyze(pixels)

    back = Synthesis(filters, resolution=side)([torch.from_numpy(bands[n]) for n in filters.names])

    assert_parity(back.numpy(), pixels, kind="float32")
    assert_parity(back.numpy(), filters.synthesize(bands), kind="float32")

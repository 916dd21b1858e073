"""Where the images lie makes no difference to a branch, and only its batch is asked for."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from device_agent._cache_digest import digests_of
from device_agent.pixels import PixelFile
from edge_stl.bands import _sharpness
from edge_stl.branch import Settings, Trainer, _augment, _minibatches
from edge_stl.plan import Plan, new_plan
from edge_stl.testing import assert_parity


SIDE = 16
COUNT = 50
LABELS = np.arange(COUNT) % 2


class Asked:
    """Images that remember how many of them were asked for at a time."""

    def __init__(self, images: np.ndarray) -> None:
        self._images = images
        self.shape = images.shape
        self.counts: list[int] = []

    def __getitem__(self, index: np.ndarray, /) -> np.ndarray:
        assert index.ndim == 1
        self.counts.append(len(index))
        return self._images[index]


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (COUNT, SIDE, SIDE, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return new_plan(
        classes=("dark", "bright"),
        resolution=SIDE,
        levels=1,
        branches="all",
        network="cnn-xs",
        epochs=2,
        shift=0.2,
    )


@pytest.fixture
def trainer(plan: Plan) -> Callable[..., Trainer]:
    return lambda pixels: Trainer(
        pixels, LABELS, plan=plan, branch_name="all", settings=Settings.from_plan(plan)
    )


def run(job: Trainer) -> list[float]:
    losses = []
    while not job.finished:
        losses.append(job.step())
    return losses


def test_an_array_and_a_file_give_the_same_bytes(
    images: np.ndarray, tmp_path: Path, trainer: Callable[..., Trainer]
):
    path = tmp_path / "images.u8"
    path.write_bytes(images.tobytes())
    with PixelFile(path, images.shape, digests_of(images.reshape(COUNT, -1))) as pixels:
        filed, held = trainer(pixels), trainer(images)

        assert run(filed) == run(held)
        actual, expected = filed.finish(), held.finish()

    assert actual.parameters.keys() == expected.parameters.keys()
    for name, tensor in expected.parameters.items():
        assert actual.parameters[name].tobytes() == tensor.tobytes(), name
    assert (actual.temperature, actual.log_loss) == (expected.temperature, expected.log_loss)


def test_only_a_batch_is_asked_for_at_a_time(
    images: np.ndarray, trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
):
    for room in (_minibatches, _sharpness):
        monkeypatch.setattr(room, "_AT_ONCE", 2 * SIDE * SIDE * 3)
    asked = Asked(images)
    job = trainer(asked)
    assert asked.counts == []

    run(job)
    assert sum(asked.counts) == 2 * len(job.minibatches.train)
    assert max(asked.counts) <= job.batch_size

    asked.counts.clear()
    job.finish()
    # Two of 25 of each class are held back; then all are looked at for their sharpness.
    assert asked.counts == [2, 2] + [2] * (COUNT // 2)


def test_what_is_cut_out_of_a_batch_is_what_is_cut_out_of_all_images(images: np.ndarray):
    draws = _augment.draw(np.random.default_rng(3), COUNT, side=SIDE, shift=0.3, flip=True)
    index = np.random.default_rng(4).integers(0, COUNT, 30)
    places = np.arange(SIDE)
    rows = np.clip(places + draws.rows[index, None], 0, SIDE - 1)
    cols = np.clip(places + draws.cols[index, None], 0, SIDE - 1)
    cols = np.where(draws.mirror[index, None], cols[:, ::-1], cols)

    expected = images[index[:, None, None], rows[:, :, None], cols[:, None, :]]

    assert np.array_equal(_augment.apply(Asked(images), index, draws), expected)


@pytest.mark.parametrize("values", [1, 5 * SIDE * SIDE * 3, 10**9])
def test_bands_of_a_few_images_at_a_time_are_the_bands_of_all(
    images: np.ndarray,
    trainer: Callable[..., Trainer],
    monkeypatch: pytest.MonkeyPatch,
    values: int,
):
    job = trainer(images)
    expected = job.minibatches.bands(images[:12])

    monkeypatch.setattr(_minibatches, "_AT_ONCE", values)
    found = job.minibatches.bands(images[:12])

    assert found.is_contiguous(memory_format=torch.channels_last)
    assert_parity(found, expected, kind="float32")


def test_small_images_are_taken_256_at_a_time_and_large_ones_a_few(
    trainer: Callable[..., Trainer],
):
    sizes = {}
    for side in (16, 64, 112, 336, 8192):
        job = trainer(np.zeros((COUNT, SIDE, SIDE, 3), np.uint8))
        job.minibatches.images = np.broadcast_to(np.uint8(0), (COUNT, side, side, 3))
        sizes[side] = job._at_once

    assert sizes == {16: 256, 64: 256, 112: 111, 336: 12, 8192: 1}

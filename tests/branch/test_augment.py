"""What happens to an image depends on the seed, the epoch and its place alone."""

import numpy as np
import pytest

from edge_stl.branch import _augment


def pixels(count: int = 12, side: int = 10) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3)).astype(np.uint8)


def draws(
    seed: int = 0, *, shift: float = 0.2, flip: bool = True, count: int = 12
) -> _augment.Draws:
    return _augment.draw(np.random.default_rng(seed), count, side=10, shift=shift, flip=flip)


def fixed(row: int, col: int, *, mirror: bool) -> _augment.Draws:
    return _augment.Draws(np.array([row]), np.array([col]), np.array([mirror]))


def test_the_batch_an_image_is_in_does_not_matter():
    images = pixels()
    together = _augment.apply(images, np.arange(12), draws())

    for part in (np.array([3]), np.array([7, 3, 0]), np.arange(12)[::-1]):
        assert np.array_equal(_augment.apply(images, part, draws()), together[part])


def test_another_seed_is_another_picture():
    every = np.arange(12)

    assert not np.array_equal(
        _augment.apply(pixels(), every, draws(0)), _augment.apply(pixels(), every, draws(1))
    )


def test_no_shift_and_no_flip_change_nothing():
    images = pixels()

    still = _augment.apply(images, np.arange(12), draws(shift=0.0, flip=False))

    assert np.array_equal(still, images)
    assert still is not images


def test_without_flip_nothing_is_mirrored_and_with_it_half():
    assert not draws(flip=False, count=1000).mirror.any()
    assert 400 < draws(flip=True, count=1000).mirror.sum() < 600


def test_shifts_reach_their_share_of_the_side_both_ways_and_no_further():
    many = draws(shift=0.2, count=1000)

    assert sorted(set(many.rows)) == sorted(set(many.cols)) == [-2, -1, 0, 1, 2]
    assert not np.array_equal(many.rows, many.cols)


@pytest.mark.parametrize(("shift", "reach"), [(0.04, 0), (0.06, 1), (0.5, 5)])
def test_a_shift_of_less_than_half_a_pixel_is_none(shift: float, reach: int):
    assert draws(shift=shift, count=1000).rows.max() == reach


def test_what_a_shift_uncovers_repeats_the_edge():
    image = np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1)
    first = np.array([0])

    down = _augment.apply(image, first, fixed(2, 0, mirror=False))[0, :, :, 0]
    left = _augment.apply(image, first, fixed(0, -1, mirror=False))[0, :, :, 0]

    assert down[:, 0].tolist() == [8, 12, 12, 12]
    assert left[0].tolist() == [0, 0, 1, 2]


def test_a_mirrored_image_is_turned_left_to_right_after_its_shift():
    image = np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1)
    first = np.array([0])

    mirrored = _augment.apply(image, first, fixed(0, 0, mirror=True))
    both = _augment.apply(image, first, fixed(0, 1, mirror=True))

    assert np.array_equal(mirrored, image[:, :, ::-1])
    assert both[0, 0, :, 0].tolist() == [3, 3, 2, 1]

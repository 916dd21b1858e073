"""Which images are held back: a share of each class, never the last ones of a small class."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from edge_stl.branch._split import split_validation


LABELS = st.lists(st.integers(0, 5), max_size=200).map(lambda x: np.array(x, dtype=np.int64))


@given(LABELS, st.floats(0, 0.5), st.integers(0, 2**32))
def test_every_image_is_on_exactly_one_side(labels: np.ndarray, share: float, seed: int):
    train, validation = split_validation(labels, share=share, seed=seed)

    assert sorted([*train, *validation]) == list(range(len(labels)))
    assert train.tolist() == sorted(train)
    assert validation.tolist() == sorted(validation)
    assert train.dtype == validation.dtype == np.int64


@given(LABELS, st.floats(0, 0.5), st.integers(0, 2**32))
def test_each_class_gives_its_share(labels: np.ndarray, share: float, seed: int):
    _, validation = split_validation(labels, share=share, seed=seed)

    for c in np.unique(labels):
        count, held = int((labels == c).sum()), int((labels[validation] == c).sum())
        if share == 0 or count < 5:
            assert held == 0
        else:
            assert held >= 1
            assert abs(held - share * count) <= max(0.5, 1 - share * count)


@pytest.mark.parametrize(("count", "held"), [(1, 0), (4, 0), (5, 1), (14, 1), (15, 2), (100, 10)])
def test_a_tiny_class_trains_on_all_of_its_images(count: int, held: int):
    _, validation = split_validation(np.zeros(count, np.int64), share=0.1, seed=0)

    assert len(validation) == held


@given(LABELS.filter(len), st.floats(0, 0.5), st.integers(0, 100))
def test_a_class_never_loses_all_of_its_training_images(
    labels: np.ndarray, share: float, seed: int
):
    train, _ = split_validation(labels, share=share, seed=seed)

    assert set(labels[train]) == set(labels)


def test_the_choice_follows_the_seed():
    labels = np.arange(200) % 2

    def held(seed: int) -> list[int]:
        return split_validation(labels, share=0.2, seed=seed)[1].tolist()

    assert held(0) == held(0)
    assert held(0) != held(1)

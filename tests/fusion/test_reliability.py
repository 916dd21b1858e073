"""How far a branch is above chance on its own box, and how much a small box's luck proves."""

import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from edge_stl.fusion import Member, reliability
from edge_stl.fusion._weights import DOUBT


EQUAL = (50,) * 4


@pytest.mark.parametrize(
    ("seen", "log_loss", "r"),
    [
        (4, math.log(4) / 3, 2.0),
        (4, math.log(2), 1.0),
        (4, math.log(4), 0.0),
        (4, 99.0, 0.0),
        (1, 0.0, 0.0),
        (4, 0.0, math.log(4) / -math.log(0.99) - 1),  # no answer counts as surer than 0.99
    ],
)
def test_reliability_is_how_many_times_chance_loses_more_less_one(
    seen: int, log_loss: float, r: float
) -> None:
    who = Member("b", "x", (2,) * seen + (0, 0), 1.0, log_loss)

    assert reliability(who) == pytest.approx(r, rel=1e-12, abs=1e-12)


@given(st.integers(0, 10_000), st.floats(0, 3))
def test_a_box_is_no_more_reliable_than_a_hundredth_of_its_validation_images(
    images: int, log_loss: float
) -> None:
    who = Member("b", "x", EQUAL, 1.0, log_loss, validation=images)
    exact = Member("b", "x", EQUAL, 1.0, log_loss)

    assert 0 <= reliability(who) <= min(images / DOUBT, reliability(exact)) * (1 + 1e-9)


def test_a_hundred_images_at_chance_are_added_to_those_that_were_measured() -> None:
    """Loss log 16 / 4 on 300 images and log 16 on 100 more are 7/16 log 16 on average."""
    who = Member("b", "x", (2,) * 16, 1.0, math.log(16) / 4, validation=300)

    assert reliability(who) == pytest.approx(16 / 7 - 1)


@pytest.mark.parametrize("classes", range(1, 30))
def test_a_loss_that_nothing_was_measured_on_proves_nothing_not_even_by_rounding(
    classes: int,
) -> None:
    """A box above chance by a rounding error would count as able, and silence those at chance."""
    losses = [*np.random.default_rng(classes).uniform(0, 5, 50), math.log(classes), 0.0]
    members = [Member("b", "x", (5,) * classes, 1.0, float(x), validation=0) for x in losses]

    assert {reliability(m) for m in members} == {0.0}

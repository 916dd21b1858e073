"""Allowed hours are read strictly, and go on after midnight."""

import datetime as dt
import re

import pytest
from hypothesis import given, strategies as st

from edge_stl.errors import UsageError
from edge_stl.service import parse_hours


def at(hour: int, minute: int = 0) -> dt.datetime:
    return dt.datetime(2026, 11, 22, hour, minute, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("22-6", [at(22), at(0), at(5, 59)], [at(6), at(21, 59), at(12)]),
        ("12-13", [at(12), at(12, 59)], [at(11, 59), at(13)]),
        ("22:30-6:15, 12-13", [at(22, 30), at(6, 14), at(12)], [at(22, 29), at(6, 15), at(13)]),
        ("0-24", [at(0), at(23, 59)], []),
        ("23-24", [at(23, 59)], [at(0), at(22, 59)]),
        ("23-0", [at(23, 59)], [at(0), at(22, 59)]),
    ],
)
def test_ranges_hold_their_first_minute_and_not_their_last(
    text: str, inside: list[dt.datetime], outside: list[dt.datetime]
):
    hours = parse_hours(text)

    assert [hours.allow(moment) for moment in inside] == [True] * len(inside)
    assert [hours.allow(moment) for moment in outside] == [False] * len(outside)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "'' is no range"),
        ("22", "'22' is no range"),
        ("22-", "'22-' is no range"),
        ("22-6,", "'' is no range"),
        ("22-25", "'22-25' is beyond the day"),
        ("24-6", "'24-6' is beyond the day"),
        ("7:60-8", "'7:60-8' is beyond the day"),
        ("24:01-3", "'24:01-3' is beyond the day"),
        ("6-6", "'6-6' is empty"),
        ("-3-6", "'-3-6' is no range"),
        ("٣-٦", "'٣-٦' is no range"),
        ("22-6\n", "'22-6' and more"),
    ],
)
def test_what_is_no_range_is_refused(text: str, problem: str):
    if text.endswith("\n"):  # blanks around a range are fine
        assert parse_hours(text).ranges == ((22 * 60, 6 * 60),)
        return
    with pytest.raises(UsageError, match=rf"^--hours {re.escape(text)}: {re.escape(problem)}; "):
        parse_hours(text)


@given(st.integers(0, 1439), st.integers(0, 1439), st.integers(0, 1439))
def test_a_range_and_its_opposite_share_the_day(start: int, end: int, minute: int):
    if start == end:
        return
    a, b = (f"{m // 60}:{m % 60:02}" for m in (start, end))
    moment = at(minute // 60, minute % 60)

    assert parse_hours(f"{a}-{b}").allow(moment) != parse_hours(f"{b}-{a}").allow(moment)

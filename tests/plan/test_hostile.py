"""Hostile plan files: refused in one line, whatever is wrong with them."""

import re
from pathlib import Path
from typing import Any

import pytest

from edge_stl.errors import UsageError
from edge_stl.plan import new_plan, plan_from_document, read_plan


BASE: dict[str, Any] = {
    "format": 1,
    "name": "p",
    "classes": ["cat", "dog"],
    "input": {"resolution": 8},
    "transform": {"kind": "wavelet", "wavelet": "haar", "levels": 2},
    "branches": [{"name": "coarse", "bands": ["cA2"], "network": "cnn-s"}],
}


def test_a_document_too_deep_is_refused():
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]

    with pytest.raises(UsageError, match="w: holds a value that no plan has: maximum recursion"):
        plan_from_document(deep, where="w")


@pytest.mark.parametrize(
    "text", ["format = " + "1" * 5000, "format = " + "[" * 900 + "]" * 900, "a." * 5000 + "a = 1"]
)
def test_a_file_that_no_reader_can_hold_is_refused(tmp_path: Path, text: str):
    path = tmp_path / "plan.toml"
    path.write_text(text)

    with pytest.raises(UsageError, match=r"plan\.toml: "):
        read_plan(path)


@pytest.mark.parametrize(
    "change",
    [
        {"a\nb\x1b[31m": 1},
        {"fusion": {"prior": {"cat\n": 1}}},
        {"fusion": {"weights": {"x\n": 1}}},
        {"x" * 10_000: 1},
        {"classes": ["cat", "dog", "x" * 10_000]},
        {"transform": {"kind": "stl-dct", "size": 10**3000}},
    ],
    ids=lambda change: str(change)[:20],
)
def test_a_refusal_is_one_line_that_fits_a_screen(change: dict[str, Any]):
    with pytest.raises(UsageError, match="w: ") as caught:
        plan_from_document(BASE | change, where="w")

    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_one_wrong_item_is_one_problem():
    with pytest.raises(UsageError, match=r"w: classes\.0: ") as caught:
        plan_from_document(BASE | {"classes": ["a/b", "dog"]}, where="w")

    assert "at least 2 items" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"transform": "dct:" + "9" * 5000}, "write dct:b with size b = 2, 4 or 8"),
        ({"transform": "dct:4", "levels": -1}, "--levels -1: dct of size 4 has 2"),
        ({"transform": "dct:4", "levels": 10**9}, "--levels 1000000000: dct of size 4 has 2"),
        ({"levels": 10**9}, "--levels 1000000000: a plan has 0 to 8"),
        ({"levels": -1}, "--levels -1: a plan has 0 to 8"),
    ],
    ids=lambda options: str(options)[:30],
)
def test_numbers_far_out_of_range_are_refused_at_once(options: dict[str, Any], sentence: str):
    with pytest.raises(UsageError, match=re.escape(sentence)):
        new_plan(**({"classes": ["a", "b"], "resolution": 8} | options))

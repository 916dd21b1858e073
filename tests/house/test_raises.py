"""Every expected exception has its message read."""

import ast
from pathlib import Path

import pytest


TESTS = Path(__file__).parents[1]


def unread(source: str) -> list[int]:
    """Return the lines of `pytest.raises` and `pytest.warns` that read no message."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and (
            (isinstance(node.func, ast.Attribute) and node.func.attr in {"raises", "warns"})
            or (isinstance(node.func, ast.Name) and node.func.id in {"raises", "warns"})
        )
        and not any(
            word.arg == "match"
            and not (isinstance(word.value, ast.Constant) and word.value.value in {"", None})
            for word in node.keywords
        )
    ]


def test_every_expected_exception_has_its_message_read():
    files = sorted(TESTS.rglob("*.py"))

    assert len(files) > 10
    found = {f"{f.relative_to(TESTS)}:{n}" for f in files for n in unread(f.read_text())}
    assert found == set()


@pytest.mark.parametrize(
    "line",
    [
        "with pytest.raises(ValueError): f()",
        "with pytest.raises(ValueError, check=bool): f()",
        "with raises(ValueError): f()",
        "with pytest.raises(ValueError, match=''): f()",
        "with pytest.raises(ValueError, match=None): f()",
        "pytest.raises(ValueError, f)",
        "with pytest.warns(UserWarning): f()",
    ],
)
def test_an_unread_message_is_found(line: str):
    assert unread(f"import pytest\n{line}\n") == [2]


def test_a_message_that_is_read_is_not_found():
    assert unread("with pytest.raises(ValueError, match='too large'): f()") == []

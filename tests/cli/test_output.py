"""What the command prints."""

import io

import pytest

from edge_stl.cli._output import print_json


def test_a_json_object_and_its_line_end_are_one_write(monkeypatch: pytest.MonkeyPatch):
    """Boxes of a trial on one machine share a stdout: their lines must not mix."""
    written: list[str] = []

    class Unbuffered(io.StringIO):
        encoding = "utf-8"

        def write(self, text: str) -> int:
            written.append(text)
            return len(text)

    monkeypatch.setattr("sys.stdout", Unbuffered())
    print_json({"a": "ä"})

    assert written == ['{"a": "ä"}\n']

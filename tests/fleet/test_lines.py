"""What a child says is heard line by line, without waiting and without filling the memory."""

import os
from collections.abc import Iterator

import pytest

from edge_stl.fleet._lines import Lines


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


def test_lines_are_heard_whole_and_as_they_come(pipe: tuple[int, int]):
    heard: list[str] = []
    lines = Lines(pipe[0], heard.append)
    lines.read()
    assert heard == []
    os.write(pipe[1], b'{"a": 1}\nwarn')
    lines.read()
    assert heard == ['{"a": 1}']
    os.write(pipe[1], b"ing\n\nedge-stl: \xff")
    os.close(pipe[1])
    lines.read()
    assert heard == ['{"a": 1}', "warning"]
    lines.read(end=True)
    assert heard[-1] == lines.last == "edge-stl: \N{REPLACEMENT CHARACTER}"


def test_the_last_words_are_plain_text_and_not_progress(pipe: tuple[int, int]):
    lines = Lines(pipe[0], lambda _: None)
    os.write(pipe[1], b'edge-stl: no space\n{"event": "alive"}\n')
    lines.read()

    assert lines.last == "edge-stl: no space"


def test_a_line_without_an_end_does_not_fill_the_memory(pipe: tuple[int, int]):
    heard: list[str] = []
    lines = Lines(pipe[0], heard.append)
    for _ in range(40):
        os.write(pipe[1], 50_000 * b"x")
        lines.read()
    assert len(lines._rest) <= 1 << 16
    os.write(pipe[1], b"\nafter\n")
    lines.read()

    assert (len(heard[0]), heard[1]) == (1 << 16, "after")

"""The log: one JSON object per line, or sentences; and nothing that happens to it stops anybody."""

import datetime as dt
import json
import os
from pathlib import Path
from typing import Any

import pytest

from edge_stl.service import Teller


def written(path: Path, clock: Any, *, human: bool, **facts: Any) -> str:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        tell = Teller(human=human, clock=clock, descriptor=descriptor)
        tell("failed", "box cam07:\nno \udcff space é", level="error", **facts)
    finally:
        os.close(descriptor)
    return path.read_text()


def test_a_line_is_one_json_object_with_both_clocks(tmp_path: Path, bench: Any):
    bench.clock.calendar = dt.datetime(
        2026, 11, 22, 1, 2, 3, 4567, tzinfo=dt.timezone(dt.timedelta(hours=9))
    )
    text = written(tmp_path / "log", bench.clock, human=False, exit_code=20)

    assert text.isascii()
    assert text.count("\n") == 1
    assert json.loads(text) == {
        "time": "2026-11-21T16:02:03.004Z",
        "monotonic": 1000.0,
        "level": "error",
        "event": "failed",
        "message": "box cam07:\nno \udcff space é",
        "exit_code": 20,
    }


def test_a_person_gets_a_sentence_with_the_local_time(tmp_path: Path, bench: Any):
    text = written(tmp_path / "log", bench.clock, human=True)

    assert text == "12:00:00 error: box cam07: no \\udcff space é\n"


@pytest.mark.parametrize("human", [False, True])
def test_a_full_disk_and_a_closed_log_stop_nothing(*, human: bool):
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        Teller(human=human, descriptor=full)("event", "sentence")
    finally:
        os.close(full)
    Teller(human=human, descriptor=full)("event", "sentence")
    reader, writer = os.pipe()
    os.close(reader)
    try:
        Teller(human=human, descriptor=writer)("event", "sentence")
    finally:
        os.close(writer)

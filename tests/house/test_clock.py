"""Nothing is decided by the clock on the wall: a box without a battery starts in 1970."""

import ast
from collections import Counter
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]
PACKAGES = ("edge_stl", "device_agent", "exporter")

ALLOWED: dict[str, dict[str, int]] = {
    # part of what an image is: one that was written anew is another one
    "edge_stl/images/_walk.py": {"st_mtime_ns": 1},
    # a file that changes while it is read: the same before and after, whatever it is
    "edge_stl/durable/_once.py": {"st_mtime_ns": 2},
    # says what the clock shows, and that it does not matter
    "device_agent/doctor/_clock.py": {"now": 1},
    # the allowed hours of a service, and the times in its log
    "edge_stl/service/_clock.py": {"now": 1},
    # whether a checkpoint is another one than a moment ago; how old it is, our own clock says
    "edge_stl/service/_agent_run.py": {"st_mtime_ns": 1},
}
"""File -> name -> how often it may stand there."""

_NAMES = {
    "asctime", "ctime", "fromtimestamp", "getatime", "getctime", "getmtime", "gmtime", "localtime",
    "mktime", "now", "st_atime", "st_atime_ns", "st_ctime", "st_ctime_ns", "st_mtime",
    "st_mtime_ns", "strftime", "time_ns", "today", "utcnow",
}  # fmt: skip
_REALTIME = {"CLOCK_REALTIME", "clock_gettime", "clock_gettime_ns"}


def readings(source: str) -> Counter[str]:
    """Return where a module reads the clock on the wall, or the times of a file."""
    found: Counter[str] = Counter()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            if node.attr in _NAMES | _REALTIME or (node.attr, owner) == ("time", "time"):
                found[node.attr] += 1
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            for name in node.names:
                found[name.name] += name.name in _NAMES | _REALTIME | {"time"}
    return +found


def test_nothing_reads_the_clock_but_what_is_named_here():
    files = [f for package in PACKAGES for f in sorted((ROOT / package).rglob("*.py"))]
    found = {str(f.relative_to(ROOT)): dict(readings(f.read_text())) for f in files}

    assert len(files) > 100
    assert {name: calls for name, calls in found.items() if calls} == ALLOWED


@pytest.mark.parametrize(
    "line",
    [
        "time.time()",
        "from time import time",
        "time.time_ns()",
        "time.localtime()",
        "datetime.datetime.now()",
        "dt.date.today()",
        "path.stat().st_mtime",
        "os.path.getmtime(path)",
        "time.clock_gettime(time.CLOCK_REALTIME)",
    ],
)
def test_a_line_that_reads_the_clock_is_found(line: str):
    assert readings(line)


@pytest.mark.parametrize(
    "line", ["time.monotonic()", "time.perf_counter()", "time.sleep(1)", "from time import sleep"]
)
def test_a_line_that_measures_a_duration_is_not_found(line: str):
    assert not readings(line)

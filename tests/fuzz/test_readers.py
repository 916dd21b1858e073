"""Two thousand damaged and forged files: accepted and equal, or refused; nothing is opened."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.fuzz.cases import (
    STRANGE,
    Outcomes,
    Seeds,
    Watch,
    _document_mutation,
    honest_seeds,
    one_case,
)


ROOT = Path(__file__).parents[2]
SHARES, CASES = 4, 500


@pytest.fixture(scope="module")
def seeds() -> Seeds:
    return honest_seeds()


@pytest.fixture(scope="session")
def watch() -> Watch:
    return Watch()


@pytest.mark.parametrize("share", range(SHARES))
def test_a_file_is_refused_or_accepted_and_equal_and_nothing_is_opened(
    share: int, seeds: Seeds, watch: Watch
):
    rng = np.random.default_rng([6, share])
    for _ in range(50):  # what is imported on first use
        one_case(seeds, rng, Outcomes())
    outcomes = Outcomes()
    for case in range(CASES):
        with watch:
            one_case(seeds, rng, outcomes)
        assert not watch.seen, f"case {case} of share {share}: {watch.seen}"
    assert outcomes.cases == CASES
    assert outcomes.counts["branch: refused"] > CASES // 10
    assert outcomes.counts["ensemble: refused with 60"] > CASES // 50
    assert sum(n for kind, n in outcomes.counts.items() if "gate" in kind) > CASES // 10


def test_the_watch_sees_files_processes_and_sockets(watch: Watch, tmp_path: Path):
    path = tmp_path / "x"
    path.write_bytes(b"")
    with watch:
        path.read_bytes()
    assert watch.seen
    with watch:
        socket.socket().close()
    assert watch.seen
    with watch:
        subprocess.run([sys.executable, "-c", ""], check=True)
    assert watch.seen
    with watch:
        pass
    assert not watch.seen


def test_make_fuzz_prints_seed_cases_and_outcomes():
    ran = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.cases", "--minutes", "0.01", "--seed", "7"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    first, *_, last = ran.stdout.splitlines()
    assert first == "seed 7"
    assert "cases; slowest" in last
    assert "no file, process or socket opened" in last


def test_one_case_changes_nothing_that_the_next_is_made_of():
    """What was strange once is put into documents that are changed again."""
    rng, before = np.random.default_rng(0), repr(STRANGE)
    document: dict[str, object] = {"a": [1, {"b": 2}], "c": {"d": []}}
    for _ in range(3000):
        _document_mutation(document, rng)
        document.setdefault("a", [])
        if len(repr(document)) > 2000:
            document = {"a": [1, {"b": 2}], "c": {"d": []}}
    assert repr(STRANGE) == before

"""Every defence has a test that fails without it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


pytestmark = pytest.mark.slow
MUTANTS = Path(__file__).with_name("mutants.py")


def killed(*words: str) -> int:
    """Run the program, which ends with 0 only where every mutant was killed; return how many."""
    done = subprocess.run(
        [sys.executable, str(MUTANTS), *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=7200,
    )
    print(done.stdout)  # noqa: T201
    assert done.returncode == 0, done.stdout + done.stderr
    count, _, total = done.stdout.split()[-1].partition("/")
    assert count == total
    return int(count)


def test_three_defences_that_are_taken_out_are_missed():
    assert killed("--fast") >= 3


@pytest.mark.skipif(not os.environ.get("EDGE_STL_NIGHT"), reason="make test-night")
def test_every_defence_that_is_taken_out_is_missed():
    assert killed() >= 16


def test_a_row_that_fits_nothing_any_more_is_an_error(tmp_path: Path):
    other = tmp_path / "tests" / "crash" / "mutants.py"
    other.parent.mkdir(parents=True)
    for name in ("mutants.py", "cotrain_mutants.py"):
        shutil.copy(MUTANTS.with_name(name), other.with_name(name))
    (tmp_path / "edge_stl" / "durable").mkdir(parents=True)
    (tmp_path / "edge_stl" / "durable" / "_lock.py").write_text("# written anew\n")

    done = subprocess.run(
        [sys.executable, str(other), "--only", "is locked"],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip

    assert done.returncode == 1
    assert "its text stands in edge_stl/durable/_lock.py 0 times; expected 1" in done.stdout


def test_a_word_that_names_no_defence_is_refused():
    done = subprocess.run(
        [sys.executable, str(MUTANTS), "--only", "moat"],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip

    assert done.returncode == 2
    assert "--only moat: no defence has that in its name" in done.stderr

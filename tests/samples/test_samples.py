"""Every sample runs, without arguments and without a warning."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]
LAST = "predict_without_torch"  # asks the ensemble that another sample makes
SAMPLES = sorted((ROOT / "samples").glob("*.py"), key=lambda path: (path.stem == LAST, path.stem))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all of them, as the root of a checkout is."""
    return tmp_path_factory.mktemp("samples")


def _run(sample: Path, folder: Path) -> str:
    ran = subprocess.run(
        [sys.executable, "-W", "error", str(sample)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.slow
@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_a_sample_runs(sample: Path, folder: Path) -> None:
    """The sample ends well, says something, and leaves its files under ``runs`` alone."""
    assert _run(sample, folder).strip()
    assert {path.name for path in folder.iterdir()} <= {"runs"}


def test_there_are_samples() -> None:
    """The glob above finds what samples/README.md promises."""
    assert len(SAMPLES) >= 5

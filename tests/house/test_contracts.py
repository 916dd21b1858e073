"""The import contracts hold, and would be broken by one forbidden line."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]
PACKAGES = ("edge_stl", "device_agent", "exporter")


def lint(folder: Path) -> tuple[int, str]:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_contracts_are_kept():
    code, text = lint(ROOT)

    assert code == 0, text
    assert "0 broken" in text


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        (
            "edge_stl/fusion/_pool.py",
            "import torch",
            "the desk and the deployment side never see torch BROKEN",
        ),
        (
            "exporter/split.py",
            "from edge_stl import branch",
            "the desk and the deployment side never see torch BROKEN",
        ),
        (
            "edge_stl/predict/_ensemble.py",
            "def late() -> None:\n    import pydantic",
            "the predictor needs numpy and onnxruntime, nothing else BROKEN",
        ),
        ("edge_stl/bands/_bank.py", "from edge_stl import plan", "rooms face one way BROKEN"),
        ("edge_stl/trust/_keys.py", "from edge_stl import images", "rooms face one way BROKEN"),
        (
            "device_agent/job.py",
            "from exporter import merge",
            "an agent exports, it does not merge BROKEN",
        ),
        (
            "device_agent/work.py",
            "def late() -> None:\n    import ray",
            "a cluster is the fleet's business alone BROKEN",
        ),
    ],
)
def test_one_forbidden_import_breaks_its_contract(
    copied: Path, file: str, line: str, contract: str
):
    with (copied / file).open("a") as source:
        source.write(f"\n\n{line}\n")

    code, text = lint(copied)

    assert code == 1, text
    assert contract in text

"""A run that dies at any of its calls goes on as if it had not, and dies as well in going on."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_stl.plan import new_plan, plan_from_document, plan_toml
from exporter.merge import merge_paths
from exporter.options import Options


pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
CLASSES = ["bus", "car"]
OPERATIONS = 8
NIGHT = pytest.mark.skipif(not os.environ.get("EDGE_STL_NIGHT"), reason="make test-night")


@pytest.fixture(scope="module")
def inputs(
    pictures: Callable[..., Path],
    fabricate_fleet: Callable[..., list[Path]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """What every operation reads: two plans, images of two days, branch files, an ensemble."""
    folder = tmp_path_factory.mktemp("inputs")
    for name, epochs in (("plan", 1), ("more", 3)):
        document = new_plan(
            classes=CLASSES, resolution=8, levels=1, network="mlp-s", epochs=epochs
        ).to_document()
        document.setdefault("training", {})["batch_size"] = 4
        plan = plan_from_document(document, where="test")
        (folder / f"{name}.toml").write_text(plan_toml(plan))
    pictures(folder / "photos", CLASSES, count=8, side=8)
    pictures(folder / "later", CLASSES, count=10, side=8)
    pictures(folder / "holdout", CLASSES, count=12, side=8, seed=1)
    plan = new_plan(classes=CLASSES, resolution=8, levels=1, network="mlp-s")
    files = fabricate_fleet(plan, folder / "branches", uneven=False)
    (folder / "fleet.onnx").write_bytes(merge_paths(files, options=Options()).model)
    return folder


def crash(inputs: Path, folder: Path, *words: str) -> Any:
    """Run the program that dies and goes on, and return what it found."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("crash_points.py")), inputs, folder, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
             "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=3000,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    print(json.dumps(found, indent=1))  # noqa: T201
    return found


def test_a_hundred_deaths_at_calls_that_change_the_disk_leave_no_trace(
    inputs: Path, tmp_path: Path
):
    found = crash(inputs, tmp_path / "runs", "--points", "100", "--pairs", "5")

    assert not found["bad"]
    assert len(found["tried"]) == OPERATIONS
    assert min(found["tried"].values()) >= 5
    assert sum(found["tried"].values()) >= 100
    assert sum(found["points"].values()) >= 600
    assert found["pairs"] == 10


@NIGHT
@pytest.mark.parametrize("part", ["1/2", "2/2"])
def test_a_death_at_any_call_leaves_no_trace(part: str, inputs: Path, tmp_path: Path):
    found = crash(inputs, tmp_path / "runs", "--pairs", "150", "--part", part)

    assert not found["bad"]
    assert sum(found["tried"].values()) >= 300
    assert found["pairs"] == 150

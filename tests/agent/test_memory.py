"""What a box needs in memory does not depend on how many images it has."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


CLASSES = ("bus", "car")
SIDE = 336
IMAGE_BYTES = SIDE * SIDE * 3
_JOB = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from device_agent.job import Job, run_job
from edge_stl.plan import new_plan, plan_from_document

document = new_plan(
    classes=("bus", "car"), resolution=336, transform="dct:8", branches="single",
    network="cnn-xs", epochs=1,
).to_document()
document["branches"] = document["branches"][:2]
folder = Path(sys.argv[1])
rows = run_job(
    Job(
        plan=plan_from_document(document, where="test"), images=folder / "images",
        out=folder / "out", work=folder / "work", box="cam01", branch="all",
    )
)
print(json.dumps([asdict(row) for row in rows]))
"""


def photos(folder: Path, count: int) -> None:
    """Write a few pictures and give each of them many names: every name is a row of the cache."""
    rng = np.random.default_rng(0)
    for index in range(count):
        path = folder / CLASSES[index % 2] / f"{index:04}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if index < 20:
            pixels = rng.integers(0, 256, (SIDE, SIDE + 30, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(path)
        else:
            path.hardlink_to(folder / CLASSES[index % 2] / f"{index % 20:04}.jpg")


def trained(folder: Path, count: int) -> float:
    """Return the peak memory, in 10^6 bytes, of an agent that trains two branches."""
    photos(folder / "images", count)
    ran = subprocess.run(
        [sys.executable, "-c", _JOB, str(folder)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    rows = json.loads(ran.stdout)
    assert len(rows) == 2
    assert {row["images"] for row in rows} == {count * 9 // 10}
    (cache,) = (folder / "work" / "images").glob("*.u8")
    assert cache.stat().st_size == count * IMAGE_BYTES
    return max(row["peak_rss_mb"] for row in rows)


@pytest.mark.slow
def test_ten_times_the_images_need_no_more_memory(tmp_path: Path):
    few, many = 40, 400
    more_pixels = (many - few) * IMAGE_BYTES / 1e6

    grown = trained(tmp_path / "many", many) - trained(tmp_path / "few", few)

    assert grown < 0.25 * more_pixels, f"{grown:.1f} MB more for {more_pixels:.0f} MB of pixels"

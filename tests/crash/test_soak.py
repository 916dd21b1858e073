"""Minutes of training, stopping, going on and merging in one process: nothing grows."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from device_agent import _steps
from device_agent.job import Job, run_job
from edge_stl.errors import Interrupted
from edge_stl.plan import new_plan, plan_from_document
from exporter.merge import merge_paths
from exporter.options import Options


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.environ.get("EDGE_STL_SOAK"), reason="make soak"),
]
MINUTES = float(os.environ.get("EDGE_STL_SOAK_MINUTES", "20"))
CLASSES = ["bus", "car"]
GENERATIONS = 3


def resident() -> int:
    """Return the memory of this process in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_training_stopping_and_merging_for_minutes_lets_nothing_grow(
    pictures: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(_steps, "CHECKPOINT_SECONDS", -1)
    document = new_plan(
        classes=CLASSES, resolution=16, levels=1, network="mlp-s", epochs=2
    ).to_document()
    document.setdefault("training", {})["batch_size"] = 16
    plan = plan_from_document(document, where="test")
    images = pictures(tmp_path / "photos", CLASSES, count=40, side=16)
    job = Job(plan, images, tmp_path / "out", tmp_path / "work", "cam07", branch="all")
    draws = np.random.default_rng(20261122)
    until = time.monotonic() + 60 * MINUTES
    rounds, stops = 0, 0
    memory: list[int] = []
    opened: list[int] = []
    files: list[int] = []
    while time.monotonic() < until or rounds < 60:
        rounds += 1
        own = replace(job, settings={"seed": rounds % 50})
        for _ in range(3):
            left = iter([False] * int(draws.integers(1, 30)))
            with suppress(Interrupted):
                run_job(own, should_stop=lambda left=left: next(left, True))
                break
            stops += 1
        run_job(own)
        merged = merge_paths(sorted(job.out.glob("*.onnx")), options=Options())
        assert len(merged.files) == 2
        memory.append(resident())
        opened.append(descriptors())
        files.append(sum(1 for p in job.work.rglob("*") if p.is_file()))
        if rounds % 100 == 0:
            print(f"{rounds} rounds, {stops} stops, {memory[-1] >> 20} MiB", flush=True)  # noqa: T201
    early, late = (float(np.median(part)) for part in (memory[20:40], memory[-20:]))
    print(  # noqa: T201
        f"{rounds} rounds, {stops} stops; memory {early / 2**20:.1f} MiB, at the end "
        f"{late / 2**20:.1f} MiB ({late / early - 1:+.2%}); descriptors {min(opened[20:])} to "
        f"{max(opened[20:])}; files of the work folder {min(files)} to {max(files)}"
    )

    assert late < 1.02 * early
    assert max(opened[20:]) == min(opened[20:])
    # box, lock, cache, its digests and its record; of each branch at most so many generations
    assert max(files) <= 5 + GENERATIONS * len(plan.branches)

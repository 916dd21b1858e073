"""`train --progress json`: lines for a program, at most one a second, that nobody has to read."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_agent.snapshot import Snapshot, write_snapshot
from edge_stl.cli import main
from edge_stl.cli._progress import JsonLines
from edge_stl.images import identities
from edge_stl.plan import new_plan, plan_toml


CLASSES = ["bus", "car"]


@pytest.fixture
def told() -> Iterator[tuple[JsonLines, list[float], Callable[[], list[dict[str, Any]]]]]:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    now = [0.0]

    def lines() -> list[dict[str, Any]]:
        try:
            return [json.loads(line) for line in os.read(reader, 1 << 20).splitlines()]
        except BlockingIOError:
            return []

    yield JsonLines(clock=lambda: now[0], descriptor=writer), now, lines
    os.close(reader)
    os.close(writer)


def test_progress_is_told_at_most_once_a_second_and_at_the_end(told: Any):
    lines, now, read = told
    for step in range(1, 101):
        now[0] += 0.125
        lines.training("d1", step, 100, step // 50, 0.5)
    found = read()

    assert [line["done"] for line in found] == [*range(1, 100, 8), 100]
    assert found[-1] | {"rss": 1} == {
        "event": "training", "branch": "d1", "done": 100, "total": 100, "epoch": 2, "loss": 0.5,
        "rss": 1,
    }  # fmt: skip
    assert found[0]["rss"] > 10**6


def test_a_loss_that_is_not_known_yet_is_null_as_json_has_no_nan(told: Any):
    lines, _, read = told
    lines.training("d1", 1, 1, 0, float("nan"))

    assert read()[0]["loss"] is None


def test_a_job_that_asks_whether_to_stop_is_alive_and_one_that_does_not_is_not(told: Any):
    lines, now, read = told
    asked = lines.living(lambda: True)
    for _ in range(100):
        now[0] += 0.5
        assert asked() is True
    assert [line["event"] for line in read()] == ["alive"] * 5
    now[0] += 1000
    assert read() == []


def test_a_listener_that_is_gone_costs_no_work():
    reader, writer = os.pipe()
    os.close(reader)
    try:
        JsonLines(descriptor=writer).note("nobody hears this")
    finally:
        os.close(writer)


@pytest.mark.slow
def test_train_tells_its_steps_and_takes_the_images_of_a_snapshot_alone(
    tmp_path: Path, pictures: Callable[..., Path]
):
    plan = new_plan(classes=CLASSES, resolution=8, levels=1, network="mlp-s", epochs=2)
    (tmp_path / "plan.toml").write_text(plan_toml(plan))
    photos = pictures(tmp_path / "photos", CLASSES, count=4, side=8)
    (photos / "bus" / "late.png").write_bytes(b"half of a photo")
    seen = identities(photos)
    (photos / "bus" / "late.png").write_bytes(b"more of this photo")
    write_snapshot(tmp_path / "seen", Snapshot(seen))
    done = subprocess.run(
        [
            sys.executable, "-m", "edge_stl", "train", "plan.toml", "photos", "-o", "out", "--box",
            "a", "--work", "work", "--threads", "1", "--json", "--progress", "json",
            "--only-images", "seen",
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )  # fmt: skip
    events = [json.loads(line) for line in done.stderr.splitlines()]
    (row,) = json.loads(done.stdout)["files"]

    assert {"decoding", "training"} <= {line["event"] for line in events}
    assert row["left_out"] == {"not_yet": 1}
    assert len(seen) == 9


def test_a_missing_snapshot_is_told(
    tmp_path: Path, pictures: Callable[..., Path], capsys: pytest.CaptureFixture[str]
):
    plan = new_plan(classes=CLASSES, resolution=8, levels=1, network="mlp-s")
    (tmp_path / "plan.toml").write_text(plan_toml(plan))
    photos = pictures(tmp_path / "photos", CLASSES, count=1, side=8)
    code = main(
        ["train", str(tmp_path / "plan.toml"), str(photos), "-o", str(tmp_path / "out"), "--box",
         "a", "--work", str(tmp_path / "w"), "--only-images", str(tmp_path / "nowhere")]
    )  # fmt: skip

    assert code == 20
    assert "nowhere: is missing or damaged" in capsys.readouterr().err
    assert isinstance(identities(photos), np.ndarray)

"""What `benchmarks.large` is made of: its photographs, its processes, what it keeps."""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import large
from benchmarks._fresh import fresh
from benchmarks._photos import class_names, photo, write_photos
from edge_stl.errors import EdgeStlError, Interrupted, ResourceError, UsageError
from edge_stl.images import scan
from edge_stl.plan import plan_toml, read_plan


def choices(**changes: Any) -> argparse.Namespace:
    facts: dict[str, Any] = {
        "bands": 36,
        "side": None,
        "branches": None,
        "classes": 3,
        "network": "cnn-xs",
        "epochs": 1,
        "threads": 1,
    }
    return argparse.Namespace(**(facts | changes))


def test_a_photograph_is_the_same_every_time_and_no_two_are_alike():
    first = photo(3, label=1, side=336)

    assert first.shape == (400, 500, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(photo(3, label=1, side=336), first)
    assert not np.array_equal(photo(4, label=1, side=336), first)
    assert not np.array_equal(photo(3, label=2, side=336), first)


def test_a_photograph_is_as_large_as_the_side_asks():
    assert photo(0, label=0, side=500).shape == (500, 625, 3)


def test_photographs_lie_in_class_folders_and_are_written_once(tmp_path: Path):
    weight = write_photos(tmp_path, count=7, classes=3, side=336)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jpg")}

    assert write_photos(tmp_path, count=7, classes=3, side=336) == weight
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jpg")} == before
    found = scan(tmp_path, class_names(3))
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert found.left_out == {}
    assert weight == sum(path.stat().st_size for path in before)
    assert 50_000 < weight / 7 < 150_000  # a JPEG of this size that somebody took


def test_what_was_not_finished_is_no_photograph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def cut(_: Image.Image, path: Path, **__: object) -> None:
        path.write_bytes(b"\xff\xd8\xff")
        raise KeyboardInterrupt("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", cut)
        with pytest.raises(KeyboardInterrupt, match="stopped"):
            write_photos(tmp_path, count=1, classes=1, side=336)

    assert not list(tmp_path.rglob("*.jpg"))
    write_photos(tmp_path, count=1, classes=1, side=336)
    assert scan(tmp_path, class_names(1)).left_out == {}


def test_a_disk_without_room_is_said(tmp_path: Path):
    (tmp_path / "file").touch()

    with pytest.raises(ResourceError, match=r"file: photographs cannot be written .*--out"):
        write_photos(tmp_path / "file", count=1, classes=1, side=336)


@pytest.mark.parametrize(
    ("changes", "branches", "size"),
    [({}, 36, 56), ({"bands": 4}, 4, 112), ({"bands": 9, "side": 30, "branches": 2}, 2, 10)],
)
def test_a_plan_has_one_branch_for_each_band(
    changes: dict[str, Any], branches: int, size: int, tmp_path: Path
):
    plan = large._plan(choices(**changes))

    assert len(plan.branches) == branches
    assert {plan.band_size(branch) for branch in plan.branches} == {size}
    (tmp_path / "plan.toml").write_text(plan_toml(plan))
    assert read_plan(tmp_path / "plan.toml").digest == plan.digest


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bands": 35}, "--bands 35: expected a square"),
        ({"bands": 9}, "--bands 9: give --side, a multiple of 3"),
        ({"branches": 0}, "--branches 0: expected 1 or more"),
    ],
)
def test_what_makes_no_plan_is_said(changes: dict[str, Any], said: str):
    with pytest.raises(UsageError, match=said):
        large._plan(choices(**changes))


@pytest.mark.parametrize("text", ["", "500,many", "500,0", "-3"])
def test_counts_are_numbers_above_zero(text: str):
    with pytest.raises(UsageError, match=r"--images .*: expected numbers"):
        large._counts(text)


def test_a_fresh_process_gives_the_result_and_its_own_peak():
    ballast = np.ones(50_000_000)  # memory of this process is none of the other one

    result, peak = fresh("benchmarks._photos:class_names", count=2)

    assert result == ["class000", "class001"]
    assert 10 < peak < ballast.nbytes / 1e6


def test_an_error_in_a_fresh_process_is_one_sentence_with_its_code():
    with pytest.raises(EdgeStlError, match=r"\Anowhere.onnx: there is no such file") as caught:
        fresh("benchmarks._stages:predict", ensemble="nowhere.onnx", images=[])

    assert caught.value.exit_code == 10


@pytest.mark.parametrize("code", [30, -2, -15])
def test_a_process_that_was_stopped_stops_this_one(code: int, monkeypatch: pytest.MonkeyPatch):
    def stopped(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], code, "", "stopped in branch p00\n")

    monkeypatch.setattr(subprocess, "run", stopped)

    with pytest.raises(Interrupted, match="stopped in branch p00"):
        fresh("benchmarks._stages:merge", files=[], ensemble="")


def test_predicting_does_not_load_torch_or_onnx():
    code = (
        "import sys, benchmarks._fresh, benchmarks._stages\n"
        "from edge_stl.predict import Ensemble\n"
        "print(*({'torch', 'onnx', 'device_agent'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ran.stdout.strip() == ""


@pytest.mark.slow
def test_a_whole_run_is_measured_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    chosen = choices(bands=4, side=32, branches=2)
    plan = large._plan(chosen)

    row = large._row(12, plan, tmp_path, chosen)

    monkeypatch.setattr(large, "fresh", None)  # nothing is measured again
    assert large._row(12, plan, tmp_path, chosen) == row
    assert row["cache_bytes"] == 12 * 32 * 32 * 3
    assert [branch["branch"] for branch in row["train"]["rows"]] == ["p00", "p01"]
    assert row["train"]["parts"] == 1
    assert 0 < row["train"]["build_peak_mb"] <= row["train"]["peak_mb"]
    assert row["merge"]["bytes"] == sum(p.stat().st_size for p in tmp_path.rglob("ensemble.onnx"))
    assert row["predict"]["images"] == large.PREDICTED
    assert json.loads(json.dumps(row)) == row
    more = row | {"images": 24, "cache_bytes": 3_036_864, "commit": "earlier"}
    lines = large.table([more, row], plan, threads=1)
    assert len({line.count("|") for line in lines[:4]}) == 1
    assert "stl-dct:2, R = 32 px, 2 branches of 16 x 16" in lines[-3]
    assert lines[-2].startswith("From 12 to 24 images the cache grows by 3 MB and the peak")
    assert lines[-1] == "Measured at commit earlier and kept since."

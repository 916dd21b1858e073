"""Two agents never write in one work folder, and a dead one keeps nobody out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from device_agent.work import WorkFolder
from edge_stl.cli import main
from edge_stl.errors import ResourceError
from edge_stl.plan import new_plan, plan_toml


ROOT = Path(__file__).parents[2]
TIMES = 20


def test_a_held_folder_is_refused_at_once_and_free_after_the_holder_was_killed(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("holding.py")), tmp_path / "w", str(TIMES)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )

    found = json.loads(done.stdout)
    assert (found["refused"], found["freed"]) == (TIMES, TIMES)
    assert found["slowest"] < 1  # it takes a tenth of a millisecond


def test_a_second_agent_gets_one_line_and_exit_code_20(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "photos" / "a").mkdir(parents=True)
    plan = tmp_path / "plan.toml"
    plan.write_text(plan_toml(new_plan(classes=["a", "b"], resolution=8, levels=1)))
    (tmp_path / "photos" / "a" / "x.png").write_bytes(b"")
    words = ["train", str(plan), str(tmp_path / "photos"), "-o", str(tmp_path / "out"), "--work",
             str(tmp_path / "work")]  # fmt: skip
    with WorkFolder(tmp_path / "work", "cam07"):
        before = {p.name: p.read_bytes() for p in (tmp_path / "work").iterdir()}

        for _ in range(TIMES):
            assert main(words) == 20
            (line,) = capsys.readouterr().err.strip().splitlines()
            assert "another agent is working here; one work folder has one agent" in line

        assert {p.name: p.read_bytes() for p in (tmp_path / "work").iterdir()} == before


@pytest.mark.parametrize("target", ["there", "nowhere"])
def test_a_lock_that_is_a_link_is_refused_and_what_it_points_to_is_let_be(
    target: str, tmp_path: Path
):
    work, other = tmp_path / "work", tmp_path / target
    work.mkdir()
    if target == "there":
        other.write_bytes(b"somebody's")
    (work / "lock").symlink_to(other)

    with (
        pytest.raises(ResourceError, match=r"lock: cannot be used .*; expected a file this user"),
        WorkFolder(work, "cam07"),
    ):
        pass

    assert other.exists() == (target == "there")
    assert target != "there" or other.read_bytes() == b"somebody's"
    assert sorted(p.name for p in work.iterdir()) == ["lock"]


def test_two_names_of_one_folder_are_one_folder(tmp_path: Path):
    (tmp_path / "link").symlink_to(tmp_path / "work")
    with (
        WorkFolder(tmp_path / "work", "cam07"),
        pytest.raises(ResourceError, match="another agent is working here"),
        WorkFolder(tmp_path / "link", "cam07"),
    ):
        pass

"""The work folder: whose it is, who is in it, and that it never leaves the box."""

from collections.abc import Callable
from pathlib import Path

import pytest

from device_agent.work import WorkFolder, default_work, refuse_nesting, resolve_work
from edge_stl.errors import ResourceError, UsageError
from edge_stl.plan import Plan, new_plan


@pytest.fixture
def plan() -> Plan:
    return new_plan(classes=["a", "b"], resolution=8, levels=1)


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


Ids = pytest.mark.parametrize(
    "box",
    ["", "Cam", "cam 1", "-cam", "../x", "cam_1", "c" * 33, "cam\n", "kamera-ü", "a/b", ".", "a.b"],
)


@Ids
def test_what_is_no_box_id_is_refused(box: str, plan: Plan):
    with pytest.raises(UsageError, match=r"--box .*: expected a name of lower-case letters"):
        resolve_work(plan, work=None, box=box)


@pytest.mark.parametrize("box", ["a", "cam07", "0", "north-gate-2", "c" * 32])
def test_a_name_is_a_box_id(box: str, plan: Plan, state: Path):
    assert resolve_work(plan, work=None, box=box) == (state / "edge-stl" / plan.digest / box, box)


def test_the_first_run_needs_an_id_which_is_remembered(plan: Plan, tmp_path: Path):
    work = tmp_path / "work"
    for given in (None, work):
        with pytest.raises(UsageError, match="--box is needed on the first run"):
            resolve_work(plan, work=given, box=None)
    with WorkFolder(work, "cam07"):
        pass
    assert resolve_work(plan, work=work, box=None) == (work, "cam07")
    assert resolve_work(plan, work=work, box="cam07") == (work, "cam07")
    with pytest.raises(UsageError, match=r"belongs to box 'cam07', not 'cam08'\. Give each box"):
        resolve_work(plan, work=work, box="cam08")


def test_the_only_box_of_a_plan_is_found_again_and_of_two_one_must_be_named(plan: Plan):
    first = resolve_work(plan, work=None, box="cam07")
    with WorkFolder(*first):
        pass
    assert resolve_work(plan, work=None, box=None) == first
    with WorkFolder(*resolve_work(plan, work=None, box="cam08")):
        pass
    with pytest.raises(UsageError, match="--box is needed: boxes cam07, cam08 have worked"):
        resolve_work(plan, work=None, box=None)


def test_another_plan_has_another_folder(plan: Plan):
    other = new_plan(classes=["a", "b"], resolution=16, levels=1)
    assert default_work(plan) != default_work(other)


def test_without_a_state_folder_the_home_is_used(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_work(plan).is_relative_to(tmp_path / "home" / ".local" / "state" / "edge-stl")


NESTED: dict[str, Callable[[Path], tuple[Path, Path]]] = {
    "the same": lambda p: (p / "a", p / "a"),
    "work in out": lambda p: (p / "a", p / "a" / "work"),
    "out in work": lambda p: (p / "a" / "b" / "out", p / "a"),
    "by dots": lambda p: (p / "a", p / "b" / ".." / "a" / "work"),
    "by a link": lambda p: (p / "link", p / "real" / "work"),
}


@pytest.mark.parametrize("name", NESTED)
def test_what_is_copied_and_what_stays_are_never_inside_each_other(name: str, tmp_path: Path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    out, work = NESTED[name](tmp_path)
    with pytest.raises(UsageError, match="one is inside the other; OUT is copied off the box"):
        refuse_nesting(out, work)


def test_separate_folders_are_fine(tmp_path: Path):
    refuse_nesting(tmp_path / "out", tmp_path / "work")
    refuse_nesting(tmp_path / "work-out", tmp_path / "work")


def test_one_agent_at_a_time(tmp_path: Path):
    with (
        WorkFolder(tmp_path / "w", "a"),
        pytest.raises(ResourceError, match="another agent is working here; one work folder"),
        WorkFolder(tmp_path / "w", "a"),
    ):
        pass
    with WorkFolder(tmp_path / "w", "a") as again:
        assert again.branch("d1").is_dir()

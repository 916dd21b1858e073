"""Many jobs on local processes: each done once, one failure stops nobody, a stop leaves nobody."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_stl.cli import main
from edge_stl.fleet import _local, _task
from edge_stl.plan import new_plan, plan_toml


STAND_IN = Path(__file__).with_name("stand_in_agent.py")
CLASSES = ["bus", "car"]
Call = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def here(tmp_path: Path, pictures: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a plan and photos, and an agent that is quick."""
    plan = new_plan(classes=CLASSES, resolution=8, levels=1, network="mlp-s", epochs=1)
    (tmp_path / "plan.toml").write_text(plan_toml(plan))
    pictures(tmp_path / "photos", CLASSES, count=2, side=8)
    monkeypatch.setattr(_task, "_AGENT", (str(STAND_IN),))
    return tmp_path


@pytest.fixture
def train(here: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    def call(*options: str) -> tuple[int, Any, str]:
        capsys.readouterr()
        code = main(["train", "--jobs", str(here / "jobs.jsonl"), "--json", *options])
        out, err = capsys.readouterr()
        return code, json.loads(out)["jobs"] if out else None, err

    return call


def write(here: Path, *boxes: str, **keys: Any) -> None:
    """Write a jobs file with one job per box."""
    common = {"plan": "plan.toml", "images": "photos", "out": "out"} | keys
    lines = [json.dumps(common | {"box": box}) for box in boxes]
    (here / "jobs.jsonl").write_text("\n".join(lines))


def starts(here: Path, box: str) -> list[str]:
    path = here / "jobs.jsonl.work" / box / "work" / "starts"
    return path.read_text().splitlines() if path.exists() else []


def test_one_failure_stops_nobody_and_the_next_run_does_the_rest(
    train: Call, here: Path, assert_schema: Callable[[Any, str], None]
):
    write(here, "ok-1", "bad-1", "once-1", "always-1", "ok-2", "bad-2")
    code, jobs, err = train()

    assert code == 10, "that of the first failure in the file"
    assert_schema({"jobs": jobs}, "train-jobs")
    assert [(j["name"], j["line"], j["state"], j["attempts"], j["exit_code"]) for j in jobs] == [
        ("ok-1", 1, "done", 1, 0),
        ("bad-1", 2, "failed", 1, 10),
        ("once-1", 3, "done", 2, 0),
        ("always-1", 4, "failed", 3, 20),
        ("ok-2", 5, "done", 1, 0),
        ("bad-2", 6, "failed", 1, 10),
    ]
    assert err.splitlines() == [
        "edge-stl: job bad-1: cam: no image can be read",
        "edge-stl: job always-1: its process was killed by signal 9 3 times; expected it to end by "
        "itself. The machine may be short of memory: run fewer at a time",
        "edge-stl: job bad-2: cam: no image can be read",
    ]
    assert sorted(p.name for p in (here / "out").iterdir()) == [
        "d1.ok-1.onnx", "d1.ok-2.onnx", "d1.once-1.onnx",
    ]  # fmt: skip

    code, again, _ = train("--retries", "0")
    assert code == 10
    assert [j["already"] for j in again] == [True, False, True, False, True, False]
    assert [j["files"] for j in again] == [j["files"] for j in jobs]
    assert [len(starts(here, b)) for b in ("ok-1", "bad-1", "once-1", "always-1")] == [1, 2, 2, 4]


def change_settings(here: Path) -> None:
    write(here, "ok-1", "ok-2", seed=1)


def change_images(here: Path) -> None:
    os.utime(here / "photos" / "bus" / "000.png", (1, 1))


def change_plan(here: Path) -> None:
    plan = new_plan(classes=CLASSES, resolution=8, levels=1, network="mlp-s", epochs=2)
    (here / "plan.toml").write_text(plan_toml(plan))


def change_files(here: Path) -> None:
    for path in (here / "out").iterdir():
        path.write_bytes(b"other")


def remove_files(here: Path) -> None:
    shutil.rmtree(here / "out")


def damage_markers(here: Path) -> None:
    for box, data in {"ok-1": b'{"format": 1}', "ok-2": b"[" * 99_999}.items():
        (here / "jobs.jsonl.work" / box / "done.json").write_bytes(data)


CHANGES = [
    change_settings, change_images, change_plan, change_files, remove_files, damage_markers,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_job_is_done_anew_when_it_asks_for_something_else_or_its_files_are_gone(
    change: Callable[[Path], None], train: Call, here: Path
):
    write(here, "ok-1", "ok-2")
    assert train()[0] == 0
    assert [j["already"] for j in train()[1]] == [True, True]

    change(here)

    code, jobs, _ = train()
    assert code == 0
    assert [j["already"] for j in jobs] == [False, False]
    assert [j["already"] for j in train()[1]] == [True, True]


def test_machines_with_a_part_each_do_every_job_once(train: Call, here: Path):
    write(here, "ok-1", "ok-2", "ok-3", "ok-4", "ok-5")

    first, second = train("--shard", "1/2")[1], train("--shard", "2/2")[1]

    assert [j["name"] for j in first] == ["ok-1", "ok-3", "ok-5"]
    assert [j["name"] for j in second] == ["ok-2", "ok-4"]
    assert all(j["already"] for j in train()[1])
    assert train("--shard", "6/6")[0:2] == (0, [])


def test_a_job_whose_plan_or_images_are_missing_fails_alone(train: Call, here: Path):
    write(here, "ok-1")
    line = json.loads((here / "jobs.jsonl").read_text())
    lines = [line | {"box": "b", "plan": "none.toml"}, line | {"box": "c", "images": "none"}, line]
    (here / "jobs.jsonl").write_text("\n".join(map(json.dumps, lines)))

    code, jobs, err = train()

    assert (code, [j["exit_code"] for j in jobs]) == (2, [2, 10, 0])
    first, second = err.splitlines()
    assert first.startswith("edge-stl: job b: ")
    assert "none.toml: cannot be read" in first
    assert second.startswith("edge-stl: job c: ")


def test_a_job_that_another_run_is_at_is_left_to_it(train: Call, here: Path):
    write(here, "ok-1", "ok-2")
    held = _task._hold(here / "jobs.jsonl.work" / "ok-1" / "lock", "job ok-1", 0)
    try:
        code, jobs, err = train()
    finally:
        os.close(held)

    assert (code, [j["state"] for j in jobs]) == (20, ["failed", "done"])
    assert "another run is at job ok-1; expected one at a time" in err
    assert train()[0] == 0


def test_a_table_and_a_line_per_file_for_people(
    here: Path, train: Call, capsys: pytest.CaptureFixture[str]
):
    write(here, "ok-1", "bad-1")
    train()

    assert main(["train", "--jobs", str(here / "jobs.jsonl")]) == 10

    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].split() == ["job", "state", "branch", "box", "images", "validation", "seconds"]
    assert lines[1].startswith("ok-1   done before  d1")
    assert lines[2].split() == ["bad-1", "failed"]
    assert lines[3].startswith(f"{here}/out/d1.ok-1.onnx  sha256 ")
    assert lines[4] == "1 of 2 jobs are done"
    assert err == "edge-stl: job bad-1: cam: no image can be read\n"


def test_a_gpu_is_seen_by_those_who_ask_for_it_alone(
    train: Call, here: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    common = {"plan": "plan.toml", "images": "photos", "out": "out", "device": "auto"}
    asks = {"ok-0": 0, "ok-1": 1, "ok-2": 1, "ok-3": 0.5}
    lines = [json.dumps(common | {"box": box, "gpus": gpus}) for box, gpus in asks.items()]
    (here / "jobs.jsonl").write_text("\n".join(lines))

    assert train("--parallel", "4")[0] == 0

    seen = {box: starts(here, box)[0].split()[1:] for box in asks}
    assert seen["ok-0"] == []
    assert sorted([seen["ok-1"], seen["ok-2"]]) == [["4"], ["7"]]
    assert seen["ok-3"] in (["4"], ["7"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    shutil.rmtree(here / "jobs.jsonl.work")
    code, jobs, err = train()
    assert (code, [j["exit_code"] for j in jobs]) == (20, [0, 20, 20, 20])
    assert "job ok-1: gpus 1: this machine has no GPU; expected one. Ask for device cpu" in err


def test_gpus_are_counted_without_torch(monkeypatch: pytest.MonkeyPatch):
    for text, expected in {"": [], "-1": [], "0": ["0"], "GPU-ab, 3": ["GPU-ab", "3"]}.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", text)
        assert _local.visible_gpus() == expected


def test_cores_are_shared_out_and_who_wants_more_than_all_runs_alone():
    engine = _local.LocalEngine(cpus=2)
    started: list[str] = []

    class Instant:
        def __init__(self, task: _task.Task, **_: object) -> None:
            started.append(task.name)

        def poll(self) -> None:
            return None

        def kill(self) -> None:
            started.append("killed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_local, "Running", Instant)
        for name, cpus in (("wide", 8.0), ("a", 1.0), ("b", 1.0)):
            engine.start(_task.Task(name=name, arguments=(), cpus=cpus))
        assert engine.ended(0) == []
        assert started == ["wide"]
        patch.setattr(Instant, "poll", lambda _: _task.Ended(0))
        assert [task.name for task, _ in engine.ended(0)] == ["wide"]
        patch.setattr(Instant, "poll", lambda _: None)
        assert engine.ended(0) == []
        assert started == ["wide", "a", "b"]
        engine.__exit__()
        assert started[3:] == ["killed", "killed"]


WRONG: list[tuple[list[str], str]] = [
    (["--jobs", "jobs.jsonl", "plan.toml"], "--jobs and PLAN: each line of the jobs file says"),
    (["--jobs", "jobs.jsonl", "--box", "a", "-o", "out"], "--jobs and -o, --box: each line"),
    (["--jobs", "jobs.jsonl", "--branch", "auto"], "--jobs and --branch: each line"),
    (["--jobs", "jobs.jsonl", "--fresh"], "--jobs and --fresh: a job that is done"),
    (["--jobs", "none.jsonl"], "none.jsonl: cannot be read (No such file or directory)"),
    (["--jobs", "jobs.jsonl", "--shard", "0/3"], "--shard 0/3: is no part"),
    (["--jobs", "jobs.jsonl", "--ray-address", "auto"], "--ray-address auto: is for --engine ray"),
    (["--jobs", "jobs.jsonl", "--engine", "spark"], "'spark' is not one of"),
    (["--jobs", "jobs.jsonl", "--parallel", "0"], "0 is not in the range"),
    (["plan.toml", "photos", "-o", "out", "--box", "a", "--shard", "1/2", "--retries", "1"],
     "--shard, --retries: is for many jobs; expected --jobs FILE beside it"),
    ([], "Missing argument 'PLAN'"),
    (["plan.toml"], "Missing argument 'IMAGES'"),
    (["plan.toml", "photos"], "Missing option '-o' / '--out'"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "said"), WRONG)
def test_wrong_use_is_one_line(
    arguments: list[str],
    said: str,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    write(here, "ok-1")
    monkeypatch.chdir(here)

    assert main(["train", *arguments]) == 2

    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err
    assert not (here / "jobs.jsonl.work").exists()


COMMAND = """
import sys
from edge_stl.fleet import _task
_task._AGENT = (sys.argv[1],)
from edge_stl.cli import main
sys.exit(main(sys.argv[2:]))
"""


def alive(process: int) -> bool:
    """Return whether a process runs; one that ended and was not asked for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_for(what: Callable[[], Any], seconds: float = 60) -> Any:
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until
        time.sleep(0.02)
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stop_leaves_no_agent_behind_and_the_same_command_goes_on(
    number: signal.Signals, here: Path, train: Call
):
    """By the first two the command asks its agents; killed itself, the system does."""
    write(here, "ok-1", "long-1", "long-2", "long-3")
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(STAND_IN), "train", "--jobs",
         str(here / "jobs.jsonl"), "--parallel", "2"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    agents = [
        int(wait_for(lambda box=box: starts(here, box))[0].split()[0])
        for box in ("long-1", "long-2")
    ]
    process.send_signal(number)
    out, err = process.communicate(timeout=60)

    wait_for(lambda: not any(map(alive, agents)))
    for box in ("long-1", "long-2"):
        assert (here / "jobs.jsonl.work" / box / "work" / "checkpoint").exists(), "it was asked"
    assert not starts(here, "long-3")
    if number != signal.SIGKILL:
        assert (process.returncode, out) == (30, "")
        assert err == (
            "edge-stl: stopped; 1 of 4 jobs are done, and what the others did is kept. The same "
            "command goes on there\n"
        )
    write(here, "ok-1", "ok-2")
    assert [j["already"] for j in train()[1]] == [True, False]


def test_ray_that_is_not_installed_says_which_extra_brings_it(
    train: Call, here: Path, monkeypatch: pytest.MonkeyPatch
):
    from edge_stl.cli import _extras

    write(here, "ok-1")
    monkeypatch.setattr(_extras.importlib.util, "find_spec", lambda _: None)

    code, out, err = train("--engine", "ray")

    assert (code, out) == (2, None)
    assert err == "edge-stl: --engine ray needs ray: pip install 'edge-stl[fleet]'\n"


@pytest.mark.slow
@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nonsense"])
def test_a_cluster_that_does_not_answer_is_said_soon(address: str, here: Path):
    write(here, "ok-1")
    began = time.monotonic()

    ran = subprocess.run(
        [sys.executable, "-m", "edge_stl", "train", "--jobs", str(here / "jobs.jsonl"),
         "--engine", "ray", "--ray-address", address],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (20, "", 1)
    assert ran.stderr.startswith(f"edge-stl: --ray-address {address}: cannot be used (")
    assert time.monotonic() - began < 90

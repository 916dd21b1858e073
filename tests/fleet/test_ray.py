"""Ray is the same fleet: the same bytes as local processes, also when workers are killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_stl.cli import main
from edge_stl.plan import new_plan, plan_toml


pytestmark = pytest.mark.slow
CLASSES = ["bus", "car", "van"]
JOBS = 12

# One process starts Ray as the command does, and then takes commands: a start costs seconds.
SESSION = """
import contextlib, io, json, sys
from edge_stl.cli import main
from edge_stl.fleet._engine import open_engine
tell = sys.stdout
with open_engine("ray", cpus=2):
    print("ready", file=tell, flush=True)
    for line in sys.stdin:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(json.loads(line))
        print(json.dumps([code, out.getvalue(), err.getvalue()]), file=tell, flush=True)
"""


@pytest.fixture(scope="session")
def ray() -> Iterator[subprocess.Popen[str]]:
    """A process with a local Ray of two CPUs that takes commands, one JSON list per line.

    It is started as ``nohup COMMAND &`` starts one: with SIGINT ignored.
    """
    deaf = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n{SESSION}"
    process = subprocess.Popen(
        [sys.executable, "-c", deaf], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    process.stdin.close()
    assert process.wait(timeout=60) == 0
    process.stdout.close()


def ask(ray: subprocess.Popen[str], *arguments: str) -> None:
    assert ray.stdin is not None
    ray.stdin.write(json.dumps(arguments) + "\n")
    ray.stdin.flush()


def answer(ray: subprocess.Popen[str]) -> tuple[int, str, str]:
    assert ray.stdout is not None
    code, out, err = json.loads(ray.stdout.readline())
    return code, out, err


@pytest.fixture(scope="module")
def fleet(pictures: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four boxes of two resolutions, and the same twelve jobs for two engines."""
    folder = tmp_path_factory.mktemp("fleet")
    plan = new_plan(classes=CLASSES, resolution=16, levels=1, network="mlp-s", epochs=1)
    (folder / "plan.toml").write_text(plan_toml(plan))
    for i in range(4):
        pictures(folder / f"cam{i}", CLASSES, count=6, side=(16, 8)[i % 2], seed=i)
    for engine in ("local", "ray"):
        (folder / engine).mkdir()
        lines = [
            {"name": f"job{n}", "plan": "../plan.toml", "images": f"../cam{n % 4}",
             "out": f"out{n // 4}", "box": f"cam{n % 4}", "seed": n}
            for n in range(JOBS)
        ]  # fmt: skip
        (folder / engine / "jobs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def agents(folder: Path) -> dict[str, int]:
    """Return the process of every agent that works under a folder, by its work folder."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if "edge_stl" in words and "--work" in words:
            work = words[words.index("--work") + 1]
            if Path(work).is_relative_to(folder):
                found[work] = int(entry.name)
    return found


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[1])


def killed_in_the_middle(folder: Path) -> None:
    """Kill an agent, and after it the Ray worker that another agent has for a parent."""
    first: str | None = None
    until = time.monotonic() + 300
    while time.monotonic() < until:
        for work, process in agents(folder).items():
            if first is None:
                os.kill(process, signal.SIGKILL)
                first = work
            elif work != first:
                worker = parent(process)
                assert b"ray::" in Path(f"/proc/{worker}/cmdline").read_bytes()
                os.kill(worker, signal.SIGKILL)
                return
        time.sleep(0.02)
    raise AssertionError("the agents did not come")


def test_twelve_jobs_give_the_same_bytes_on_either_engine_even_when_workers_are_killed(
    ray: subprocess.Popen[str], fleet: Path
):
    ask(ray, "train", "--jobs", str(fleet / "ray/jobs.jsonl"), "--engine", "ray", "--json")
    killed_in_the_middle(fleet / "ray")
    code, out, err = answer(ray)
    assert (code, err) == (0, "")
    jobs = json.loads(out)["jobs"]
    assert [job["state"] for job in jobs] == ["done"] * JOBS
    assert sum(job["attempts"] for job in jobs) == JOBS + 2

    assert main(["train", "--jobs", str(fleet / "local/jobs.jsonl"), "--json"]) == 0

    local = sorted((fleet / "local").glob("out*/*.onnx"))
    assert len(local) == JOBS
    assert len({path.read_bytes() for path in local}) == JOBS
    for path in local:
        assert (fleet / "ray" / path.relative_to(fleet / "local")).read_bytes() == path.read_bytes()

    ask(ray, "train", "--jobs", str(fleet / "ray/jobs.jsonl"), "--engine", "ray", "--json")
    again = json.loads(answer(ray)[1])["jobs"]
    assert all(job["already"] for job in again)
    assert [job["files"] for job in again] == [job["files"] for job in jobs]


def timeless(document: Any) -> Any:
    """Return a document without its seconds."""
    if isinstance(document, dict):
        return {k: timeless(v) for k, v in document.items() if k != "seconds"}
    return [timeless(v) for v in document] if isinstance(document, list) else document


def test_a_simulation_has_the_same_results_on_either_engine(
    ray: subprocess.Popen[str], fleet: Path, capsys: pytest.CaptureFixture[str]
):
    command = ["simulate", str(fleet / "plan.toml"), str(fleet / "cam0"), "--repeat", "1",
               "--test", str(fleet / "cam2"), "--json", "-o"]  # fmt: skip
    ask(ray, *command, str(fleet / "far"), "--engine", "ray")
    code, far, err = answer(ray)
    assert (code, err) == (0, "")
    capsys.readouterr()
    assert main([*command, str(fleet / "near")]) == 0
    near = json.loads(capsys.readouterr().out)

    assert timeless(json.loads(far)) == timeless(near)
    assert [row["native_resolution"] for row in near["seeds"][0]["boxes"]] == [8, 16]
    files = sorted(p for p in (fleet / "near" / "seed0").rglob("*.onnx"))
    assert [p.name for p in files] == ["a1.box01.onnx", "d1.box02.onnx", "ensemble.onnx"]
    for path in files:
        assert (fleet / "far" / path.relative_to(fleet / "near")).read_bytes() == path.read_bytes()


def test_what_ray_cannot_do_is_said_for_the_job(ray: subprocess.Popen[str], fleet: Path):
    """No GPU, images that are not there; more cores than there are is no reason to wait forever."""
    done = json.loads((fleet / "ray/jobs.jsonl").read_text().splitlines()[0])
    lines = [
        done | {"name": "g", "box": "g", "device": "cuda"},
        done | {"name": "n", "box": "n", "images": "none"},
        done | {"name": "w", "box": "w", "cpus": 99, "images": "../cam1", "branch": "d1"},
    ]
    (fleet / "ray" / "odd.jsonl").write_text("\n".join(map(json.dumps, lines)))

    ask(ray, "train", "--jobs", str(fleet / "ray/odd.jsonl"), "--engine", "ray", "--json")
    code, out, err = answer(ray)

    assert (code, [j["exit_code"] for j in json.loads(out)["jobs"]]) == (20, [20, 10, 10])
    gpu, images, coarse = err.splitlines()
    assert gpu == (
        "edge-stl: job g: gpus 1: no machine of the cluster has a GPU; expected one. Ask for "
        "device cpu"
    )
    assert images.startswith("edge-stl: job n: ")
    assert "the images reach 8 px, which carries no such branch" in coarse


def test_a_stop_on_ray_leaves_a_checkpoint_and_nobody_behind(
    ray: subprocess.Popen[str], fleet: Path
):
    line = json.loads((fleet / "ray/jobs.jsonl").read_text().splitlines()[0])
    long = [line | {"name": f"long{n}", "box": f"long{n}", "epochs": 10**6} for n in range(3)]
    (fleet / "ray" / "long.jsonl").write_text("\n".join(map(json.dumps, long)))
    folder = fleet / "ray" / "long.jsonl.work"

    ask(ray, "train", "--jobs", str(fleet / "ray/long.jsonl"), "--engine", "ray")
    until = time.monotonic() + 300
    while not list(folder.glob("long*/work/d1")):
        assert time.monotonic() < until
        time.sleep(0.05)
    time.sleep(0.5)  # into the first steps
    ray.send_signal(signal.SIGTERM)
    code, out, err = answer(ray)

    assert (code, out) == (30, "")
    assert err.startswith("edge-stl: stopped; 0 of 3 jobs are done")
    assert not agents(folder)
    assert any(p.stat().st_size for p in folder.glob("long*/work/d1/*"))
    assert not list(folder.glob("*/done.json"))

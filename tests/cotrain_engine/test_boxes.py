"""Boxes as processes: killed, stopped, interrupted, started again; and the file that comes out."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image
from torch.distributed import TCPStore

from device_agent.cache import build_cache
from device_agent.cotrain._end import mean_model
from device_agent.cotrain._group import read_group
from device_agent.cotrain._methods import make_node
from device_agent.cotrain._problem import BranchProblem
from edge_stl._parent import ALONE
from edge_stl.branch import folded_parameters
from edge_stl.cli import main
from edge_stl.cotrain import Ledger, Seat, run_together
from edge_stl.images import scan
from edge_stl.plan import read_plan


ROOT = Path(__file__).parents[2]
PATIENCE = 150.0  # seconds for what takes one or two


class Box:
    """A process of a box."""

    def __init__(self, argv: list[str], env: dict[str, str], file: Path) -> None:
        self._file = file
        with file.open("wb") as into:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "edge_stl", *argv],
                env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | env,
                stdin=subprocess.DEVNULL,
                stdout=into,
                stderr=subprocess.STDOUT,
            )

    @property
    def said(self) -> str:
        return self._file.read_text()

    @property
    def rounds(self) -> int:
        told = [json.loads(x) for x in self.said.splitlines() if x.startswith('{"event": "train')]
        return max((event["done"] for event in told), default=0)

    def until(self, rounds: int) -> None:
        end = time.monotonic() + PATIENCE
        while self.rounds < rounds:
            assert time.monotonic() < end, self.said
            assert self.process.poll() is None, self.said
            time.sleep(0.02)

    def end(self) -> int:
        return self.process.wait(PATIENCE)

    @property
    def document(self) -> Any:
        (line,) = [x for x in self.said.splitlines() if x.startswith('{"method"')]
        return json.loads(line)


@pytest.fixture
def begun() -> Iterator[list[Box]]:
    """What a test started, which ends with it."""
    boxes: list[Box] = []
    yield boxes
    for box in boxes:
        box.process.kill()
        box.process.wait()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a plan and the images of four boxes, three of which saw two classes each."""
    rng = np.random.default_rng(0)
    names = ("red", "green", "blue")
    for number, box in enumerate(("cam01", "cam02", "cam03", "cam04")):
        for c, name in enumerate(names):
            if c == number:
                continue
            folder = tmp_path / "boxes" / box / name
            folder.mkdir(parents=True)
            for k in range(10):
                pixels = rng.integers(0, 120, (8, 8, 3))
                pixels[..., c] += 100
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{k}.png")
    plan = ["plan", "new", "--classes", ",".join(names), "--resolution", "8", "--levels", "1"]
    plan += ["--transform", "haar", "--branches", "single", "--network", "cnn-s-gn"]
    assert main([*plan, "-o", str(tmp_path / "plan.toml")]) == 0
    return tmp_path


def _group(place: Path, boxes: int, **changes: Any) -> Path:
    facts = {"name": "gate", "branch": "ca1", "graph": "ring", "rounds": 6, "batch": 4} | changes
    names = [f"cam0{k + 1}" for k in range(boxes)]
    lines = ["format = 1", f"boxes = {json.dumps(names)}"]
    lines += [f"{key} = {json.dumps(value)}" for key, value in facts.items()]
    path = place / f"group{boxes}.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


class Trial:
    """Boxes of one group on this machine, as torchrun would start them."""

    def __init__(self, begun: list[Box], place: Path, group: Path, boxes: int) -> None:
        self._begun, self._place, self._group, self._boxes = begun, place, group, boxes
        self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)

    def start(self, *options: str, method: str = "full") -> list[Box]:
        return [self.box(rank, *options, method=method) for rank in range(self._boxes)]

    def box(self, rank: int, *options: str, method: str) -> Box:
        name, place = f"cam0{rank + 1}", self._place
        argv = ["cotrain", method, str(place / "plan.toml"), str(place / "boxes" / name)]
        argv += ["--group", str(self._group), "--box", name, "-o", str(place / "out")]
        argv += ["--work", str(place / "work" / name), "--threads", "1", "--json"]
        argv += ["--progress", "json", *options]
        environment = {
            "RANK": str(rank),
            "WORLD_SIZE": str(self._boxes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self._store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            ALONE: "1",  # a signal is for the agent itself
        }
        file = place / f"said-{name}-{time.monotonic_ns()}"
        self._begun.append(Box(argv, environment, file))
        return self._begun[-1]


def _mean_in_one_process(place: Path, group: Path, method: str, boxes: int) -> dict[str, Any]:
    """Return the parameters that the same run in this process ends with."""
    plan = read_plan(place / "plan.toml")
    run = read_group(group, method, plan, {})
    problems = []
    for k in range(boxes):
        images = scan(place / "boxes" / f"cam0{k + 1}", plan.classes)
        cache = build_cache(
            images,
            resolution=8,
            levels=1,
            channels=3,
            fit="crop",
            max_pixels=1 << 20,
            max_bytes=1 << 20,
            folder=place / "again" / str(k),
        )
        problems.append(
            BranchProblem(
                np.asarray(cache.pixels[np.arange(len(cache.labels))]),
                cache.labels,
                plan=plan,
                branch="ca1",
                batch=run.group.batch,
                seed=run.group.seed,
            )
        )
        cache.pixels.close()
    nodes = [
        make_node(method, Seat(k, run.graph.neighbours[k]), problem, run.local, run.settings)
        for k, problem in enumerate(problems)
    ]
    run_together(nodes, rounds=run.group.rounds, ledger=Ledger())
    problems[0].load(mean_model([node.vector for node in nodes]))
    branch = plan.branch("ca1")
    return folded_parameters(
        problems[0].branch.module,
        plan.layers(branch),
        channels=plan.band_channels(branch),
        size=plan.band_size(branch),
    )


def _parameters(file: Path) -> dict[str, Any]:
    graph = onnx.load(file).graph
    return {t.name: numpy_helper.to_array(t) for t in graph.initializer}


def test_torchrun_ends_in_one_branch_file_with_the_bits_of_one_process(
    place: Path, assert_schema: Any, capfd: pytest.CaptureFixture[str]
):
    group = _group(place, 2, steps=2, momentum=0.5)
    argv = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    argv += ["edge_stl", "cotrain", "jwins", "plan.toml", "boxes", "--group", group.name]
    argv += ["--boxes-here", "--work", "work", "--threads", "1", "-o", "out", "--json", "-q"]
    done = subprocess.run(
        [sys.executable, *argv],
        cwd=place,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second = sorted(map(json.loads, done.stdout.splitlines()), key=lambda d: d["rank"])
    file = place / "out" / "ca1.gate.onnx"

    assert_schema(first, "cotrain")
    assert_schema(second, "cotrain")
    assert first["file"] == "out/ca1.gate.onnx"
    assert second["file"] is None
    assert first["sha256"] == second["sha256"]
    assert first["members"] == ["cam01", "cam02"]
    assert first["lost"] == []
    assert first["bytes"] == second["bytes"]
    rows = [{"box": each["box"], **each["sent"]} for each in (first, second)]
    for row in rows:
        del row["idle"]
    assert first["bytes"]["boxes"] == rows
    total = {key: rows[0][key] + rows[1][key] for key in rows[0] if key != "box"}
    assert first["bytes"]["total"] == total
    assert first["bytes"]["complete"] is True
    assert sorted(path.name for path in (place / "out").iterdir()) == ["ca1.gate.onnx"]
    ours, expected = _parameters(file), _mean_in_one_process(place, group, "jwins", 2)
    assert {k: v.tobytes() for k, v in ours.items() if k in expected} == {
        k: v.tobytes() for k, v in expected.items()
    }
    capfd.readouterr()
    assert main(["inspect", str(file), "--json"]) == 0
    (branch,) = json.loads(capfd.readouterr().out)["branches"]
    assert branch["cotrained"] == {
        "method": "jwins",
        "boxes": ["cam01", "cam02"],
        "rounds": 6,
        "graph": "ring",
        "settings": {
            "ranks": [0, 1],
            "steps": 2,
            "batch": 4,
            "rate": 0.05,
            "schedule": "constant",
            "momentum": 0.5,
            "nesterov": False,
            "weight_decay": 0.0,
            "own": {
                "shares": [0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 1.0],
                "probabilities": None,
                "metadata_cap": 0.5,
                "wavelet": "sym2",
                "level": 4,
                "mode": "symmetric",
                "accumulation": "round",
            },
        },
    }
    assert branch["images"] == first["images"] == 36  # two of ten are held back per class and box


def test_a_killed_box_and_a_stopped_one_are_named_and_the_others_finish_and_merge(
    begun: list[Box],
    place: Path,
    capfd: pytest.CaptureFixture[str],
    assert_schema: Callable[[Any, str], None],
):
    trial = Trial(begun, place, _group(place, 4, rounds=300, graph="full"), 4)
    boxes = trial.start("--peer-timeout", "4")
    boxes[0].until(3)
    boxes[3].process.kill()
    boxes[0].until(boxes[0].rounds + 3)
    boxes[1].process.send_signal(signal.SIGSTOP)

    assert [boxes[0].end(), boxes[2].end()] == [0, 0]
    boxes[1].process.kill()
    assert boxes[3].end() == boxes[1].end() == -signal.SIGKILL
    for box in (boxes[0], boxes[2]):
        assert "cam04: lost, its connection closed; going on without it" in box.said
        assert "cam02: lost, nothing was heard of it for 4 s; going on without it" in box.said
        assert [row["box"] for row in box.document["lost"]] == ["cam02", "cam04"]
        assert box.document["members"] == ["cam01", "cam03"]
        assert_schema(box.document, "cotrain")
        sent = {row.pop("box"): row for row in box.document["bytes"]["boxes"]}
        assert set(sent["cam02"].values()) == set(sent["cam04"].values()) == {None}
        own = sent[box.document["box"]]
        assert own == {key: box.document["sent"][key] for key in own}
        total = sent["cam01"]["bytes"] + sent["cam03"]["bytes"]
        assert box.document["bytes"]["total"]["bytes"] == total
        assert box.document["bytes"]["complete"] is False
    # Those who were lost on the way have left their mark on the others.
    file = place / "out" / "ca1.gate.onnx"
    capfd.readouterr()
    assert main(["inspect", str(file), "--json"]) == 0
    (branch,) = json.loads(capfd.readouterr().out)["branches"]
    assert branch["cotrained"]["boxes"] == ["cam01", "cam02", "cam03", "cam04"]
    train = ["train", str(place / "plan.toml"), str(place / "boxes" / "cam02"), "--box", "cam09"]
    train += ["--branch", "ch1", "--epochs", "1", "-o", str(place / "out"), "--threads", "1"]
    assert main([*train, "--work", str(place / "alone"), "-q"]) == 0
    ensemble = place / "ensemble.onnx"
    assert main(["merge", *map(str, sorted((place / "out").iterdir())), "-o", str(ensemble)]) == 0
    assert main(["evaluate", str(ensemble), str(place / "boxes" / "cam04")]) == 0


def test_ctrl_c_on_one_box_keeps_the_rounds_and_all_go_on_to_the_same_numbers(
    begun: list[Box], place: Path
):
    group = _group(place, 2, rounds=150, momentum=0.9)
    trial = Trial(begun, place, group, 2)
    boxes = trial.start()
    boxes[1].until(1)
    boxes[1].process.send_signal(signal.SIGINT)

    assert [box.end() for box in boxes] == [30, 30]
    assert "edge-stl: stopped after" in boxes[1].said
    assert "The same command on all boxes goes on there" in boxes[1].said
    assert "cam02: lost, it left the run" in boxes[0].said
    assert "edge-stl: every other box is lost after" in boxes[0].said
    trial = Trial(begun, place, group, 2)
    again = trial.start()
    assert [box.end() for box in again] == [0, 0], again[0].said
    assert 0 < again[0].document["resumed_at"] < 150
    assert f"going on after round {again[0].document['resumed_at']}" in again[0].said
    # The same numbers, and as many messages, as of a run that was never stopped.
    ours = _parameters(place / "out" / "ca1.gate.onnx")
    for name, array in _mean_in_one_process(place, group, "full", 2).items():
        assert ours[name].tobytes() == array.tobytes(), name
    assert again[0].document["sent"]["messages"] == 150 + 2


def test_a_star_ends_in_a_branch_file_for_the_bytes_that_were_told_before(
    begun: list[Box],
    place: Path,
    capsys: pytest.CaptureFixture[str],
    assert_schema: Callable[[Any, str], None],
):
    group = _group(place, 2)
    trial = Trial(begun, place, group, 2)
    boxes = trial.start(method="feddip")

    assert [box.end() for box in boxes] == [0, 0], boxes[0].said
    assert boxes[0].document["graph"] == "star"
    capsys.readouterr()
    asked = ["cotrain", "feddip", str(place / "plan.toml"), "any", "--group", str(group)]
    assert main([*asked, "-o", "any", "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert_schema(told, "cotrain-dry-run")
    sent = [box.document["sent"]["bytes"] for box in boxes]
    assert told["boxes"][1]["bytes"] == sent[1]
    assert abs(told["boxes"][0]["bytes"] - sent[0]) < 200  # what it says of the file
    weights = _parameters(place / "out" / "ca1.gate.onnx")
    zeros = sum(int((w == 0).sum()) for k, w in weights.items() if k.endswith("weight"))
    assert zeros > 0.5 * sum(w.size for k, w in weights.items() if k.endswith("weight"))

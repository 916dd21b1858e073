"""A worse or broken ensemble never replaces a working one: exit code, one line, the old answers."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edge_stl.cli import main
from edge_stl.deploy import _self_test, deploy
from edge_stl.errors import CheckError, IntegrityError
from edge_stl.plan import new_plan
from edge_stl.predict import Ensemble, Slots
from edge_stl.testing import assert_parity
from exporter.manifest import canonical_json
from tests.deploy.spoil import after_the_answer, changed, endless, hungry, set_numbers, slow


IMAGES = np.random.default_rng(3).integers(0, 256, (4, 8, 8, 1)).astype(np.uint8)


@pytest.fixture(scope="module")
def serving(old: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slots with the old ensemble; every test leaves them as they are."""
    folder = tmp_path_factory.mktemp("box")
    (folder / "old.onnx").write_bytes(old)
    deploy(folder / "old.onnx", folder / "slots")
    return folder / "slots"


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def refused(
    data: bytes, serving: Path, old: bytes, tmp_path: Path, capsys: Any, *options: str
) -> tuple[int, str]:
    """Deploy bytes that must not serve; return exit code and line after the old one answered."""
    before = files_of(serving)
    path = tmp_path / "new.onnx"
    path.write_bytes(data)
    code = main(["deploy", str(path), str(serving), *options])
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.strip().splitlines()
    assert line.startswith(f"edge-stl: {path}: ")
    assert files_of(serving) == before
    slots = Slots(serving)
    assert_parity(
        slots.open(threads=1)(IMAGES), Ensemble(old, threads=1)(IMAGES), kind="same_input"
    )
    assert slots.note is None
    return code, line


def record(model: onnx.ModelProto) -> Any:
    (entry,) = [p for p in model.metadata_props if p.key == "edge_stl.ensemble"]
    return entry


def other_vector(model: onnx.ModelProto) -> None:
    (entry,) = [p for p in model.metadata_props if p.key == "edge_stl.test_vector"]
    first, second, third = json.loads(entry.value)
    entry.value = canonical_json([first - 2e-4, second + 2e-4, third])


def without_vector(model: onnx.ModelProto) -> None:
    (entry,) = [p for p in model.metadata_props if p.key == "edge_stl.test_vector"]
    model.metadata_props.remove(entry)


def fewer_classes_in_the_record(model: onnx.ModelProto) -> None:
    document = json.loads(record(model).value)
    document["plan"]["classes"] = ["bus", "car"]
    record(model).value = canonical_json(document)
    (entry,) = [p for p in model.metadata_props if p.key == "edge_stl.test_vector"]
    entry.value = "[0.5,0.5]"


def huge_in_the_record(model: onnx.ModelProto) -> None:
    document = json.loads(record(model).value)
    document["plan"]["input"]["resolution"] = 10**6
    record(model).value = canonical_json(document)


def no_shares(model: onnx.ModelProto) -> None:
    """Say more of every class, and say so in the vector."""
    quarter = numpy_helper.from_array(np.array(0.25, np.float32), "quarter")
    model.graph.initializer.append(quarter)
    after_the_answer(model, lambda a, b: [helper.make_node("Add", [a, "quarter"], [b])])
    (entry,) = [p for p in model.metadata_props if p.key == "edge_stl.test_vector"]
    entry.value = canonical_json([p + 0.25 for p in json.loads(entry.value)])


def opset_99(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 99


def ir_99(model: onnx.ModelProto) -> None:
    model.ir_version = 99


BROKEN: dict[str, tuple[Callable[[bytes], bytes], int, str]] = {
    "empty": (lambda _: b"", 10, "is empty; expected an ensemble"),
    "truncated": (lambda d: d[: len(d) // 2], 40, "is not an ONNX file, or is truncated"),
    "no model": (lambda _: b"noise" * 99, 40, "is not an ONNX file, or is truncated"),
    "opset": (lambda d: changed(d, opset_99), 40, "too old for it, it does not know its IR"),
    "IR version": (lambda d: changed(d, ir_99), 40, "too old for it, it does not know its IR"),
    "NaN": (
        lambda d: changed(d, lambda m: set_numbers(m, "/temperature", float("nan"))),
        40,
        "answers nan where a probability belongs",
    ),
    "other numbers": (
        lambda d: changed(d, lambda m: set_numbers(m, "fusion/scale", 0.01)),
        40,
        "answers its test vector with a difference of ",
    ),
    "other vector": (
        lambda d: changed(d, other_vector), 40, "answers its test vector with a difference of 2"
    ),
    "no vector": (lambda d: changed(d, without_vector), 40, "has no test vector"),
    "fewer classes": (
        lambda d: changed(d, fewer_classes_in_the_record), 40, "its graph and its metadata differ"
    ),
    "huge": (lambda d: changed(d, huge_in_the_record), 40, "its graph and its metadata differ"),
    "no probabilities": (lambda d: changed(d, no_shares), 40, "miss the sum of 1 by 7.5e-01"),
    "all of the memory": (lambda d: changed(d, hungry), 40, "has operator 'Expand'"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_ensemble_is_refused_in_one_line_and_the_old_one_answers(
    what: str,
    old: bytes,
    serving: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    spoil, expected, words = BROKEN[what]
    code, line = refused(spoil(old), serving, old, tmp_path, capsys)
    assert (code, words in line) == (expected, True), line


def test_a_branch_file_is_no_ensemble(
    fabricate: Callable[..., bytes],
    old: bytes,
    serving: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    plan = new_plan(classes=["bus", "car"], resolution=16, levels=1, network="mlp-s")
    data = fabricate(plan, "a1", resolution=8)
    code, line = refused(data, serving, old, tmp_path, capsys)
    assert (code, "not an ensemble of edge-stl" in line) == (40, True)


def test_an_endless_loop_is_never_begun(
    old: bytes, serving: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    code, line = refused(changed(old, endless), serving, old, tmp_path, capsys)
    assert (code, "a subgraph of 'Loop'" in line or "operator 'Loop'" in line) == (40, True), line


def test_a_child_that_holds_its_alarm_back_is_killed(
    old: bytes,
    serving: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(_self_test, "CHILD", ("-c", "import time; time.sleep(600)"))
    monkeypatch.setattr(_self_test, "SECONDS", 1)
    monkeypatch.setattr(_self_test, "_GRACE", 0)
    code, line = refused(old, serving, old, tmp_path, capsys)
    assert (code, "did not end within 1 s" in line) == (40, True)


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import os; os.abort()", "the self-test crashed (SIGABRT)"),
        ("import os; os.kill(os.getpid(), 9)", "the self-test crashed (SIGKILL)"),
        ("import os; os.kill(os.getpid(), 11)", "the self-test crashed (SIGSEGV)"),
        ("raise SystemExit(3)", "the self-test crashed (exit code 3)"),
        ("pass", "the self-test crashed (exit code 0)"),
        ("print('Killed')", "the self-test crashed (exit code 0)"),
    ],
)
def test_a_test_that_crashes_is_no_test_that_was_passed(
    program: str,
    words: str,
    old: bytes,
    serving: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(_self_test, "CHILD", ("-c", program))
    code, line = refused(old, serving, old, tmp_path, capsys)
    assert (code, words in line) == (40, True), line


@pytest.mark.parametrize("classes", [("bus", "car"), ("bus", "van", "car")])
def test_other_classes_are_refused_by_name_unless_allowed(
    classes: tuple[str, ...],
    merged: Callable[..., bytes],
    old: bytes,
    serving: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    other = merged(classes)
    code, line = refused(other, serving, old, tmp_path, capsys)
    assert code == 40
    assert f"({', '.join(classes)}), slot a serves 3 (bus, car, van)" in line
    if len(classes) == 3:
        return
    (tmp_path / "old.onnx").write_bytes(old)
    deploy(tmp_path / "old.onnx", tmp_path / "own")
    command = ["deploy", str(tmp_path / "new.onnx"), str(tmp_path / "own")]
    assert main([*command, "--allow-other-classes"]) == 0
    assert Slots(tmp_path / "own").open().classes == classes


def test_one_that_is_three_times_as_slow_is_refused_with_both_times(
    old: bytes, serving: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    sluggish = changed(old, slow)
    code, line = refused(sluggish, serving, old, tmp_path, capsys)
    assert code == 40
    assert "ms an image on this machine, slot a took 0." in line
    assert "expected at most 3 times that" in line
    (tmp_path / "old.onnx").write_bytes(old)
    deploy(tmp_path / "old.onnx", tmp_path / "own")
    command = ["deploy", str(tmp_path / "new.onnx"), str(tmp_path / "own")]
    assert main([*command, "--max-ms", "60000"]) == 0


def test_one_over_its_budget_is_refused(
    new: bytes, old: bytes, serving: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    code, line = refused(new, serving, old, tmp_path, capsys, "--max-ms", "0.0001")
    assert (code, "expected at most the 0.0001 ms of --max-ms" in line) == (40, True)


def test_a_copy_that_is_not_what_was_copied_is_refused(tmp_path: Path, old: bytes):
    (tmp_path / "e.onnx").write_bytes(old)
    with pytest.raises(IntegrityError, match=r"^e: its copy is damaged"):
        _self_test.self_test(tmp_path / "e.onnx", "0" * 64, name="e")


def test_the_child_cannot_write_a_byte_to_a_file(tmp_path: Path):
    """RLIMIT_FSIZE is 0 in it: a write to a file ends it."""
    program = (
        "import os; from edge_stl.deploy import _child; _child._limit(60, 4 << 30); "
        f"os.write(os.open({str(tmp_path / 'x')!r}, os.O_WRONLY | os.O_CREAT), b'x')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        check=False,
        capture_output=True,
        text=True,
    )
    assert "File too large" in done.stderr
    assert not (tmp_path / "x").read_bytes()


def test_a_first_ensemble_that_fails_leaves_nothing(tmp_path: Path, old: bytes):
    (tmp_path / "e.onnx").write_bytes(old[:-100])
    with pytest.raises(CheckError, match="is not an ONNX file, or is truncated"):
        deploy(tmp_path / "e.onnx", tmp_path / "slots")
    assert {p.name for p in (tmp_path / "slots").iterdir()} == {"lock"}


def test_ctrl_c_in_the_self_test_is_exit_code_30_and_leaves_no_child(
    old: bytes,
    serving: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    pid = tmp_path / "pid"
    program = (
        f"import os, signal, time; open({str(pid)!r}, 'w').write(str(os.getpid())); "
        f"os.kill({os.getpid()}, signal.SIGINT); time.sleep(600)"
    )
    monkeypatch.setattr(_self_test, "CHILD", ("-c", program))
    before, handler = files_of(serving), signal.signal(signal.SIGINT, signal.default_int_handler)
    (tmp_path / "new.onnx").write_bytes(old)
    try:
        assert main(["deploy", str(tmp_path / "new.onnx"), str(serving)]) == 30
    finally:
        signal.signal(signal.SIGINT, handler)
    assert "stopped" in capsys.readouterr().err
    assert files_of(serving) == before
    with pytest.raises(ProcessLookupError, match="No such process"):
        os.kill(int(pid.read_text()), 0)


def test_the_child_cannot_take_more_memory_than_it_may():
    program = (
        "from edge_stl.deploy import _child; _child._limit(60, 1 << 30); bytearray(1100 << 20)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "MemoryError" in done.stderr

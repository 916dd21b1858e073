"""`edge-stl doctor` prints what it found, and its exit code says whether a run would work."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from device_agent import doctor
from device_agent.doctor import Check
from edge_stl.cli import main


ROOT = Path(__file__).parents[2]


def finding(status: str, fix: str | None = None) -> Check:
    return Check(name="memory", status=status, found=f"{status} found", fix=fix)  # type: ignore[arg-type]


@pytest.fixture
def finds(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def set_to(*checks: Check) -> None:
        monkeypatch.setattr(doctor, "examine", lambda **_: iter(checks))

    return set_to


@pytest.mark.parametrize("status", ["ok", "note", "warning"])
def test_what_stops_no_run_is_exit_code_0(
    status: str, finds: Callable[..., None], capsys: pytest.CaptureFixture[str]
):
    finds(finding("ok"), finding(status, fix="swapon /swapfile"))
    assert main(["doctor"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert f"{status} found" in out
    assert "fix memory: swapon /swapfile" in out.splitlines()


@pytest.mark.parametrize("json_too", [False, True])
def test_one_error_is_exit_code_20_and_one_line(
    json_too: bool,
    finds: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    assert_schema: Callable[[Any, str], None],
):
    finds(finding("ok"), finding("error"), finding("warning"))
    assert main(["doctor", *(["--json"] if json_too else [])]) == 20
    out, err = capsys.readouterr()
    assert err == (
        "edge-stl: doctor: memory: 1 of 3 checks would stop a run; expected none. Do what is "
        "printed above\n"
    )
    if json_too:
        document = json.loads(out)
        assert_schema(document, "doctor")
        assert document["status"] == "error"
    else:
        assert "error found" in out


def test_a_stop_is_a_stop(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def stopped(**_: object) -> Iterator[Check]:
        yield finding("ok")
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "examine", stopped)
    assert main(["doctor"]) == 30
    assert capsys.readouterr().err == "edge-stl: stopped; the same command starts again\n"


def test_wrong_words_are_wrong_use(capsys: pytest.CaptureFixture[str]):
    assert main(["doctor", "now"]) == 2
    assert main(["doctor", "--work"]) == 2
    assert capsys.readouterr().err.count("\n") == 2


def test_this_machine_is_looked_at_without_network_or_display_and_nothing_stays(
    tmp_path: Path, assert_schema: Callable[[Any, str], None]
):
    """One real run; torch, onnx and onnxruntime cannot be imported in the command itself."""
    code = (
        "import sys\n"
        "def hook(event, args):\n"
        "    if event.startswith('socket.'):\n"
        "        raise SystemExit('a socket: ' + event)\n"
        "sys.addaudithook(hook)\n"
        "for name in ('torch', 'onnx', 'onnxruntime'):\n"
        "    sys.modules[name] = None\n"
        "from edge_stl.cli import console\n"
        "sys.argv = ['edge-stl', 'doctor', '--json', '--work', 'later/work']\n"
        "console()\n"
    )
    environment = {k: v for k, v in os.environ.items() if k not in {"DISPLAY", "WAYLAND_DISPLAY"}}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert "Traceback" not in done.stderr
    document = json.loads(done.stdout)
    assert_schema(document, "doctor")
    assert done.returncode == (20 if document["status"] == "error" else 0), done.stderr
    names = {check["name"]: check for check in document["checks"]}
    assert len(names) == len(document["checks"]) == 12
    assert names["torch"]["values"]["version"]
    assert names["onnxruntime"]["values"]["version"]
    assert names["work folder"]["values"]["path"] == "later/work"
    assert list(tmp_path.iterdir()) == []

"""A package that dies, hangs or is missing is a finding of doctor, not its end."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from device_agent.doctor._machine import Machine
from device_agent.doctor._packages import (
    ONNX,
    ONNXRUNTIME,
    TORCH,
    Probe,
    onnx_check,
    onnxruntime_check,
    probe,
    torch_check,
)


PI = Machine(
    architecture="aarch64", bits=64, board="Raspberry Pi 4", l4t=None, nvidia=False, container=None
)
GPU = Machine(architecture="x86_64", bits=64, board="", l4t=None, nvidia=True, container=None)
CPU_INDEX = "pip install 'torch>=2.11' --index-url https://download.pytorch.org/whl/cpu"
Fake = Callable[[str, str], dict[str, str]]


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    """Put a package of one file before all others; return the environment that sees it."""

    def write(package: str, text: str) -> dict[str, str]:
        (tmp_path / f"{package}.py").write_text(text)
        return dict(os.environ) | {"PYTHONPATH": str(tmp_path)}

    return write


def test_torch_that_dies_by_an_illegal_instruction_is_reported_with_the_wheel_that_runs(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    dies = "import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n"
    check = torch_check(probe("torch", TORCH, environment=fake("torch", dies)), PI)
    assert check.status == "error"
    assert "died by SIGILL: a wheel made for another processor" in check.found
    assert check.fix == f"pip uninstall -y torch && {CPU_INDEX}"
    assert not list(tmp_path.glob("core*"))


def test_torch_that_dies_at_its_first_convolution_is_reported(fake: Fake):
    text = (
        "import os, signal\nclass nn:\n    class functional:\n        @staticmethod\n"
        "        def conv2d(*_):\n            os.kill(os.getpid(), signal.SIGSEGV)\n"
        "def ones(*_, **__):\n    return None\n"
    )
    check = torch_check(probe("torch", TORCH, environment=fake("torch", text)), PI)
    assert check.status == "error"
    assert "died by SIGSEGV" in check.found


def test_torch_that_hangs_is_killed_with_what_it_started(fake: Fake, tmp_path: Path):
    noted = tmp_path / "pid"
    hangs = (
        "import pathlib, subprocess, time\n"
        "other = subprocess.Popen(['sleep', '600'])\n"
        f"pathlib.Path({str(noted)!r}).write_text(str(other.pid))\n"
        "time.sleep(600)\n"
    )
    start = time.monotonic()
    found = probe("torch", TORCH, limit=1.5, environment=fake("torch", hangs))
    assert time.monotonic() - start < 30
    check = torch_check(found, PI)
    assert check.status == "error"
    assert "did not answer within 1.5 s" in check.found
    if noted.exists():  # on a busy machine the limit may end it before it starts another
        state = Path(f"/proc/{noted.read_text()}/stat")
        for _ in range(100):
            if not state.exists() or state.read_text().split()[2] == "Z":
                break
            time.sleep(0.05)
        else:
            pytest.fail("what the child started still runs")


def test_torch_that_leaves_a_process_behind_does_not_hold_doctor_up(fake: Fake):
    text = "import subprocess\nsubprocess.Popen(['sleep', '600'])\nraise ImportError('libcudart')\n"
    start = time.monotonic()
    found = probe("torch", TORCH, limit=2, environment=fake("torch", text))
    assert time.monotonic() - start < 30
    assert found.told is None


@pytest.mark.parametrize("package", ["torch", "onnx", "onnxruntime"])
def test_a_missing_package_is_a_note_with_the_command(package: str, fake: Fake):
    raises = f"raise ModuleNotFoundError(\"No module named '{package}'\")\n"
    code = {"torch": TORCH, "onnx": ONNX, "onnxruntime": ONNXRUNTIME}[package]
    found = probe(package, code, environment=fake(package, raises))
    assert found == Probe(None, missing=True)
    check = {
        "torch": lambda: torch_check(found, PI),
        "onnx": lambda: onnx_check(found),
        "onnxruntime": lambda: onnxruntime_check(found),
    }[package]()
    assert check.status == "note"
    assert "not installed" in check.found
    assert str(check.fix).startswith(f"pip install '{package}>=")


def test_a_package_that_lacks_another_one_is_broken_not_missing(fake: Fake):
    raises = "raise ModuleNotFoundError(\"No module named 'sympy'\")\n"
    check = torch_check(probe("torch", TORCH, environment=fake("torch", raises)), PI)
    assert check.status == "error"
    assert "cannot be used: ModuleNotFoundError: No module named 'sympy'" in check.found


def test_a_package_that_ends_the_process_without_a_word_is_broken(fake: Fake):
    for text in ("import os\nos._exit(0)\n", "import os\nos._exit(3)\n"):
        found = probe("onnx", ONNX, environment=fake("onnx", text))
        assert onnx_check(found).status == "error"
        assert "ended with" in found.failed


def test_a_folder_of_that_name_beside_the_user_is_not_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "onnx.py").write_text("__version__ = '0.0'\n")
    monkeypatch.chdir(tmp_path)
    found = probe("onnx", ONNX, environment={"PATH": os.environ["PATH"]})
    assert found.told != {"version": "0.0"}


@pytest.mark.parametrize(
    ("version", "cuda", "gpu", "on", "status"),
    [
        ("2.13.0+cpu", None, False, PI, "ok"),
        ("2.13.0", "13.0", False, PI, "note"),
        ("2.3.1", None, False, PI, "error"),
        ("2.13.0", "13.0", True, GPU, "ok"),
        ("2.13.0+cpu", None, False, GPU, "warning"),
        ("2.4a0", None, False, PI, "ok"),
        ("nonsense", None, False, PI, "error"),
    ],
)
def test_a_torch_build_is_judged_by_its_machine(
    version: str, cuda: str | None, gpu: bool, on: Machine, status: str
):
    check = torch_check(Probe({"version": version, "cuda": cuda, "gpu": gpu}), on)
    assert check.status == status
    assert (check.fix is None) == (status == "ok")


def test_an_onnxruntime_too_old_for_an_ensemble_is_an_error():
    check = onnxruntime_check(Probe({"version": "1.15.1", "providers": "CPUExecutionProvider"}))
    assert check.status == "error"
    assert "1.15.1; expected 1.16 or newer" in check.found
    assert check.fix == "pip install --upgrade 'onnxruntime>=1.16'"

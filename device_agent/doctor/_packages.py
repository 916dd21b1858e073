"""Packages with machine code, imported where a crash can be watched: in a child process.

A wheel that was built for a newer processor dies by an illegal instruction at import or at the
first convolution, and takes the process with it; one whose driver is missing may wait for ever.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from device_agent.doctor._check import Check, one_line
from device_agent.doctor._machine import Machine, torch_command


TIME_LIMIT = 90.0
"""Seconds for one import. Torch took 2 to 3 s where this was written; a cold SD card is slow."""

_PROLOGUE = """\
import json, resource
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # what dies here is a finding, not a core file
"""

TORCH = """\
import torch
x = torch.ones(2, 3, 16, 16, requires_grad=True)
torch.nn.functional.conv2d(x, torch.ones(4, 3, 3, 3)).sum().backward()
told = {"version": torch.__version__, "cuda": torch.version.cuda,
        "gpu": bool(torch.version.cuda) and torch.cuda.is_available()}
"""

ONNX = 'import onnx\ntold = {"version": onnx.__version__}\n'

ONNXRUNTIME = """\
import onnxruntime
told = {"version": onnxruntime.__version__,
        "providers": ", ".join(onnxruntime.get_available_providers())}
"""

OLDEST = {"torch": (2, 4), "onnx": (1, 16), "onnxruntime": (1, 16)}
"""The lower bounds of the extras."""


@dataclass(frozen=True)
class Probe:
    """How a child process fared: what it told, or why it could not."""

    told: dict[str, Any] | None
    missing: bool = False
    failed: str = ""


def probe(
    package: str,
    code: str,
    *,
    limit: float = TIME_LIMIT,
    environment: Mapping[str, str] | None = None,
) -> Probe:
    """Run a few lines with a package in a child process.

    Args:
        package: the package that may be missing.
        code: what imports it and sets ``told``.
        limit: seconds after which the child, and what it started, is killed.
        environment: of the child; by default this process's.

    Returns:
        what happened; nothing the child does ends this process.
    """
    script = f"{_PROLOGUE}{code}\nprint('\\n' + json.dumps(told), flush=True)\n"
    ended = _run(script, limit=limit, environment=environment)
    if isinstance(ended, str):
        return Probe(None, failed=ended)
    status, out, said = ended
    if status == 0:
        with suppress(ValueError, IndexError):
            told = json.loads(out.splitlines()[-1])
            if isinstance(told, dict):
                return Probe(told)
        return Probe(None, failed="ended without an answer")
    if status < 0:
        return Probe(None, failed=f"died by {_signal_name(-status)}")
    if said == f"ModuleNotFoundError: No module named '{package}'":
        return Probe(None, missing=True)
    return Probe(None, failed=said or f"ended with exit code {status}")


def _run(
    script: str, *, limit: float, environment: Mapping[str, str] | None
) -> tuple[int, bytes, str] | str:
    """Run a script in a child: exit code, stdout and last line of stderr, or what went wrong."""
    try:
        child = subprocess.Popen(  # noqa: S603  (our own lines, in the Python that runs us)
            # -P: a folder named torch in the present folder is not the package.
            [sys.executable, "-P", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        return f"no process can be started ({error.strerror})"
    with child:
        try:
            out, err = child.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            return f"did not answer within {limit:g} s"
        finally:
            # Also what the child started: it would hold our pipes open, and go on for ever.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
    lines = err.decode(errors="replace").strip().splitlines()
    return child.returncode, out, one_line(lines[-1]) if lines else ""


def torch_check(result: Probe, machine: Machine) -> Check:
    """Judge the torch build of this machine.

    Args:
        result: what `probe` found with `TORCH`.
        machine: decides which build fits.
    """
    command = torch_command(machine)
    if result.told is None:
        why = "a wheel made for another processor" if "SIGILL" in result.failed else ""
        return _without("torch", result, fix=command, why=why)
    version, cuda = str(result.told["version"]), result.told["cuda"]
    gpu = bool(result.told["gpu"])
    build = f"CUDA {cuda} build" if cuda else "CPU build"
    found = f"{version}, {build}, {'GPU seen' if gpu else 'no GPU seen'}, trains"
    values: dict[str, float | str | bool | None] = {"version": version, "cuda": cuda, "gpu": gpu}
    if _numbers(version) < OLDEST["torch"]:
        return _too_old("torch", version, values, fix=command)
    if machine.nvidia and not gpu:
        return Check(
            name="torch",
            status="warning",
            found=f"{found}; this machine has an NVIDIA GPU that this build does not use",
            fix=f"pip uninstall -y torch && {command}" if "whl/cpu" not in command else None,
            values=values,
        )
    if cuda and not gpu:
        return Check(
            name="torch",
            status="note",
            found=f"{found}; the CPU build is gigabytes smaller",
            fix=f"pip uninstall -y torch && {command}",
            values=values,
        )
    return Check(name="torch", status="ok", found=found, values=values)


def onnx_check(result: Probe) -> Check:
    """Judge onnx, which training and merging need."""
    return _plain("onnx", result, "training and merging")


def onnxruntime_check(result: Probe) -> Check:
    """Judge onnxruntime, which every verb but ``plan`` needs."""
    return _plain("onnxruntime", result, "training, merging and predicting")


def _plain(name: str, result: Probe, user: str) -> Check:
    fix = f"pip install '{name}>={'.'.join(map(str, OLDEST[name]))}'"
    if result.told is None:
        return _without(name, result, fix=fix, needed_by=user)
    version = str(result.told["version"])
    values: dict[str, float | str | bool | None] = {"version": version}
    if _numbers(version) < OLDEST[name]:
        return _too_old(name, version, values, fix=f"pip install --upgrade {fix[12:]}")
    more = result.told.get("providers")
    found = version + (f", {one_line(str(more))}" if more else "")
    return Check(name=name, status="ok", found=found, values=values)


def _without(
    name: str, result: Probe, *, fix: str, needed_by: str = "training", why: str = ""
) -> Check:
    if result.missing:
        return Check(
            name=name,
            status="note",
            found=f"not installed; {needed_by} needs it",
            fix=fix,
            values={"version": None},
        )
    return Check(
        name=name,
        status="error",
        found=f"a process that used it {result.failed}" + (f": {why}" if why else "")
        if result.failed.startswith(("died", "did", "ended"))
        else f"cannot be used: {result.failed}",
        fix=f"pip uninstall -y {name} && {fix}",
        values={"version": None, "failed": result.failed},
    )


def _too_old(
    name: str, version: str, values: Mapping[str, float | str | bool | None], *, fix: str
) -> Check:
    oldest = ".".join(map(str, OLDEST[name]))
    return Check(
        name=name,
        status="error",
        found=f"{version}; expected {oldest} or newer",
        fix=fix.replace("pip install torch ", "pip install --upgrade torch "),
        values=values,
    )


def _numbers(version: str) -> tuple[int, ...]:
    digits = [
        "".join(c for c in part if c.isdigit()) for part in version.partition("+")[0].split(".")
    ]
    return tuple(int(part or 0) for part in digits[:2])


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

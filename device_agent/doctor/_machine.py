"""What kind of machine this is: board, architecture, container, Python."""

import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from device_agent.doctor._check import Check, one_line


_NEEDED = (3, 11)
_SBSA_RELEASE = 38
"""JetPack 7 is L4T 38: the first with the userland, and so the wheels, of other ARM servers."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine, as far as it decides which wheels fit.

    Attributes:
        architecture: like ``x86_64`` or ``aarch64``.
        bits: 64 or 32, of this Python.
        board: what the board says it is, like ``Raspberry Pi 5 Model B Rev 1.0``; empty if silent.
        l4t: the major release of Jetson Linux, like 36 on JetPack 6, or None elsewhere.
        nvidia: an NVIDIA driver is loaded.
        container: like ``docker``, or None outside of one.
    """

    architecture: str
    bits: int
    board: str
    l4t: int | None
    nvidia: bool
    container: str | None


def this_machine(root: Path = Path("/")) -> Machine:
    """Return what kind of machine this is."""
    release = re.search(r"R(\d+)", read_text(root / "etc" / "nv_tegra_release"))
    return Machine(
        architecture=platform.machine(),
        bits=64 if sys.maxsize > 2**32 else 32,
        board=one_line(read_text(root / "proc" / "device-tree" / "model").strip("\0")),
        l4t=int(release[1]) if release else None,
        nvidia=(root / "proc" / "driver" / "nvidia" / "version").exists(),
        container=_container(root),
    )


def machine_check(machine: Machine) -> Check:
    """Say what the machine is; one of 32 bits has no wheels of torch or onnxruntime."""
    parts = [machine.board or "an unnamed board", f"{machine.architecture}, {machine.bits} bit"]
    if machine.l4t is not None:
        parts.append(f"Jetson Linux {machine.l4t}")
    found = ", ".join(parts)
    values: dict[str, float | str | bool | None] = {
        "architecture": machine.architecture,
        "bits": machine.bits,
        "board": machine.board,
        "l4t": machine.l4t,
        "nvidia": machine.nvidia,
    }
    if machine.bits != 64:  # noqa: PLR2004
        return Check(
            name="machine",
            status="error",
            found=f"{found}; torch and onnxruntime have wheels for 64 bit only: install a 64-bit "
            "system image",
            values=values,
        )
    return Check(name="machine", status="ok", found=found, values=values)


def container_check(machine: Machine) -> Check:
    """Say whether this is a container: what it writes outside its volumes goes with it."""
    values: dict[str, float | str | bool | None] = {"container": machine.container}
    if machine.container is None:
        return Check(name="container", status="ok", found="none", values=values)
    return Check(
        name="container",
        status="note",
        found=f"{machine.container}: images, work folder and output must lie on mounted volumes, "
        "or they go with the container",
        values=values,
    )


def python_check(version: tuple[int, ...] = sys.version_info[:3]) -> Check:
    """Check that Python is new enough."""
    text = ".".join(map(str, version))
    values: dict[str, float | str | bool | None] = {"version": text}
    if version[:2] < _NEEDED:
        return Check(
            name="python",
            status="error",
            found=f"{text}; expected 3.11 or newer",
            fix='docker run -it --rm -v "$PWD":/box -w /box python:3.11-slim bash',
            values=values,
        )
    return Check(name="python", status="ok", found=f"{text}, {sys.executable}", values=values)


def torch_command(machine: Machine) -> str:
    """Return the command that installs the torch build for a machine.

    The package index itself gives every Linux machine a CUDA build from torch 2.11 on; PyTorch's
    own CPU index gives the small one. Wheels for the GPU of JetPack 5 and 6 exist for Python 3.8
    and 3.10 only, so there the CPU build is the one that works.
    """
    if machine.l4t is not None and machine.l4t >= _SBSA_RELEASE:
        return "pip install torch --index-url https://pypi.jetson-ai-lab.io/sbsa/cu130/+simple/"
    if machine.nvidia and machine.l4t is None:
        return "pip install torch"
    return "pip install 'torch>=2.11' --index-url https://download.pytorch.org/whl/cpu"


def read_text(path: Path) -> str:
    """Return a small file of the system, or nothing where there is none to read."""
    try:
        with path.open("rb") as file:
            return file.read(65536).decode(errors="replace")
    except OSError:
        return ""


def _container(root: Path) -> str | None:
    if (root / ".dockerenv").exists():
        return "docker"
    if (root / "run" / ".containerenv").exists():
        return "podman"
    declared = one_line(read_text(root / "run" / "systemd" / "container"))
    if declared:
        return declared
    groups = read_text(root / "proc" / "1" / "cgroup")
    kinds = [k for k in ("kubepods", "docker", "lxc", "containerd") if k in groups]
    return kinds[0] if kinds else None

"""Removable media as they are: FAT and exFAT in a file of a few MB, mounted where one may."""

import contextlib
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


_MOST_SECONDS = 30


@dataclass
class Stick:
    """A mounted image of a file system.

    Attributes:
        root: where it is mounted.
        image: the file that holds it.
        kind: of file system and driver.
        driver: the process that serves it; none where the kernel does.
    """

    root: Path
    image: Path
    kind: str
    driver: subprocess.Popen[bytes] | None = None
    device: str | None = None

    @property
    def mounted(self) -> bool:
        """Return whether anything is mounted, dead or alive."""
        return any(
            line.split()[1] == str(self.root)
            for line in Path("/proc/self/mounts").read_text().splitlines()
        )

    def unplug(self) -> None:
        """Take the medium away while it is in use: every call fails from now on."""
        if self.driver is None:
            pytest.skip(f"{self.kind}: a medium of the kernel's cannot be taken away here")
        self.driver.kill()
        self.driver.wait()

    def pull(self) -> None:
        """Unmount it, whatever state it is in."""
        deadline = time.monotonic() + _MOST_SECONDS
        while self.mounted and time.monotonic() < deadline:
            subprocess.run(["umount", str(self.root)], check=False, capture_output=True)
            time.sleep(0.05)
        if self.driver is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.driver.wait(timeout=5)
            self.driver.kill()
            self.driver.wait()
        if self.device is not None:
            subprocess.run(["losetup", "-d", self.device], check=False)
            self.device = None

    def plug(self) -> None:
        """Mount it, or skip the test and say why."""
        refused = _PLUG[self.kind](self)
        deadline = time.monotonic() + _MOST_SECONDS
        while refused is None and not self.mounted:
            if time.monotonic() > deadline or (self.driver and self.driver.poll() is not None):
                refused = "the driver did not mount it"
            time.sleep(0.02)
        if refused is not None:
            self.pull()
            pytest.skip(f"{self.kind}: cannot be mounted on this machine ({refused})")


def _vfat(stick: Stick) -> str | None:
    options = "loop,umask=022"
    return _ran("mount", "-t", "vfat", "-o", options, str(stick.image), str(stick.root))


def _fusefat(stick: Stick) -> str | None:
    return _served(stick, "fusefat", "-f", "-o", "rw+", str(stick.image), str(stick.root))


def _exfat(stick: Stick) -> str | None:
    found = subprocess.run(
        ["losetup", "-f", "--show", str(stick.image)], check=False, capture_output=True, text=True
    )
    if found.returncode:
        return found.stderr.strip()
    stick.device = found.stdout.strip()
    return _served(stick, "mount.exfat-fuse", "-d", "-o", "rw", stick.device, str(stick.root))


def _served(stick: Stick, *program: str) -> str | None:
    stick.driver = subprocess.Popen(
        program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    )
    return None


def _ran(*program: str) -> str | None:
    done = subprocess.run(program, check=False, capture_output=True, text=True)
    first = (done.stderr.strip() or "no reason given").splitlines()[0]
    return first.rpartition(": ")[2] if done.returncode else None


_PLUG = {"vfat": _vfat, "fusefat": _fusefat, "exfat": _exfat}
_NEEDS = {
    "vfat": ("mkfs.vfat", "mount", "umount"),
    "fusefat": ("mkfs.vfat", "fusefat", "umount"),
    "exfat": ("mkfs.exfat", "mount.exfat-fuse", "losetup", "umount"),
}


@pytest.fixture(params=_NEEDS)
def stick(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stick]:
    """An empty stick of 4 MB; skipped, with the reason, where none can be mounted."""
    kind = request.param
    missing = [name for name in _NEEDS[kind] if shutil.which(name) is None]
    if missing:
        pytest.skip(f"{kind}: this machine has no {', '.join(missing)}")
    image, root = tmp_path / "stick.img", tmp_path / "stick"
    image.write_bytes(bytes(4 << 20))
    root.mkdir()
    made = _ran("mkfs.exfat" if kind == "exfat" else "mkfs.vfat", str(image))
    assert made is None, made
    found = Stick(root, image, kind)
    found.plug()
    try:
        yield found
    finally:
        found.pull()


@pytest.fixture(scope="session")
def said() -> Callable[..., tuple[int, str]]:
    """Run a verb in this process; return its exit code and what it said on stderr."""

    def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
        from edge_stl.cli import main

        code = main([str(a) for a in arguments])
        return code, capsys.readouterr().err.strip()

    return run

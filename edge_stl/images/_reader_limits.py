"""What the process that decodes may use, and how a process takes such limits upon itself."""

import ctypes
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self


if sys.platform != "win32":
    import resource

# Measured over every pixel format of the six file formats: see tests/images/test_reader_memory.py
BYTES_PER_PIXEL = 32
_FILES = 3  # the file as read, as a decoder buffers it, and once more where it is a wrapped one
_SPARE = 64 << 20
_PILLOW_PIXELS = 178_956_970  # above it Pillow refuses by itself
_PIXELS_PER_SECOND = 5_000_000  # PNG on the slowest board that is of interest, with a reserve
_LEAST_SECONDS = 10
_WALL = 3  # of the processor time; the rest is waiting for a slow disk or a busy machine
_OPEN_FILES = 64
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_KILL_ME_FIRST = "1000"


@dataclass(frozen=True)
class ReadLimits:
    """What reading one image may use.

    Attributes:
        max_pixels: Images with more pixels are left out.
        max_bytes: Larger files are left out.
        memory: Bytes of address space beside the interpreter's own.
        cpu_seconds: Seconds of processor time.
        wall_seconds: Seconds in all.
    """

    max_pixels: int
    max_bytes: int
    memory: int
    cpu_seconds: int
    wall_seconds: float

    @classmethod
    def of(cls, *, max_pixels: int, max_bytes: int) -> Self:
        """Give the limits that are enough for every image that a plan allows.

        Memory: 64 MiB, three times ``max_bytes`` and 32 bytes for each of ``max_pixels``.
        Processor time: 10 seconds, and one for every 5 million pixels; three times that in all.

        Args:
            max_pixels: The plan's ``limits.max_image_pixels``.
            max_bytes: The plan's ``limits.max_image_bytes``.

        Returns:
            The limits.
        """
        pixels = min(max_pixels, _PILLOW_PIXELS)
        seconds = _LEAST_SECONDS + pixels // _PIXELS_PER_SECOND
        memory = _SPARE + _FILES * max_bytes + BYTES_PER_PIXEL * pixels
        return cls(max_pixels, max_bytes, memory, seconds, float(_WALL * seconds))


def live_with(parent: int) -> None:
    """End with the parent, leave stopping to it, and be the first that a full memory kills.

    Args:
        parent: Its process id.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        with suppress(AttributeError, ValueError, OSError):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if sys.platform != "linux":
        return
    system = ctypes.CDLL(None)
    system.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    system.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.getppid() != parent:  # it died before we asked
        os._exit(0)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_KILL_ME_FIRST)


def write_no_file() -> None:
    """Give up writing files, core dumps included, and opening many."""
    if sys.platform != "win32":
        _limit(resource.RLIMIT_CORE, 0)
        _limit(resource.RLIMIT_FSIZE, 0)
        _limit(resource.RLIMIT_NOFILE, _OPEN_FILES)


def use_no_more_memory_than(more: int) -> None:
    """Bound the address space, where the system tells how much is in use.

    Args:
        more: Bytes beside what this process has now.
    """
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except OSError:
        return
    total = pages * os.sysconf("SC_PAGE_SIZE") + more
    if sys.platform != "win32" and total < sys.maxsize:
        _limit(resource.RLIMIT_AS, total)


class Stopwatch:
    """Ends this process when one image takes more processor time than it may."""

    def __init__(self, seconds: int) -> None:
        """Prepare.

        Args:
            seconds: For every image, at least 1.
        """
        self._seconds = seconds
        self._until = 0

    def start(self) -> None:
        """An image begins: from now on, so many seconds."""
        if sys.platform == "win32":
            return
        used = resource.getrusage(resource.RUSAGE_SELF)
        # a whole second more than what is allowed, as the limit is in whole seconds
        until = int(used.ru_utime + used.ru_stime) + self._seconds + 1
        if until != self._until:
            self._until = until
            hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
            with suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_CPU, (until, hard))


def _limit(what: int, value: int) -> None:
    if sys.platform == "win32":
        return
    # lower limits that somebody set for the whole agent stay
    soft, hard = resource.getrlimit(what)
    lower = [value, *(old for old in (soft, hard) if old != resource.RLIM_INFINITY)]
    with suppress(ValueError, OSError):
        resource.setrlimit(what, (min(lower), min(lower)))

"""How much memory this process holds and has held."""

import ctypes
import gc
import resource
import sys
from pathlib import Path


_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # mallopt(3)
_LARGE = 1 << 20  # bytes
_LARGEST = 32 << 20  # where glibc's own threshold ends up
_PEAK_ONLY = b"5"  # proc_pid_clear_refs(5): resets VmHWM to VmRSS


class _Earlier:
    """The largest of the peaks that were forgotten."""

    peak = 0.0


def peak_rss_mb() -> float:
    """Return the largest resident memory of this process so far, in 10^6 bytes."""
    return max(_Earlier.peak, peak_rss()) / 1e6


def peak_rss() -> float:
    """Return the largest resident memory, in bytes, since `forget_peak` or the start."""
    told = _told("VmHWM:")
    if told is not None:
        # getrusage keeps the peak of the parent across fork and exec; this one does not.
        return told
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024)


def rss() -> float:
    """Return the resident memory of this process in bytes; the peak where that is not told."""
    told = _told("VmRSS:")
    return peak_rss() if told is None else told


def forget_peak() -> bool:
    """Let `peak_rss` start anew from what is resident; return whether the system can do that."""
    _Earlier.peak = max(_Earlier.peak, peak_rss())
    try:
        with _CLEAR.open("wb", buffering=0) as file:
            file.write(_PEAK_ONLY)
    except OSError:
        return False
    return True


def give_back() -> None:
    """Give memory that is free inside this process back to the system, where glibc can."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def keep_heap(*, small: bool) -> None:
    """Choose whether large arrays come from the system and go back to it at once.

    By default glibc takes more and more of them from its heap, which does not shrink. Small, a step
    holds about half of the memory and takes up to twice the time; else it is about as by default.
    Other C libraries than glibc are left as they are.
    """
    change = getattr(ctypes.CDLL(None), "mallopt", None)
    if change is not None:
        change(_M_MMAP_THRESHOLD, _LARGE if small else _LARGEST)
        change(_M_TRIM_THRESHOLD, _LARGE if small else 2 * _LARGEST)


def _told(key: str) -> float | None:
    if _STATUS.is_file():
        for line in _STATUS.read_text().splitlines():
            if line.startswith(key):
                return int(line.split()[1]) * 1024.0
    return None

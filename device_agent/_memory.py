"""How much memory this process has needed."""

import resource
import sys
from pathlib import Path


def peak_rss_mb() -> float:
    """Return the largest resident memory of this process so far, in 10^6 bytes."""
    status = Path("/proc/self/status")
    if status.is_file():
        # getrusage keeps the peak of the parent across fork and exec; this one does not.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6

"""Children that take a work folder and are killed: ``python holding.py FOLDER TIMES``.

Prints in how many cases nobody else got in while the folder was held, and in how many it was free
right after the holder's death.
"""

import json
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from device_agent.work import WorkFolder
from edge_stl.errors import ResourceError


def hold(folder: Path) -> int:
    """Fork a child that holds the folder until it is killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with WorkFolder(folder, "cam07"):
            os.write(writing, b"held")
            while True:
                signal.pause()
    os.close(writing)
    os.read(reading, 4)
    os.close(reading)
    return child


def enters(folder: Path) -> bool:
    with suppress(ResourceError), WorkFolder(folder, "cam07"):
        return True
    return False


def console() -> None:
    folder, times = Path(sys.argv[1]), int(sys.argv[2])
    refused, freed, slowest = 0, 0, 0.0
    for _ in range(times):
        child = hold(folder)
        began = time.monotonic()
        refused += not enters(folder)
        slowest = max(slowest, time.monotonic() - began)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        freed += enters(folder)
    print(json.dumps({"refused": refused, "freed": freed, "slowest": slowest}))  # noqa: T201


if __name__ == "__main__":
    console()

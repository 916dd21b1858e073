"""One function in a fresh process, to see what memory it needs and nothing else.

A peak of memory never falls again, so each thing that is measured needs a process of its own. This
module loads nothing but the standard library: what it brings would be measured too.
"""

import importlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from edge_stl.errors import EdgeStlError, Interrupted


_INTERRUPTED = (Interrupted.exit_code, 130, -2, -15)


def fresh(function: str, **arguments: Any) -> tuple[Any, float]:
    """Call a function in a fresh process.

    Args:
        function: ``module:name``.
        arguments: what JSON can hold.

    Returns:
        what it returned, which JSON must be able to hold, and the peak resident memory of its
        process in 10^6 bytes.

    Raises:
        Interrupted: the process was stopped.
        EdgeStlError: it failed; the sentence is its last line.
    """
    # In a thread: at Ctrl-C, this process waits for the other one, which got the signal too and
    # may have a checkpoint to write, instead of killing it.
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(_run, function, json.dumps(arguments)).result()


def _run(function: str, arguments: str) -> tuple[Any, float]:
    command = [sys.executable, "-m", "benchmarks._fresh", function, arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if ran.returncode == 0:
        answer = json.loads(ran.stdout.splitlines()[-1])
        return answer["result"], float(answer["peak_mb"])
    lines = ran.stderr.strip().splitlines()
    said = lines[-1] if lines else f"{function}: exit code {ran.returncode}"
    if ran.returncode in _INTERRUPTED:
        raise Interrupted(said)
    error = EdgeStlError(said)
    error.exit_code = ran.returncode if ran.returncode > 0 else 1
    raise error


def peak_mb() -> float:
    """Return the peak resident memory of this process in 10^6 bytes (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


def _main() -> int:
    function, arguments = sys.argv[1:]
    module, _, name = function.partition(":")
    try:
        result = getattr(importlib.import_module(module), name)(**json.loads(arguments))
    except EdgeStlError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps({"result": result, "peak_mb": peak_mb()}))
    return 0


if __name__ == "__main__":
    raise SystemExit(_main())

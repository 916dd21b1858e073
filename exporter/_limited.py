"""A child process with a limit of memory and of processor time, asked one question.

Where the system knows no such limits, the waiting alone is limited.
"""

import contextlib
import json
import os
import subprocess
import sys
from typing import Any


def run_limited(module: str, data: bytes, *, memory: int, seconds: int) -> Any:
    """Run a module of ours in a child and return what it answers.

    Args:
        module: is run with both limits as arguments; it begins with `limit` and ends with `answer`.
        data: its standard input.
        memory: bytes of address space.
        seconds: of processor time; it is waited for three times as long.

    Returns:
        JSON values; None where the child came to no answer within its limits.
    """
    program = [sys.executable, "-P", "-m", module, str(memory), str(seconds)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        ran = subprocess.run(  # noqa: S603  (this Python, and nothing of the file in the words)
            program,
            input=data,
            capture_output=True,
            timeout=3 * seconds,
            check=False,
            env=environment,
        )
        return json.loads(ran.stdout.splitlines()[-1])
    except (subprocess.TimeoutExpired, IndexError, ValueError):
        return None


def limit(memory: int, seconds: int) -> None:
    """Limit this process, and leave no core file of it."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource  # not on every system

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def answer(document: Any) -> None:
    """Answer the parent with JSON values."""
    sys.stdout.write(json.dumps(document) + "\n")

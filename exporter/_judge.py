"""onnx's checker and onnxruntime on a model that nobody proved to be ours: in a child, on a leash.

Both build what the file says before they judge it: sixteen local functions inside each other take
onnxruntime a minute. So the child gets a limit of memory and of processor time, and the parent
waits no longer than that. Where the system knows no such limits, the waiting alone is limited.
"""

import contextlib
import json
import os
import subprocess
import sys

from edge_stl.errors import CheckError


MEMORY = 4 << 30
"""Bytes of address space beside six times the file; Python, onnx and onnxruntime map over one."""

SECONDS = 20
"""Of processor time beside a second for every 10 MB of the file; of waiting three times that."""


def judge(model: bytes, where: str) -> None:
    """Have a model judged in a child process.

    Args:
        model: anybody's bytes, which `edge_stl.gate.scan_model` let through.
        where: what it is called in messages.

    Raises:
        CheckError: the checker or onnxruntime refuses it, or judging costs more than the limits.
    """
    seconds = SECONDS + len(model) // 10_000_000
    memory = MEMORY + 6 * len(model)
    program = [sys.executable, "-P", "-m", "exporter._judge", str(memory), str(seconds)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    stopped = (
        f"{where}: not a valid model: to load it takes more than {seconds} s or {memory} bytes"
    )
    try:
        ran = subprocess.run(  # noqa: S603  (this Python, and nothing of the file in the words)
            program,
            input=model,
            capture_output=True,
            timeout=3 * seconds,
            check=False,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        raise CheckError(stopped) from None
    try:
        verdict = json.loads(ran.stdout.splitlines()[-1])["problem"]
    except (IndexError, ValueError, KeyError, TypeError):
        raise CheckError(stopped) from None
    if verdict is not None:
        raise CheckError(f"{where}: {verdict}")


def main(memory: int, seconds: int) -> None:
    """Judge the model on standard input; print one JSON object."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource  # not on every system

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from exporter._session import check_model

    problem = None
    try:
        check_model(sys.stdin.buffer.read(), "", optimize=False)
    except CheckError as error:
        problem = str(error).removeprefix(": ")
    except MemoryError:
        problem = f"not a valid model: to load it takes more than {memory} bytes"
    sys.stdout.write(json.dumps({"problem": problem}) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))

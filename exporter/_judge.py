"""onnx's checker and onnxruntime on a model that nobody proved to be ours: in a child, on a leash.

Both build what the file says before they judge it: sixteen local functions inside each other take
onnxruntime a minute. So the child gets a limit of memory and of processor time, and the parent
waits no longer than that (`exporter._limited`).
"""

import sys

from edge_stl.errors import CheckError
from exporter._limited import answer, limit, run_limited


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
    said = run_limited("exporter._judge", model, memory=memory, seconds=seconds)
    if not isinstance(said, dict) or "problem" not in said:
        raise CheckError(
            f"{where}: not a valid model: to load it takes more than {seconds} s or {memory} bytes"
        )
    if said["problem"] is not None:
        raise CheckError(f"{where}: {said['problem']}")


def main(memory: int, seconds: int) -> None:
    """Judge the model on standard input; print one JSON object."""
    limit(memory, seconds)
    from exporter._session import check_model

    problem = None
    try:
        check_model(sys.stdin.buffer.read(), "", optimize=False)
    except CheckError as error:
        problem = str(error).removeprefix(": ")
    except MemoryError:
        problem = f"not a valid model: to load it takes more than {memory} bytes"
    answer({"problem": problem})


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))

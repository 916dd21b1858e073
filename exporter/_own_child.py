"""What runs a stranger's graph: in a child process with limits, started by `exporter.own_judge`.

Standard input is a line of JSON, the file, and float32 bands after it.
"""

import json
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_stl.errors import CheckError, ran_out_of_memory
from exporter import names
from exporter._limited import answer, limit
from exporter._reference import reference_logits
from exporter._session import check_model, run
from exporter.own import NoGraph
from exporter.own_shapes import cost_of
from exporter.plausible import implausible_answers


def main(memory: int, seconds: int) -> None:
    """Do what standard input asks for; print one JSON object."""
    limit(memory, seconds)
    head = json.loads(sys.stdin.buffer.readline())
    data = sys.stdin.buffer.read(head["size"])
    bands = np.frombuffer(sys.stdin.buffer.read(), dtype="<f4").reshape(head["shape"])
    said: dict[str, Any] = {"problem": None}
    try:
        if head["task"] == "judge":
            said["problem"] = judged(data, bands, classes=head["classes"])
        else:
            said["logits"] = reference_logits(data, bands).tolist()
    except MemoryError:
        said["problem"] = f"takes more than {memory:,} bytes to run"
    except Exception as error:  # noqa: BLE001  (whatever a stranger's graph does to our libraries)
        lines = str(error).strip().splitlines()
        said["problem"] = f"does not run: {lines[0][:200] if lines else type(error).__name__}"
    if said["problem"] and ran_out_of_memory(RuntimeError(said["problem"])):  # C++ says so in words
        said["problem"] = f"takes more than {memory:,} bytes to run"
    answer(said)


def judged(data: bytes, bands: NDArray[np.float32], *, classes: int) -> str | None:
    """Return why a desk cannot run a branch file with a graph of its own, or None.

    Args:
        data: the file.
        bands: of two images, ``(2, C * B, h, w)``.
        classes: K.
    """
    try:
        cost_of(data, classes=classes)  # before anything is loaded that would make room for it
        running = check_model(data, "", optimize=False)
    except NoGraph as verdict:
        return str(verdict)
    except CheckError as error:
        return str(error).removeprefix(": ")
    (together,) = run(running, {names.BRANCH_INPUT: bands})
    apart = [run(running, {names.BRANCH_INPUT: bands[i : i + 1]})[0] for i in range(len(bands))]
    return implausible_answers(together, np.concatenate(apart))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))

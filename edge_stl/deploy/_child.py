"""The child process of a self-test: ``python -m edge_stl.deploy._child FILE SHA256 SECONDS BYTES``.

It limits itself before it looks at the file, prints one JSON object, and writes nothing. Whatever
the file does to it, a crash, an endless loop, all of the memory, it does to this process alone.
"""

import hashlib
import json
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

from edge_stl.errors import CheckError, EdgeStlError, IntegrityError


_RUNS, _ENOUGH = 20, 2.0
"""Single images that are timed, and the seconds after which fewer will do."""


def main(file: str, digest: str, seconds: str, memory: str) -> None:
    """Test an ensemble and print what was found, or the problem."""
    _limit(int(seconds), int(memory))
    try:
        found = examine(Path(file), digest)
    except MemoryError:
        found = {"problem": f"needs more than the {int(memory) >> 20} MiB that the test allows"}
    except EdgeStlError as error:
        found = {"problem": str(error).removeprefix("ensemble: "), "code": error.exit_code}
    except Exception as error:  # noqa: BLE001  (a file of a stranger: anything may happen)
        first = (str(error).strip().splitlines() or ["no message"])[0]
        found = {"problem": f"ended with {type(error).__name__}: {first[:200]}"}
    print(json.dumps(found))  # noqa: T201  (what its parent reads)


def examine(file: Path, digest: str) -> dict[str, Any]:
    """Return classes, milliseconds an image, and the difference from the test vector.

    Raises:
        CheckError: it does not answer as it must.
        DataError: onnxruntime does not load or run it, or it is no ensemble.
        IntegrityError: the copy does not have the digest of what was copied.
    """
    import numpy as np

    from edge_stl.durable import read_once
    from edge_stl.gate import MAX_FILE_BYTES
    from edge_stl.predict import Ensemble
    from edge_stl.predict._vector import need_answer, need_probabilities, question

    data = read_once(file, most=MAX_FILE_BYTES, expected="an ensemble").data
    if hashlib.sha256(data).hexdigest() != digest:
        raise IntegrityError("its copy is damaged. The disk is failing: use another")
    model = Ensemble(data, threads=1)
    if not model.classes or len(set(model.classes)) != len(model.classes):
        raise CheckError(f"names the classes {list(model.classes)}; expected each once")
    image = question(model.resolution, model.channels)
    difference = need_answer(model)
    # also by its own threshold, and where every pixel is the smallest or the largest
    for pixels in (image, np.zeros_like(image), np.full_like(image, 255)):
        need_probabilities(model, pixels)
    if model.stages:
        model.threshold = 1.0  # what an image costs at most
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < _RUNS and (not times or time.perf_counter() - start < _ENOUGH):
        begin = time.perf_counter()
        model.run(image)
        times.append(time.perf_counter() - begin)
    return {
        "classes": list(model.classes),
        "milliseconds": round(1000 * min(times), 4),
        "difference": difference,
    }


def _limit(seconds: int, memory: int) -> None:
    """Keep time and memory of this process small, and its hands off the disk."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    allowed = memory if most == resource.RLIM_INFINITY else min(memory, most)
    resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))


if __name__ == "__main__":
    main(*sys.argv[1:])

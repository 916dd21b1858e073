"""May a desk run a stranger's graph? Asked in a child process, and so is what it answers.

The reader has looked at every node and number by then (`exporter.own`). Here the checker, the
shapes and what an image costs are looked at, and the graph runs for the first time. The limits are
of memory and of processor time; a sandbox against defects of onnxruntime they are not.
"""

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_stl.errors import CheckError
from edge_stl.plan import Plan, one_line
from exporter._judge import MEMORY, SECONDS
from exporter._limited import run_limited
from exporter.manifest import Manifest, vector_input


CHILD = "exporter._own_child"
_REFERENCE_SECONDS = 4 * SECONDS
"""ONNX's reference implementation is numpy, many times slower than onnxruntime."""


def unfit(data: bytes, manifest: Manifest, plan: Plan) -> str | None:
    """Return why a desk cannot run a branch file with a graph of its own, or None.

    Args:
        data: the file, which the reader took apart and built again.
        manifest: what its box says of it.
        plan: the plan in it.
    """
    branch = plan.branch(manifest.branch)
    bands = vector_input(
        manifest.test_vector.seed, channels=plan.band_channels(branch), size=plan.band_size(branch)
    )
    seconds = SECONDS + len(data) // 10_000_000
    said = _ask("judge", data, bands, classes=len(plan.classes), seconds=seconds)
    return None if said["problem"] is None else one_line(str(said["problem"]), width=300)


def limited_reference_logits(
    data: bytes, bands: NDArray[np.float32], *, where: str
) -> NDArray[np.float64]:
    """As `exporter._reference.reference_logits`, in a limited child process.

    Args:
        data: a branch file.
        bands: ``(N, C * B, h, w)``.
        where: what the file is called in messages.

    Raises:
        CheckError: it does not come to an answer.
    """
    said = _ask("reference", data, bands, classes=0, seconds=_REFERENCE_SECONDS)
    if said["problem"] is not None:
        raise CheckError(
            f"{where}: its graph: {one_line(str(said['problem']), width=300)}; expected logits. "
            "Leave the file out"
        )
    return np.array(said["logits"], np.float64)


def _ask(
    task: str, data: bytes, bands: NDArray[np.float32], *, classes: int, seconds: int
) -> dict[str, Any]:
    head = {"task": task, "size": len(data), "shape": list(bands.shape), "classes": classes}
    memory = MEMORY + 6 * len(data)
    said = run_limited(
        CHILD,
        json.dumps(head).encode() + b"\n" + data + bands.astype("<f4").tobytes(),
        memory=memory,
        seconds=seconds,
    )
    if isinstance(said, dict) and "problem" in said:
        return said
    return {"problem": f"takes more than {seconds} s or {memory:,} bytes to run"}

"""The two judges of every file that is written: ONNX's full checker, and onnxruntime.

They are given what this process built itself, or what equals it byte for byte: never the graph of
a stranger, which goes to `exporter._judge`.
"""

from collections.abc import Mapping
from typing import Any

import onnx
from numpy.typing import NDArray

from edge_stl.errors import CheckError
from exporter._memory import give_back


def check_model(model: bytes, where: str, *, optimize: bool = True) -> Any:
    """Put a model through the full checker and load it from bytes in onnxruntime.

    Args:
        model: bytes of the model.
        where: what it is called in messages.
        optimize: whether onnxruntime may compute constants ahead, and fuse nodes.

    Returns:
        the session, ready to run.

    Raises:
        CheckError: either refuses it.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
        give_back()  # what the checker held, before onnxruntime wants as much again
        return session(model, optimize=optimize)
    except Exception as error:  # noqa: BLE001  (both raise several unrelated types)
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckError(f"{where}: not a valid model: {first}") from None


def session(model: bytes, *, threads: int = 1, optimize: bool = True) -> Any:
    """Return an onnxruntime session on the CPU, quiet and without spinning threads."""
    import onnxruntime as ort  # a desk that only inspects does not pay for it

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(model: Any, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """Return all outputs of a model, given as bytes or as a session, for the inputs."""
    opened = session(model) if isinstance(model, bytes) else model
    return list(opened.run(None, dict(inputs)))

"""What a branch says, computed in float64 by ONNX's reference implementation."""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from exporter import names


def reference_logits(data: bytes, bands: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the logits ``(N, K)`` of a branch file.

    Args:
        data: the file; of a network of the user's own only in a limited child process.
        bands: ``(N, C * B, h, w)``.
    """
    from onnx.reference import ReferenceEvaluator  # what only inspects does not pay for it

    model = onnx.load_from_string(data)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            wide = numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))
    given = {names.BRANCH_INPUT: bands.astype(np.float64)}
    (logits,) = ReferenceEvaluator(model).run(None, given)
    return np.asarray(logits, np.float64)

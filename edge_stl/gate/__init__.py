"""What stands before every file of a stranger: cheap checks that no content can make expensive.

Nothing here builds objects from a file before it has counted what it would have to build. It needs
neither onnx nor onnxruntime, so that a box that only predicts has it too.
"""

from edge_stl.gate._json import MANIFEST_CAPS, RECORD_CAPS, JsonCaps, strict_json
from edge_stl.gate._model import (
    GRAPH_OPERATORS,
    MAX_FILE_BYTES,
    OPERATORS,
    Outline,
    scan_model,
)
from edge_stl.gate._wire import Refused, Unreadable


__all__ = [
    "GRAPH_OPERATORS",
    "MANIFEST_CAPS",
    "MAX_FILE_BYTES",
    "OPERATORS",
    "RECORD_CAPS",
    "JsonCaps",
    "Outline",
    "Refused",
    "Unreadable",
    "scan_model",
    "strict_json",
]

"""A resampling kernel as ONNX nodes: one matrix product along columns and one along rows."""

import numpy as np

from edge_stl.bands import Kernel, resampling
from exporter._graph import Graph


def add_resampling(
    graph: Graph, image: str, kernel: Kernel, *, fine: int, coarse: int, prefix: str
) -> str:
    """Add ``coarse = M @ fine @ M.T``.

    Args:
        graph: what the nodes are added to.
        image: the value ``(N, C, fine, fine)`` float32.
        kernel: which.
        fine: R, rows and columns of the image.
        coarse: r, rows and columns of the result.
        prefix: put before every name.

    Returns:
        the value ``(N, C, coarse, coarse)``.
    """
    matrix = resampling(kernel, fine=fine, coarse=coarse).astype(np.float32)
    rows = graph.constant(f"{prefix}rows.kernel", matrix)
    columns = graph.constant(f"{prefix}columns.kernel", matrix.T)
    value = graph.node("MatMul", [image, columns], f"{prefix}columns")
    return graph.node("MatMul", [rows, value], f"{prefix}image")

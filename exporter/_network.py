"""A network's declarative layer list as ONNX nodes.

``conv -> norm`` and ``dense -> norm`` arrive folded; a norm that stands alone is ``x * scale +
shift``. A depthwise convolution is a `Conv` of as many groups as channels. A mean over the plane
is an `AveragePool` as large as the plane, which old runtimes and TensorRT take where `ReduceMean`
is not.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edge_stl.plan import networks as nets
from exporter._graph import Graph


def add_network(
    graph: Graph,
    layers: tuple[nets.Layer, ...],
    parameters: Mapping[str, NDArray[np.float32]],
    *,
    channels: int,
    size: int,
    input_name: str,
    prefix: str,
    output: str,
) -> str:
    """Add the nodes of a network.

    Args:
        graph: what they are added to.
        layers: the network.
        parameters: as `networks.parameter_shapes` names and shapes them, float32.
        channels: C of the input ``(N, C, size, size)``.
        size: rows and columns of the input.
        input_name: the value that is read.
        prefix: put before every name, like ``fine.cam07/``.
        output: name of the value that is written, ``(N, classes)``.

    Returns:
        the name of the output.
    """
    steps = nets.walk(layers, channels=channels, size=size)
    return _add_steps(graph, list(steps), parameters, input_name, prefix, output)


def _add_steps(  # noqa: C901  (one case per layer)
    graph: Graph,
    steps: list[nets.Step],
    parameters: Mapping[str, NDArray[np.float32]],
    input_name: str,
    prefix: str,
    output: str | None,
) -> str:
    """Add the nodes of some steps and return the value they make, named ``output`` if given."""
    current = input_name
    before: nets.Layer | None = None

    def constant(name: str) -> str:
        return graph.constant(prefix + name, parameters[name])

    for step in steps:
        out = output if output and step is steps[-1] else f"{prefix}{step.name}.out"
        match step.layer:
            case nets.Conv(kernel=kernel):
                weights = [constant(f"{step.name}.weight"), constant(f"{step.name}.bias")]
                current = graph.node(
                    "Conv",
                    [current, *weights],
                    out,
                    kernel_shape=[kernel, kernel],
                    pads=[kernel // 2] * 4,
                )
            case nets.DepthwiseConv(kernel=kernel):
                weights = [constant(f"{step.name}.weight"), constant(f"{step.name}.bias")]
                current = graph.node(
                    "Conv",
                    [current, *weights],
                    out,
                    group=step.before[0],
                    kernel_shape=[kernel, kernel],
                    pads=[kernel // 2] * 4,
                )
            case nets.Dense():
                weights = [constant(f"{step.name}.weight"), constant(f"{step.name}.bias")]
                current = graph.node("Gemm", [current, *weights], out, transB=1)
            case nets.Norm():
                if not nets.foldable(before):
                    scaled = graph.node(
                        "Mul", [current, constant(f"{step.name}.scale")], f"{out}.scaled"
                    )
                    current = graph.node("Add", [scaled, constant(f"{step.name}.shift")], out)
            case nets.Relu():
                current = graph.node("Relu", [current], out)
            case nets.MaxPool():
                current = graph.node("MaxPool", [current], out, kernel_shape=[2, 2], strides=[2, 2])
            case nets.GlobalAveragePool():
                pooled = graph.node(
                    "AveragePool", [current], f"{out}.plane", kernel_shape=list(step.before[1:])
                )
                current = graph.node("Flatten", [pooled], out, axis=1)
            case nets.Flatten():
                current = graph.node("Flatten", [current], out, axis=1)
            case nets.Residual():
                inner = list(nets.inside(step))
                made = _add_steps(graph, inner, parameters, current, prefix, None)
                current = graph.node("Add", [current, made], out)
        before = step.layer
    return current

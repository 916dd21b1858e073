"""A network's declarative layer list as ONNX nodes.

``conv -> norm`` and ``dense -> norm`` arrive folded; a norm that stands alone is ``x * scale +
shift``. A depthwise convolution is a `Conv` of as many groups as channels. A mean over the plane
is an `AveragePool` as large as the plane, which old runtimes and TensorRT take where `ReduceMean`
is not. A group norm is an `InstanceNormalization` between two `Reshape`: `GroupNormalization` came
with opset 18.
"""

from collections.abc import Iterator, Mapping

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


def network_constants(
    layers: tuple[nets.Layer, ...], *, channels: int, size: int
) -> dict[str, NDArray[np.generic]]:
    """Return the tensors of a network's nodes that are no numbers of a box, by name.

    They follow from the layers alone: shapes, int64, and a scale of 1 and a shift of 0, float32,
    for the normalization of groups. Layers that need the same one share it.
    """
    return {
        name: array
        for _, step in nets.leaves(layers, channels=channels, size=size)
        for name, array in _constants(step)
    }


def _constants(step: nets.Step) -> Iterator[tuple[str, NDArray[np.generic]]]:
    """Yield name and values: how a group norm parts, ones, zeros, and how it puts together."""
    if isinstance(step.layer, nets.GroupNorm):
        groups, shape = step.layer.groups, step.before
        # a 0 keeps the batch as it is
        yield f"groups.{groups}", np.array([0, groups, -1], np.int64)
        yield f"ones.{groups}", np.ones(groups, np.float32)
        yield f"zeros.{groups}", np.zeros(groups, np.float32)
        yield f"shape.{'x'.join(map(str, shape))}", np.array([0, *shape], np.int64)


def _add_steps(  # noqa: C901, PLR0912  (one case per layer)
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
            case nets.Conv(kernel=kernel, bias=bias):
                weights = [constant(f"{step.name}.weight")]
                if bias:
                    weights.append(constant(f"{step.name}.bias"))
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
                    affine = [constant(f"{step.name}.scale"), constant(f"{step.name}.shift")]
                    current = _add_affine(graph, current, affine, out)
            case nets.GroupNorm():
                current = _add_group_norm(graph, step, current, prefix, out)
                affine = [constant(f"{step.name}.scale"), constant(f"{step.name}.shift")]
                current = _add_affine(graph, current, affine, out)
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


def _add_group_norm(graph: Graph, step: nets.Step, current: str, prefix: str, out: str) -> str:
    """Add what gives every group of channels mean 0 and variance 1."""
    parted, ones, zeros, whole = (
        graph.constant(prefix + name, array) for name, array in _constants(step)
    )
    current = graph.node("Reshape", [current, parted], f"{out}.groups")
    current = graph.node(
        "InstanceNormalization",
        [current, ones, zeros],
        f"{out}.normal",
        epsilon=nets.GROUP_NORM_EPSILON,
    )
    return graph.node("Reshape", [current, whole], f"{out}.whole")


def _add_affine(graph: Graph, current: str, affine: list[str], out: str) -> str:
    """Add ``x * scale + shift``."""
    scale, shift = affine
    return graph.node("Add", [graph.node("Mul", [current, scale], f"{out}.scaled"), shift], out)

"""The tensors that a network has, and what it costs."""

import math

from edge_stl.plan.networks._layers import (
    Conv,
    Dense,
    DepthwiseConv,
    GroupNorm,
    Layer,
    Norm,
    Shape,
    leaves,
)


def parameter_shapes(layers: tuple[Layer, ...], *, channels: int, size: int) -> dict[str, Shape]:
    """Return name and shape of every tensor of the exported network, batch norm folded.

    A convolution's weight is ``(out, in, k, k)``, a depthwise one's ``(C, 1, k, k)``, a dense
    layer's ``(out, in)``; a `Norm` that nothing before it can take in, and every `GroupNorm`, has
    ``scale`` and ``shift`` of ``(C, 1, 1)`` or ``(features,)``. A tensor inside the `Residual`
    ``3`` is ``3.0.weight``.
    """
    shapes: dict[str, Shape] = {}
    for previous, step in leaves(layers, channels=channels, size=size):
        match step.layer:
            case Conv(channels=out, kernel=kernel, bias=bias):
                shapes[f"{step.name}.weight"] = (out, step.before[0], kernel, kernel)
                if bias:
                    shapes[f"{step.name}.bias"] = (out,)
            case DepthwiseConv(kernel=kernel):
                shapes[f"{step.name}.weight"] = (step.before[0], 1, kernel, kernel)
                shapes[f"{step.name}.bias"] = (step.before[0],)
            case Dense(units=units):
                shapes[f"{step.name}.weight"] = (units, step.before[0])
                shapes[f"{step.name}.bias"] = (units,)
            case Norm() if previous is not None and foldable(previous.layer):
                pass
            case Norm() | GroupNorm():
                plane = (step.before[0],) + (1,) * (len(step.before) - 1)
                shapes[f"{step.name}.scale"] = plane
                shapes[f"{step.name}.shift"] = plane
            case _:
                pass
    return shapes


def foldable(layer: Layer | None) -> bool:
    """Return whether a `Norm` right after ``layer`` disappears into its weight and bias."""
    if isinstance(layer, Conv):
        return layer.bias
    return isinstance(layer, DepthwiseConv | Dense)


def parameters(layers: tuple[Layer, ...], *, channels: int, size: int) -> int:
    """Return the number of exported parameters."""
    shapes = parameter_shapes(layers, channels=channels, size=size)
    return sum(math.prod(shape) for shape in shapes.values())


def multiply_adds(layers: tuple[Layer, ...], *, channels: int, size: int) -> int:
    """Return the multiply-adds of one image, convolutions and dense layers only."""
    total = 0
    for _, step in leaves(layers, channels=channels, size=size):
        match step.layer:
            case Conv(channels=out, kernel=kernel):
                total += out * step.before[0] * kernel * kernel * step.after[1] * step.after[2]
            case DepthwiseConv(kernel=kernel):
                total += kernel * kernel * math.prod(step.after)
            case Dense(units=units):
                total += units * step.before[0]
            case _:
                pass
    return total

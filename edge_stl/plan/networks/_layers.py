"""The layers that networks are lists of, and the shapes that they make of an input.

Shapes are ``(C, h, w)`` before `Flatten` and ``(features,)`` after it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Conv:
    """Correlation with zero padding, same size: ``(C, h, w) -> (channels, h, w)``."""

    channels: int
    kernel: int = 3
    bias: bool = True


@dataclass(frozen=True)
class DepthwiseConv:
    """As `Conv`, but every channel for itself: ``(C, h, w) -> (C, h, w)``."""

    kernel: int = 3


@dataclass(frozen=True)
class Norm:
    """Batch normalization; folded into a `Conv`, `DepthwiseConv` or `Dense` right before it.

    Where none is right before it, it stays.

    Without ``learned`` it only standardizes: right at the input, where a learned scale would be
    one more factor of the first convolution.
    """

    learned: bool = True


@dataclass(frozen=True)
class GroupNorm:
    """Group normalization (Wu and He, ECCV 2018): mean 0 and variance 1 over a group of channels.

    Mean and variance are those of one image, so that there is nothing to fold at export, and no
    running statistics that an average of models would spoil. A scale and a shift per channel are
    learned. The variance is the biased one, plus `GROUP_NORM_EPSILON`.
    """

    groups: int


GROUP_NORM_EPSILON = 1e-5


@dataclass(frozen=True)
class Relu:
    """``max(x, 0)``."""


@dataclass(frozen=True)
class MaxPool:
    """Maximum over 2 x 2 blocks: ``(C, h, w) -> (C, h // 2, w // 2)``."""


@dataclass(frozen=True)
class GlobalAveragePool:
    """Mean over the plane: ``(C, h, w) -> (C,)``."""


@dataclass(frozen=True)
class Flatten:
    """``(C, h, w) -> (C * h * w,)``, row-major."""


@dataclass(frozen=True)
class Dense:
    """Affine map ``(features,) -> (units,)``."""

    units: int


@dataclass(frozen=True)
class Residual:
    """The sum of its input and of what ``layers`` make of it, which has the input's shape."""

    layers: "tuple[Layer, ...]"


Layer = (
    Conv
    | DepthwiseConv
    | Norm
    | GroupNorm
    | Relu
    | MaxPool
    | GlobalAveragePool
    | Flatten
    | Dense
    | Residual
)
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """One layer in its place: its name in the file, and the shapes before and after it."""

    name: str
    layer: Layer
    before: Shape
    after: Shape


def walk(layers: tuple[Layer, ...], *, channels: int, size: int) -> Iterator[Step]:
    """Yield every layer with its input and output shape for inputs ``(channels, size, size)``.

    A `Residual` is one step; `inside` yields those in it.

    Raises:
        ValueError: the layers of a `Residual` do not give the shape that it takes, or a
            `GroupNorm` cannot part its channels evenly.
    """
    yield from _walk(layers, (channels, size, size), "")


def inside(step: Step) -> Iterator[Step]:
    """Yield the steps in a `Residual`, ``3.0`` and on in that of name ``3``; none in others."""
    if isinstance(step.layer, Residual):
        yield from _walk(step.layer.layers, step.before, f"{step.name}.")


def leaves(
    layers: tuple[Layer, ...], *, channels: int, size: int
) -> Iterator[tuple[Step | None, Step]]:
    """Yield every layer but `Residual`, those inside one too, after the step right before it.

    None is right before the first layer, of a `Residual` too: what it reads, the sum reads too.
    """
    yield from _leaves(walk(layers, channels=channels, size=size))


def _walk(layers: tuple[Layer, ...], shape: Shape, prefix: str) -> Iterator[Step]:
    for index, layer in enumerate(layers):
        step = Step(f"{prefix}{index}", layer, shape, _shape_after(layer, shape))
        shape = step.after
        for inner in inside(step):
            shape = inner.after
        if shape != step.after:
            raise ValueError(
                f"layer {step.name}: a residual whose layers make {shape} of {step.before}; "
                "expected the same shape. Widen and pool outside of it"
            )
        yield step


def _leaves(steps: Iterable[Step]) -> Iterator[tuple[Step | None, Step]]:
    previous: Step | None = None
    for step in steps:
        if isinstance(step.layer, Residual):
            yield from _leaves(inside(step))
        else:
            yield previous, step
        previous = step


def _shape_after(layer: Layer, shape: Shape) -> Shape:
    match layer:
        case Conv(channels=channels):
            return (channels, *shape[1:])
        case MaxPool():
            return (shape[0], shape[1] // 2, shape[2] // 2)
        case GlobalAveragePool():
            return (shape[0],)
        case Flatten():
            return (shape[0] * shape[1] * shape[2],)
        case Dense(units=units):
            return (units,)
        case GroupNorm(groups=groups) if groups < 1 or shape[0] % groups:
            raise ValueError(
                f"a group norm of {groups} groups on {shape[0]} channels; expected a number of "
                "groups that divides them"
            )
        case _:
            return shape

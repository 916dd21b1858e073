"""Networks as declarative lists of layers.

A preset is one rule from (channels, size, classes) to a list of layers. The torch module, the
ONNX graph and the counts of `plan show` are all built from that list, so they cannot drift.
Shapes below are ``(C, h, w)`` before `Flatten` and ``(features,)`` after it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Conv:
    """Correlation with zero padding, same size: ``(C, h, w) -> (channels, h, w)``."""

    channels: int
    kernel: int = 3


@dataclass(frozen=True)
class Norm:
    """Batch normalization; folded into a `Conv` or `Dense` right before it, else kept.

    Without ``learned`` it only standardizes: right at the input, where a learned scale would be
    one more factor of the first convolution.
    """

    learned: bool = True


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


Layer = Conv | Norm | Relu | MaxPool | GlobalAveragePool | Flatten | Dense
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """One layer in its place: its name in the file, and the shapes before and after it."""

    name: str
    layer: Layer
    before: Shape
    after: Shape


def walk(layers: tuple[Layer, ...], *, channels: int, size: int) -> Iterator[Step]:
    """Yield every layer with its input and output shape for inputs ``(channels, size, size)``."""
    shape: Shape = (channels, size, size)
    for index, layer in enumerate(layers):
        after = _shape_after(layer, shape)
        yield Step(f"{index}", layer, shape, after)
        shape = after


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
        case _:
            return shape


def parameter_shapes(layers: tuple[Layer, ...], *, channels: int, size: int) -> dict[str, Shape]:
    """Return name and shape of every tensor of the exported network, batch norm folded.

    A convolution's weight is ``(out, in, k, k)``, a dense layer's ``(out, in)``; a `Norm` that
    nothing before it can take in has ``scale`` and ``shift`` of ``(C, 1, 1)`` or ``(features,)``.
    """
    shapes: dict[str, Shape] = {}
    before: Layer | None = None
    for step in walk(layers, channels=channels, size=size):
        match step.layer:
            case Conv(channels=out, kernel=kernel):
                shapes[f"{step.name}.weight"] = (out, step.before[0], kernel, kernel)
                shapes[f"{step.name}.bias"] = (out,)
            case Dense(units=units):
                shapes[f"{step.name}.weight"] = (units, step.before[0])
                shapes[f"{step.name}.bias"] = (units,)
            case Norm() if not foldable(before):
                plane = (step.before[0],) + (1,) * (len(step.before) - 1)
                shapes[f"{step.name}.scale"] = plane
                shapes[f"{step.name}.shift"] = plane
            case _:
                pass
        before = step.layer
    return shapes


def foldable(layer: Layer | None) -> bool:
    """Return whether a `Norm` right after ``layer`` disappears into its weight and bias."""
    return isinstance(layer, Conv | Dense)


def parameters(layers: tuple[Layer, ...], *, channels: int, size: int) -> int:
    """Return the number of exported parameters."""
    total = 0
    for shape in parameter_shapes(layers, channels=channels, size=size).values():
        count = 1
        for side in shape:
            count *= side
        total += count
    return total


def multiply_adds(layers: tuple[Layer, ...], *, channels: int, size: int) -> int:
    """Return the multiply-adds of one image, convolutions and dense layers only."""
    total = 0
    for step in walk(layers, channels=channels, size=size):
        match step.layer:
            case Conv(channels=out, kernel=kernel):
                total += out * step.before[0] * kernel * kernel * step.after[1] * step.after[2]
            case Dense(units=units):
                total += units * step.before[0]
            case _:
                pass
    return total


def _mlp(channels: int, size: int, classes: int) -> tuple[Layer, ...]:
    """Two hidden layers as wide as the input, between 64 and 256, like the paper's FC networks."""
    width = min(256, max(64, channels * size * size))
    hidden: tuple[Layer, ...] = (Dense(width), Norm(), Relu())
    return (Norm(learned=False), Flatten(), *hidden, *hidden, Dense(classes))


_SMALL_PLANE = 4
_LARGE_PLANE = 16
_FEWEST = 8


def _cnn(base: int) -> Callable[[int, int, int], tuple[Layer, ...]]:
    """Blocks of 3 x 3 convolutions; the plane halves and the channels double from block to block.

    The plane halves until it has at most 4 rows, but at least once where it can. The last block
    has ``4 * base`` channels, the one before it half of that, and so on. Blocks on planes of at
    most 16 rows have two convolutions, except a last one; larger planes cost too much for that.
    """

    def layers(channels: int, size: int, classes: int) -> tuple[Layer, ...]:
        del channels  # the first convolution takes any number
        planes = [size]
        while planes[-1] > _SMALL_PLANE or (len(planes) == 1 and size > 1):
            planes.append(planes[-1] // 2)
        body: list[Layer] = [Norm(learned=False)]
        for index, plane in enumerate(planes):
            last = index == len(planes) - 1
            width = max(_FEWEST, 4 * base >> (len(planes) - 1 - index))
            twice = plane <= _LARGE_PLANE and not (last and index > 0)
            body += [Conv(width), Norm(), Relu()] * (1 + twice)
            if not last:
                body.append(MaxPool())
        return (*body, GlobalAveragePool(), Dense(classes))

    return layers


def _fc_8l(channels: int, size: int, classes: int) -> tuple[Layer, ...]:
    """The paper's FC-8L: eight hidden layers as wide as the input."""
    width = channels * size * size
    hidden: tuple[Layer, ...] = (Dense(width), Norm(), Relu())
    return (Norm(learned=False), Flatten(), *hidden * 8, Dense(classes))


def _cnn_8(base: int) -> Callable[[int, int, int], tuple[Layer, ...]]:
    """The paper's CNN: blocks of 2, 2 and 3 convolutions with pooling, and a dense layer.

    The blocks have ``base``, ``2 base`` and ``4 base`` channels; the paper's base is 64. The plane
    halves after every block, from 32 rows to 4; one that is small already halves after the last
    blocks only, so that a branch is as large as the whole and sees as much.
    """

    def layers(channels: int, size: int, classes: int) -> tuple[Layer, ...]:
        del channels  # the first convolution takes any number
        depths = (2, 2, 3)
        plane, halvings = size, 0
        while plane > _SMALL_PLANE and halvings < len(depths):
            plane, halvings = plane // 2, halvings + 1
        body: list[Layer] = [Norm(learned=False)]
        for block, depth in enumerate(depths):
            body += [Conv(base << block), Norm(), Relu()] * depth
            if block >= len(depths) - halvings:
                body.append(MaxPool())
        return (*body, Flatten(), Dense(classes))

    return layers


_PRESETS: dict[str, Callable[[int, int, int], tuple[Layer, ...]]] = {
    "mlp-s": _mlp,
    "cnn-xs": _cnn(16),
    "cnn-s": _cnn(32),
    "cnn-m": _cnn(64),
    "fc-8l": _fc_8l,
    "cnn-8": _cnn_8(64),
    "cnn-8-half": _cnn_8(32),
    "cnn-8-quarter": _cnn_8(16),
}


def preset_names() -> tuple[str, ...]:
    """Return the names of the built-in networks."""
    return tuple(_PRESETS)


def preset(name: str, *, channels: int, size: int, classes: int) -> tuple[Layer, ...]:
    """Return the layers of a built-in network.

    Args:
        name: one of `preset_names`.
        channels: channels of the input, ``image channels * bands``.
        size: rows and columns of the input, 1 or more.
        classes: number of outputs.

    Raises:
        KeyError: there is no such preset.
    """
    return _PRESETS[name](channels, size, classes)

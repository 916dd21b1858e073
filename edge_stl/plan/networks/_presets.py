"""The built-in networks: rules from (channels, size, classes) to a list of layers."""

from collections.abc import Callable

from edge_stl.plan.networks._layers import (
    Conv,
    Dense,
    DepthwiseConv,
    Flatten,
    GlobalAveragePool,
    GroupNorm,
    Layer,
    MaxPool,
    Norm,
    Relu,
    Residual,
)


def _mlp(channels: int, size: int, classes: int) -> tuple[Layer, ...]:
    """Two hidden layers as wide as the input, between 64 and 256, like the paper's FC networks."""
    width = min(256, max(64, channels * size * size))
    hidden: tuple[Layer, ...] = (Dense(width), Norm(), Relu())
    return (Norm(learned=False), Flatten(), *hidden, *hidden, Dense(classes))


_SMALL_PLANE = 4
_LARGE_PLANE = 16
_FEWEST = 8


def _planes(size: int) -> list[int]:
    """Halve until at most 4 rows are left, but at least once where that goes."""
    planes = [size]
    while planes[-1] > _SMALL_PLANE or (len(planes) == 1 and size > 1):
        planes.append(planes[-1] // 2)
    return planes


def _cnn(base: int) -> Callable[[int, int, int], tuple[Layer, ...]]:
    """Blocks of 3 x 3 convolutions; the plane halves and the channels double from block to block.

    The plane halves until it has at most 4 rows, but at least once where it can. The last block
    has ``4 * base`` channels, the one before it half of that, and so on. Blocks on planes of at
    most 16 rows have two convolutions, except a last one; larger planes cost too much for that.
    """

    def layers(channels: int, size: int, classes: int) -> tuple[Layer, ...]:
        del channels  # the first convolution takes any number
        planes = _planes(size)
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


_STAGES = ((16, 2), (32, 2), (64, 1))


def _res_s(channels: int, size: int, classes: int) -> tuple[Layer, ...]:
    """Basic blocks in three stages of 16, 32 and 64 channels (He et al., CVPR 2016, section 4.2).

    A stage begins with a convolution that widens, so that no shortcut needs a projection. The
    last stage has one block, the others two: as many parameters and nearly as many multiply-adds
    as `cnn-s`. The plane halves until it has at most 4 rows; where it halves more than twice, one
    convolution for each larger plane comes before the stages, and where it halves less often, the
    first stages have planes of one size.
    """
    del channels  # the first convolution takes any number
    planes = _planes(size)
    body: list[Layer] = [Norm(learned=False)]
    for _ in planes[len(_STAGES) :]:
        body += [Conv(_FEWEST), Norm(), Relu(), MaxPool()]
    for stage, (width, blocks) in enumerate(_STAGES):
        if stage > max(0, len(_STAGES) - len(planes)):
            body.append(MaxPool())
        block = Residual((Conv(width), Norm(), Relu(), Conv(width), Norm()))
        body += [Conv(width), Norm(), Relu()]
        body += [block, Relu()] * blocks
    return (*body, GlobalAveragePool(), Dense(classes))


def _mobile_s(channels: int, size: int, classes: int) -> tuple[Layer, ...]:
    """`cnn-s` of depthwise separable convolutions (Howard et al., arXiv 1704.04861).

    As there, the first convolution stays whole, and every other one becomes a depthwise 3 x 3
    and a pointwise one, each with batch norm and ReLU.
    """
    first, *rest = _cnn(32)(channels, size, classes)
    body: list[Layer] = [first, rest.pop(0)]
    for layer in rest:
        if isinstance(layer, Conv):
            body += [DepthwiseConv(layer.kernel), Norm(), Relu(), Conv(layer.channels, kernel=1)]
        else:
            body.append(layer)
    return tuple(body)


def _fc_8l(channels: int, size: int, classes: int) -> tuple[Layer, ...]:
    """The paper's FC-8L: eight hidden layers as wide as the input."""
    width = channels * size * size
    hidden: tuple[Layer, ...] = (Dense(width), Norm(), Relu())
    return (Norm(learned=False), Flatten(), *hidden * 8, Dense(classes))


def _halvings(size: int, most: int) -> int:
    """Return how often the plane halves until it has at most 4 rows, at most so often."""
    return min(most, sum(size >> i > _SMALL_PLANE for i in range(most)))


def _cnn_8(base: int) -> Callable[[int, int, int], tuple[Layer, ...]]:
    """The paper's CNN: blocks of 2, 2 and 3 convolutions with pooling, and a dense layer.

    The blocks have ``base``, ``2 base`` and ``4 base`` channels; the paper's base is 64. The plane
    halves after every block, from 32 rows to 4; one that is small already halves after the last
    blocks only, so that a branch is as large as the whole and sees as much.
    """

    def layers(channels: int, size: int, classes: int) -> tuple[Layer, ...]:
        del channels  # the first convolution takes any number
        depths = (2, 2, 3)
        halvings = _halvings(size, len(depths))
        body: list[Layer] = [Norm(learned=False)]
        for block, depth in enumerate(depths):
            body += [Conv(base << block), Norm(), Relu()] * depth
            if block >= len(depths) - halvings:
                body.append(MaxPool())
        return (*body, Flatten(), Dense(classes))

    return layers


_GROUPS = 2


def _cnn_gn(base: int) -> Callable[[int, int, int], tuple[Layer, ...]]:
    """`_cnn` with group norm after every convolution in place of batch norm.

    Nothing standardizes the input, which only running statistics could do without losing how an
    image differs from others; the first group norm takes the scale of the bands out all the same.
    """

    def layers(channels: int, size: int, classes: int) -> tuple[Layer, ...]:
        _, *body = _cnn(base)(channels, size, classes)
        return tuple(GroupNorm(_GROUPS) if isinstance(x, Norm) else x for x in body)

    return layers


def _pooled_gn(
    blocks: tuple[tuple[Conv, ...], ...],
) -> Callable[[int, int, int], tuple[Layer, ...]]:
    """Blocks of convolutions with group norm and ReLU, each ended by pooling, and a dense layer.

    As in `_cnn_8`, a plane that is small already halves after the last blocks only.
    """

    def layers(channels: int, size: int, classes: int) -> tuple[Layer, ...]:
        del channels  # the first convolution takes any number
        halvings = _halvings(size, len(blocks))
        body: list[Layer] = []
        for index, block in enumerate(blocks):
            for conv in block:
                body += [conv, GroupNorm(_GROUPS), Relu()]
            if index >= len(blocks) - halvings:
                body.append(MaxPool())
        return (*body, Flatten(), Dense(classes))

    return layers


_LENET_GN = _pooled_gn(tuple((Conv(width, kernel=5),) for width in (32, 32, 64)))
"""The network of JWINS (Dhasade et al., ICDCS 2023) for CIFAR-10: 89,834 numbers at 3 x 32 x 32."""

_CNN5_GN = _pooled_gn(
    tuple(tuple(Conv(width, bias=False) for width in block) for block in ((32, 32), (64,), (64,)))
)
"""The 5-layer CNN of NGC (Aketi, Kodge and Roy, 2022), with group norm and ReLU in place of
EvoNorm: 76,010 numbers at 3 x 32 x 32, as many as theirs."""

_PRESETS: dict[str, Callable[[int, int, int], tuple[Layer, ...]]] = {
    "mlp-s": _mlp,
    "cnn-xs": _cnn(16),
    "cnn-s": _cnn(32),
    "cnn-m": _cnn(64),
    "res-s": _res_s,
    "mobile-s": _mobile_s,
    "fc-8l": _fc_8l,
    "cnn-8": _cnn_8(64),
    "cnn-8-half": _cnn_8(32),
    "cnn-8-quarter": _cnn_8(16),
    "cnn-s-gn": _cnn_gn(32),
    "lenet-gn": _LENET_GN,
    "cnn5-gn": _CNN5_GN,
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

"""A spectral network and its branches: the same numbers, as one network or as many.

In the transform domain a spectral network never looks from one block to another (Liu, Wang, Yuan &
Han, "Spectral tensor layers", IEEE TNNLS 2024), so it *is* one ordinary network per block. The
branch of a real coordinate takes ``(N, C, …)``, that of a complex frequency ``(N, 2 C, …)``: the
real parts of all channels, then their imaginary parts.
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from edge_stl.layers._apart import apart, transform_of
from edge_stl.layers._bandwise import FromBands, ToBands
from edge_stl.layers._together import together
from edge_stl.layers._tubes import TubeTransform


def split(network: nn.Sequential) -> list[nn.Sequential]:
    """Return one ordinary torch network per block of the transform, in block order.

    Layers keep their names; all numbers, buffers and modes are copied, nothing is shared. A
    branch of a complex frequency has weights ``[[R, -I], [I, R]]``. Run apart it does what the
    whole does; *trained* apart, as an ordinary network, it would lose that form, because its four
    quarters get gradients of their own: train ``join([branch], transform)`` with a transform of
    that one block instead.

    Args:
        network: `SpectralLinear` and `SpectralConv2d` of domain "transform", spectral batch norms
            and `Bandwise` modules. A leading `ToBands` and a trailing `FromBands` are no part of
            the branches: the box's analysis does the first, nothing the second.

    Raises:
        TypeError: not an ``nn.Sequential``.
        ValueError: a layer mixes blocks or cannot be told apart; the sentence names it.
    """
    layers = _layers("split", network)
    transforms = [(name, transform_of(layer)) for name, layer in layers.items()]
    known = [(name, found) for name, found in transforms if found is not None]
    names = list(layers)
    if names and type(layers[names[0]]) is ToBands:
        del layers[names[0]]
    if names and type(layers.get(names[-1])) is FromBands:
        del layers[names[-1]]
    if not known:
        raise ValueError("split: no layer of the network has a transform; expected a spectral one")
    transform = known[0][1]
    for name, other in known:
        if not other.equals(transform):
            raise ValueError(
                f"split: layer {name!r} has transform {other}; expected {transform} as in layer "
                f"{known[0][0]!r}. A network has one transform"
            )
    branches = []
    for block in transform.blocks:
        own = OrderedDict((name, apart(name, layer, block)) for name, layer in layers.items())
        branch = nn.Sequential(own)
        branch.training = network.training
        branches.append(branch)
    return branches


def join(branches: Sequence[nn.Sequential], transform: TubeTransform) -> nn.Sequential:
    """Return the spectral network of these branches; the inverse of `split`.

    Args:
        branches: one ordinary network per block, in block order, of ``nn.Linear``, ``nn.Conv2d``,
            ``nn.BatchNorm1d``, ``nn.BatchNorm2d`` and modules without numbers. All have the same
            layers with the same names, sizes, options and modes; that of a complex frequency has
            twice the features and weights that are exactly ``[[R, -I], [I, R]]``.
        transform: whose coordinates the branches read.

    Returns:
        a network of domain "transform" on ``(N, n, …)``; copies, nothing is shared.

    Raises:
        TypeError: a branch is not an ``nn.Sequential``.
        ValueError: the branches do not go together; the sentence names the layer.
    """
    if len(branches) != len(transform.blocks):
        raise ValueError(
            f"join: {len(branches)} branches; expected {len(transform.blocks)}, one per block of "
            f"{transform}"
        )
    columns = [_layers("join", branch) for branch in branches]
    for index, (branch, layers) in enumerate(zip(branches, columns, strict=True)):
        if list(layers) != list(columns[0]) or branch.training != branches[0].training:
            raise ValueError(
                f"join: branch {index} has layers {', '.join(layers)} in "
                f"{_mode(branch)} mode; expected {', '.join(columns[0])} in "
                f"{_mode(branches[0])} mode, as in branch 0"
            )
    own = OrderedDict(
        (name, together(name, [layers[name] for layers in columns], transform))
        for name in columns[0]
    )
    network = nn.Sequential(own)
    network.training = branches[0].training
    return network


def _layers(where: str, network: nn.Module) -> dict[str, nn.Module]:
    if type(network) is not nn.Sequential:
        raise TypeError(f"{where}: a {type(network).__name__}; expected an nn.Sequential of layers")
    # named_children would leave out a module that is used twice
    named = dict(network.named_modules(remove_duplicate=False))
    layers = {name: layer for name, layer in named.items() if name and "." not in name}
    seen: set[int] = set()
    for name, layer in layers.items():
        if id(layer) in seen and any(True for _ in layer.parameters()):
            raise ValueError(
                f"{where}: layer {name!r} is used twice and has parameters; expected layers of "
                "their own. Copy it"
            )
        seen.add(id(layer))
    return layers


def _mode(branch: nn.Module) -> str:
    return "training" if branch.training else "evaluation"

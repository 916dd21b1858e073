"""The ordinary layer of one block of a spectral layer."""

import copy

from torch import Tensor, nn

from edge_stl.layers._bandwise import (
    Bandwise,
    SpectralBatchNorm1d,
    SpectralBatchNorm2d,
    ToBands,
)
from edge_stl.layers._ordinary import ordinary_conv, ordinary_linear, real_expansion
from edge_stl.layers._spectral import SpectralConv2d, SpectralLinear
from edge_stl.layers._tubes import TubeTransform


Block = tuple[int, ...]
PAIR = 2

# Modules that look from one feature to another would mix the real parts with the imaginary ones
# when a branch holds both as features; on a coordinate alone they are harmless.
_ACROSS_FEATURES = (
    nn.ChannelShuffle,
    nn.CrossMapLRN2d,
    nn.GLU,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.LocalResponseNorm,
    nn.LogSoftmax,
    nn.Softmax,
    nn.Softmax2d,
    nn.Softmin,
)


def transform_of(layer: nn.Module) -> TubeTransform | None:
    """Return the transform that a layer of this room has, or None."""
    found = getattr(layer, "transform", None)
    return found if isinstance(found, TubeTransform) else None


def apart(name: str, layer: nn.Module, block: Block) -> nn.Module:
    """Return the ordinary layer of one block of a spectral layer: a copy.

    Raises:
        ValueError: the layer mixes blocks, or is none of this room.
    """
    own: nn.Module
    if isinstance(layer, SpectralLinear | SpectralConv2d) and layer.domain == "transform":
        weight, bias = _expanded(layer.weight.detach(), block), _flat(layer.bias, block)
        if isinstance(layer, SpectralLinear):
            own = ordinary_linear(weight, bias)
        else:
            own = ordinary_conv(weight, bias, stride=layer.stride, padding=layer.padding)
    elif isinstance(layer, SpectralBatchNorm1d | SpectralBatchNorm2d):
        own = _norm_apart(layer, block)
    elif isinstance(layer, Bandwise):
        refuse_across_features(f"split: layer {name!r}", layer.module, block)
        return copy.deepcopy(layer.module)
    else:
        raise ValueError(f"split: layer {name!r} {_why_not(layer)}")
    own.training = layer.training
    freeze_like(own, layer)
    return own


def refuse_across_features(where: str, module: nn.Module, block: Block) -> None:
    """Refuse a module that would mix the real with the imaginary parts in a pair's branch.

    Raises:
        ValueError: it is one of those that look from one feature to another.
    """
    for inner in module.modules():
        if len(block) == PAIR and isinstance(inner, _ACROSS_FEATURES):
            raise ValueError(
                f"{where}: {type(inner).__name__} looks from one feature to another; expected a "
                "module that does not, because the branch of a complex frequency has the real and "
                "the imaginary parts as features"
            )


def freeze_like(layer: nn.Module, other: nn.Module) -> None:
    """Let the same parameters of ``layer`` be trained as those of ``other``."""
    wanted = {name: p.requires_grad for name, p in other.named_parameters()}
    for name, parameter in layer.named_parameters():
        parameter.requires_grad_(wanted[name])


def _norm_apart(
    layer: SpectralBatchNorm1d | SpectralBatchNorm2d, block: Block
) -> nn.BatchNorm1d | nn.BatchNorm2d:
    kind = nn.BatchNorm1d if isinstance(layer, SpectralBatchNorm1d) else nn.BatchNorm2d
    norm = kind(
        layer.features * len(block),
        eps=layer.eps,
        momentum=layer.momentum,
        affine=layer.affine,
        device=layer.running_mean.device,
        dtype=layer.running_mean.dtype,
    )
    tensors = {k: v[list(block)].flatten() for k, v in layer.state_dict().items()}
    tensors["num_batches_tracked"] = layer.num_batches_tracked[block[0]]
    norm.load_state_dict(tensors)
    return norm


def _expanded(weight: Tensor, block: Block) -> Tensor:
    if len(block) < PAIR:
        return weight[block[0]]
    real, imaginary = weight[block[0] : block[0] + 1], weight[block[1] : block[1] + 1]
    return real_expansion(real, imaginary)[0]


def _flat(bias: Tensor | None, block: Block) -> Tensor | None:
    return None if bias is None else bias.detach()[list(block)].flatten()


def _why_not(layer: nn.Module) -> str:
    kind = type(layer).__name__
    if isinstance(layer, SpectralLinear | SpectralConv2d):
        return f"is a {kind} of domain 'original', which mixes the blocks; expected 'transform'"
    if isinstance(layer, ToBands):
        return f"is a {kind} in the middle, which mixes the blocks; expected it at the end only"
    return (
        f"is a {kind}, which may mix the blocks; expected SpectralLinear, SpectralConv2d, "
        "SpectralBatchNorm1d, SpectralBatchNorm2d or Bandwise. Wrap a module without parameters in "
        "Bandwise"
    )

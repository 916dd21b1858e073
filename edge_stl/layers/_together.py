"""The spectral layer of one ordinary layer per block."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edge_stl.layers._apart import PAIR, Block, freeze_like, refuse_across_features
from edge_stl.layers._bandwise import Bandwise, SpectralBatchNorm1d, SpectralBatchNorm2d
from edge_stl.layers._ordinary import real_expansion
from edge_stl.layers._spectral import SpectralConv2d, SpectralLinear
from edge_stl.layers._tubes import TubeTransform


def together(name: str, layers: Sequence[nn.Module], transform: TubeTransform) -> nn.Module:
    """Return the spectral layer of one ordinary layer per block: a copy.

    Raises:
        ValueError: the layers differ, or do not have the form of their block.
    """
    parts = []
    for index, (layer, block) in enumerate(zip(layers, transform.blocks, strict=True)):
        parts.append(_parts(f"join: layer {name!r} of branch {index}", layer, block))
        for fact, value in parts[0].facts.items():
            if parts[-1].facts.get(fact) != value:
                raise ValueError(
                    f"join: layer {name!r} of branch {index} has {fact} "
                    f"{parts[-1].facts.get(fact)}; expected {value} as in branch 0. Build all "
                    "branches alike"
                )
    first = layers[0]
    if not parts[0].tensors:
        module = Bandwise(copy.deepcopy(first))
        module.training = first.training
        return module
    tensors = {key: torch.cat([p.tensors[key] for p in parts]) for key in parts[0].tensors}
    whole = _empty(first, tensors, transform)
    whole.load_state_dict(tensors)
    whole.training = first.training
    freeze_like(whole, first)
    return whole


@dataclass(frozen=True)
class _Parts:
    """What a block contributes: tensors ``(1 or 2, …)``, and facts all blocks must share."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


def _parts(where: str, layer: nn.Module, block: Block) -> _Parts:
    width = len(block)
    facts: dict[str, Any] = {"type": type(layer).__name__, "training": layer.training}
    if not any(True for _ in (*layer.parameters(), *layer.buffers())):
        refuse_across_features(where, layer, block)
        return _Parts({}, facts | {"form": repr(layer)})
    if type(layer) is nn.Linear or type(layer) is nn.Conv2d:
        tensors = {"weight": _contracted(where, layer.weight.detach(), width)}
        if layer.bias is not None:
            tensors["bias"] = _halved(where, layer.bias.detach(), width)
        if type(layer) is nn.Conv2d:
            facts |= _window(where, layer)
    elif type(layer) is nn.BatchNorm1d or type(layer) is nn.BatchNorm2d:
        tensors = _norm_tensors(where, layer, width)
        facts |= {"eps": layer.eps, "momentum": layer.momentum}
    else:
        raise ValueError(
            f"{where}: a {type(layer).__name__}; expected nn.Linear, nn.Conv2d, nn.BatchNorm1d, "
            "nn.BatchNorm2d or a module without numbers"
        )
    facts["tensors"] = ", ".join(tensors)
    for key, values in tensors.items():
        facts[f"a {key} of"] = (tuple(values.shape[1:]), values.dtype, values.device)
    facts["trained tensors"] = ", ".join(k for k, p in layer.named_parameters() if p.requires_grad)
    return _Parts(tensors, facts)


def _window(where: str, layer: nn.Conv2d) -> dict[str, Any]:
    plain = layer.dilation == (1, 1) and layer.groups == 1 and layer.padding_mode == "zeros"
    if not plain or isinstance(layer.padding, str):
        raise ValueError(
            f"{where}: {layer}; expected no dilation, no groups, and zero padding in pixels"
        )
    return {"stride": layer.stride, "padding": layer.padding}


def _norm_tensors(
    where: str, layer: nn.BatchNorm1d | nn.BatchNorm2d, width: int
) -> dict[str, Tensor]:
    if layer.momentum is None or layer.num_batches_tracked is None:
        raise ValueError(
            f"{where}: a batch norm without momentum or running statistics; expected both"
        )
    named = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}
    counts = named.pop("num_batches_tracked").expand(width)
    tensors = {key: _halved(where, values.detach(), width) for key, values in named.items()}
    return tensors | {"num_batches_tracked": counts}


def _empty(first: nn.Module, tensors: dict[str, Tensor], transform: TubeTransform) -> nn.Module:
    """Return the spectral layer that takes these tensors, without drawing numbers."""
    one = next(iter(tensors.values()))
    bias, dtype = "bias" in tensors, one.dtype
    whole: nn.Module
    if isinstance(first, nn.Linear):
        whole = SpectralLinear(
            one.shape[2],
            one.shape[1],
            transform,
            bias=bias,
            domain="transform",
            device="meta",
            dtype=dtype,
        )
    elif isinstance(first, nn.Conv2d):
        whole = SpectralConv2d(
            one.shape[2],
            one.shape[1],
            (one.shape[3], one.shape[4]),
            transform,
            stride=(first.stride[0], first.stride[1]),
            padding=(int(first.padding[0]), int(first.padding[1])),
            bias=bias,
            domain="transform",
            device="meta",
            dtype=dtype,
        )
    else:
        assert isinstance(first, nn.BatchNorm1d | nn.BatchNorm2d)  # noqa: S101  (see _parts)
        kind = SpectralBatchNorm1d if isinstance(first, nn.BatchNorm1d) else SpectralBatchNorm2d
        whole = kind(
            one.shape[1],
            transform,
            affine=bias,
            eps=first.eps,
            momentum=first.momentum or 0.0,
            device="meta",
            dtype=dtype,
        )
    return whole.to_empty(device=one.device)


def _contracted(where: str, weight: Tensor, width: int) -> Tensor:
    """Return ``(width, out, in, …)``; the inverse of `_expanded`."""
    if width < PAIR:
        return weight.unsqueeze(0)
    out, inputs = weight.shape[0] // 2, weight.shape[1] // 2
    if weight.shape[:2] != (2 * out, 2 * inputs):
        raise ValueError(
            f"{where}: weight {tuple(weight.shape)}; expected even numbers of inputs and outputs"
        )
    parts = torch.stack([weight[:out, :inputs], weight[out:, :inputs]])
    if not torch.equal(real_expansion(parts[:1], parts[1:])[0], weight):
        raise ValueError(
            f"{where}: the weight is not [[R, -I], [I, R]]; expected that of a complex frequency. "
            "Train such a branch as a spectral network of one block"
        )
    return parts


def _halved(where: str, values: Tensor, width: int) -> Tensor:
    if len(values) % width:
        raise ValueError(f"{where}: {len(values)} features; expected an even number")
    return values.reshape(width, -1)

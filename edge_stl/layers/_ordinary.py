"""Ordinary torch layers from given numbers, and the real form of a complex matrix."""

from typing import TypeVar

import torch
from torch import Tensor, nn


_Layer = TypeVar("_Layer", nn.Linear, nn.Conv2d)


def ordinary_linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Return ``nn.Linear`` with copies of a weight ``(out, in)`` and a bias ``(out,)``."""
    out, inputs = weight.shape
    layer = nn.Linear(inputs, out, bias=bias is not None, device="meta", dtype=weight.dtype)
    return _filled(layer, weight, bias)


def ordinary_conv(
    weight: Tensor, bias: Tensor | None, *, stride: tuple[int, int], padding: tuple[int, int]
) -> nn.Conv2d:
    """Return ``nn.Conv2d`` with copies of a weight ``(out, in, k, k)`` and a bias ``(out,)``."""
    layer = nn.Conv2d(
        weight.shape[1],
        weight.shape[0],
        (weight.shape[2], weight.shape[3]),
        stride=stride,
        padding=padding,
        bias=bias is not None,
        device="meta",
        dtype=weight.dtype,
    )
    return _filled(layer, weight, bias)


def real_expansion(real: Tensor, imaginary: Tensor) -> Tensor:
    """Return ``[[R, -I], [I, R]]`` of ``(g, out, in, …)`` as ``(g, 2 out, 2 in, …)``.

    It does to ``[x_r; x_i]`` what ``R + i I`` does to ``x_r + i x_i``.
    """
    upper, lower = torch.cat([real, -imaginary], 2), torch.cat([imaginary, real], 2)
    return torch.cat([upper, lower], 1)


def _filled(layer: _Layer, weight: Tensor, bias: Tensor | None) -> _Layer:
    # Made without numbers and without drawing any: a copy leaves torch's generator alone.
    layer.to_empty(device=weight.device)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None and layer.bias is not None:
            layer.bias.copy_(bias)
    return layer

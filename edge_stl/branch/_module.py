"""A network's declarative layer list as a torch module, and its numbers with batch norm folded."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_stl.plan import networks as nets


def build_module(layers: tuple[nets.Layer, ...], *, channels: int, size: int) -> nn.Sequential:
    """Return the torch module of a network for inputs ``(N, channels, size, size)`` float32.

    The submodules are named like the layers, so ``state_dict`` keys follow the list. Weights are
    drawn from torch's global generator: seed it, or use `torch.random.fork_rng`.
    """
    return _filled(nn.Sequential(), nets.walk(layers, channels=channels, size=size))


def _filled(module: nn.Sequential, steps: Iterable[nets.Step]) -> nn.Sequential:
    for step in steps:
        module.add_module(step.name.rpartition(".")[2], _torch_layer(step))
    return module


def _torch_layer(step: nets.Step) -> nn.Module:  # noqa: C901, PLR0911  (one way out per layer)
    features = step.before[0]
    match step.layer:
        case nets.Conv(channels=out, kernel=kernel, bias=bias):
            layer = nn.Conv2d(features, out, kernel, padding=kernel // 2, bias=bias)
            # He et al., ICCV 2015: keeps the variance through ReLU
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
            return layer
        case nets.DepthwiseConv(kernel=kernel):
            layer = nn.Conv2d(features, features, kernel, padding=kernel // 2, groups=features)
            # an output reads one channel, which torch's "fan_out" does not know of
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
            nn.init.zeros_(_present(layer.bias))
            return layer
        case nets.Dense(units=units):
            return nn.Linear(features, units)
        case nets.Norm(learned=learned):
            norm = nn.BatchNorm1d if len(step.before) == 1 else nn.BatchNorm2d
            return norm(features, affine=learned)
        case nets.GroupNorm(groups=groups):
            return nn.GroupNorm(groups, features, eps=nets.GROUP_NORM_EPSILON)
        case nets.Relu():
            return nn.ReLU()
        case nets.MaxPool():
            return nn.MaxPool2d(2)
        case nets.GlobalAveragePool():
            return _PlaneMean()
        case nets.Flatten():
            return nn.Flatten()
        case nets.Residual():
            return _filled(Residual(), nets.inside(step))


class _PlaneMean(nn.Module):
    """``(N, C, h, w) -> (N, C)``."""

    def forward(self, x: Tensor) -> Tensor:
        """Average over the plane."""
        return x.mean(dim=(2, 3))


class Residual(nn.Sequential):
    """The sum of its input and of what its layers make of it."""

    def forward(self, x: Tensor) -> Tensor:
        """Add the input to what the layers make of it."""
        made: Tensor = super().forward(x)  # type: ignore[no-untyped-call]  # torch leaves it so
        return x + made


def folded_parameters(
    module: nn.Sequential, layers: tuple[nets.Layer, ...], *, channels: int, size: int
) -> dict[str, NDArray[np.float32]]:
    """Return the exported tensors of a module in evaluation mode.

    Batch norm ``y = g (x - m) / sqrt(v + eps) + b`` becomes ``scale x + shift``; right after a
    convolution or dense layer it goes into that layer: ``W scale`` and ``bias scale + shift``.
    Group norm depends on the image and stays: its scale and shift are exported as they are. The
    arithmetic is float64, the result float32, named and shaped as `networks.parameter_shapes`.
    """
    out: dict[str, NDArray[np.float64]] = {}
    for previous, step in nets.leaves(layers, channels=channels, size=size):
        layer = module.get_submodule(step.name)
        if isinstance(layer, nn.Conv2d | nn.Linear):
            out[f"{step.name}.weight"] = _numpy(layer.weight)
            if layer.bias is not None:
                out[f"{step.name}.bias"] = _numpy(layer.bias)
        elif isinstance(layer, nn.GroupNorm):
            plane = (-1, *[1] * (len(step.before) - 1))
            out[f"{step.name}.scale"] = _numpy(layer.weight).reshape(plane)
            out[f"{step.name}.shift"] = _numpy(layer.bias).reshape(plane)
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            scale, shift = _affine(layer)
            if previous is not None and nets.foldable(previous.layer):
                weight = out[f"{previous.name}.weight"]
                out[f"{previous.name}.weight"] = weight * scale.reshape(
                    -1, *[1] * (weight.ndim - 1)
                )
                out[f"{previous.name}.bias"] = out[f"{previous.name}.bias"] * scale + shift
            else:
                plane = (-1, *[1] * (len(step.before) - 1))
                out[f"{step.name}.scale"] = scale.reshape(plane)
                out[f"{step.name}.shift"] = shift.reshape(plane)
    return {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in out.items()}


def _affine(
    norm: nn.BatchNorm1d | nn.BatchNorm2d,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    mean, variance = _present(norm.running_mean), _present(norm.running_var)
    scale = 1 / np.sqrt(_numpy(variance) + norm.eps)
    shift = -_numpy(mean) * scale
    if norm.affine:
        scale, shift = _numpy(norm.weight) * scale, _numpy(norm.weight) * shift + _numpy(norm.bias)
    return scale, shift


def _present(tensor: Tensor | None) -> Tensor:
    """Return a tensor that torch declares optional and our layers always have."""
    if tensor is None:
        raise TypeError("a layer without bias or running statistics")
    return tensor


def _numpy(tensor: Tensor) -> NDArray[np.float64]:
    with torch.no_grad():
        array: NDArray[np.float64] = tensor.detach().cpu().double().numpy().copy()
    return array

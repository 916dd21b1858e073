"""AdamW, its learning rate at every step, and the batch size where a plan leaves it open."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from edge_stl.branch._facts import Settings


_RISE = 0.25
_START = 1 / 25
_END = 1e-4
_BATCH_SIZES = ((5_000, 16), (20_000, 32))  # measured on roadside64 and MNIST validation images
_LARGE_BATCH = 64


def one_cycle(step: int, total: int) -> float:
    """Return the learning rate of a step as a share of its peak."""
    peak = max(1.0, _RISE * total)
    if step < peak:
        return _START + (1 - _START) * (1 - math.cos(math.pi * step / peak)) / 2
    fall = (step - peak) / max(1.0, total - peak)
    return _END + (1 - _END) * (1 + math.cos(math.pi * fall)) / 2


def batch_size(images: int) -> int:
    """Return the batch size for a number of training images, where the plan leaves it open."""
    return next((size for limit, size in _BATCH_SIZES if images <= limit), _LARGE_BATCH)


def _plain(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method of torch's optimizers without what it does for the compiler."""
    plain: Callable[..., Any] = getattr(method, "__wrapped__", method)
    return plain


class _AdamW(AdamW):
    """Torch's AdamW without torch's compiler.

    The methods below are wrapped in torch so that the compiler leaves them alone, and the wrappers
    import it: a second and 70 MB in every process that trains, though nothing is compiled.
    """

    add_param_group = _plain(Optimizer.add_param_group)
    zero_grad = _plain(Optimizer.zero_grad)
    state_dict = _plain(Optimizer.state_dict)
    load_state_dict = _plain(Optimizer.load_state_dict)
    step = torch.no_grad()(_plain(AdamW.step))


def adamw(module: nn.Module, settings: Settings) -> AdamW:
    """Return AdamW; only weights decay, not biases and batch norm."""
    decayed = [p for p in module.parameters() if p.ndim > 1]
    free = [p for p in module.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return _AdamW(groups, lr=settings.learning_rate, fused=True)

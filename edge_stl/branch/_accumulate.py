"""One training step on a whole batch in the memory of a few images at a time.

Batch norm needs the mean and the variance of the whole batch; everything else in our networks is
done per image. So the network is cut in front of every norm layer. For the whole batch only the
inputs of the pieces are kept; what happens inside a piece (normalize, ReLU, pool, convolve) runs a
micro-batch at a time and is not kept, but computed again in the backward pass (Chen et al.,
"Training deep nets with sublinear memory cost", arXiv 1604.06174, cut along the batch as well).

The statistics are those of the whole batch and are differentiated through, so the result is that of
the plain step up to the order of sums; plain gradient accumulation, with statistics of every
micro-batch for itself, would be another method.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edge_stl.branch._module import Residual


_Norm = nn.BatchNorm1d | nn.BatchNorm2d


def accumulated_logits(module: nn.Sequential, inputs: Tensor, *, micro: int) -> Tensor:
    """Return what a module in training mode gives, to be differentiated like its own output.

    The running statistics move once, as `torch.nn.BatchNorm2d` moves them.

    Args:
        module: of `build_module`.
        inputs: ``(n, C, h, w)``, n at least 2.
        micro: images that go through a piece at the same time, from 1.

    Returns:
        logits ``(n, K)``, with a gradient for the parameters and the inputs.
    """
    return _through(module, inputs, micro)


def _through(layers: Iterable[nn.Module], x: Tensor, micro: int) -> Tensor:
    norm: _Norm | None = None
    piece: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, Residual):
            x, norm, piece = _run(x, micro, norm, piece), None, []
            x = x + _through(layer, x, micro)
        elif isinstance(layer, _Norm):
            x, norm, piece = _run(x, micro, norm, piece), layer, []
        else:
            piece.append(layer)
    return _run(x, micro, norm, piece)


def _run(x: Tensor, micro: int, norm: _Norm | None, piece: Sequence[nn.Module]) -> Tensor:
    if norm is None and not piece:
        return x
    scale, shift = (None, None) if norm is None else (norm.weight, norm.bias)
    parameters = [p for layer in piece for p in layer.parameters()]
    out: Tensor = _Piece.apply(x, scale, shift, micro, norm, piece, *parameters)  # type: ignore[no-untyped-call]  # torch leaves it so
    return out


class _Piece(torch.autograd.Function):
    """A norm layer, or none, and the layers up to the next one."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor | None,
        shift: Tensor | None,
        micro: int,
        norm: _Norm | None,
        piece: Sequence[nn.Module],
        *parameters: Tensor,
    ) -> Tensor:
        """Run micro-batch after micro-batch, and keep the input alone."""
        mean = variance = None
        if norm is not None:
            mean, variance = _statistics(x)
            _move(norm, mean, variance, x.numel() // x.shape[1])
        ctx.micro, ctx.norm, ctx.piece = micro, norm, piece
        ctx.save_for_backward(x, mean, variance, scale, shift, *parameters)
        out: Tensor | None = None
        for start in range(0, len(x), micro):
            part = x[start : start + micro]
            if norm is not None:
                part = _normalized(part, mean, variance, scale, shift, norm.eps)
            for layer in piece:
                part = layer(part)
            if out is None:
                out = _like(part, len(x))
            out[start : start + micro] = part
        assert out is not None  # noqa: S101  (a batch has images)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Run every micro-batch again, this time with its gradients, and add these up."""
        x, mean, variance, scale, shift, *parameters = ctx.saved_tensors
        norm: _Norm | None = ctx.norm
        (upper,) = gradients
        if norm is not None:
            # Where nothing is learned, the two still carry the gradients of the statistics.
            ones = torch.ones_like(mean) if scale is None else scale
            zeros = torch.zeros_like(mean) if shift is None else shift
            affine = [t.detach().requires_grad_() for t in (ones, zeros)]
        else:
            affine = []
        needs_x: bool = ctx.needs_input_grad[0]
        lower = torch.empty_like(x) if needs_x else None
        sums: list[Tensor] | None = None
        for start in range(0, len(x), ctx.micro):
            part = x[start : start + ctx.micro].detach().requires_grad_(needs_x)
            asked = [*([part] if needs_x else []), *affine, *parameters]
            with torch.enable_grad():
                made = part
                if norm is not None:
                    made = _normalized(made, mean, variance, affine[0], affine[1], norm.eps)
                for layer in ctx.piece:
                    made = layer(made)
            found = list(torch.autograd.grad(made, asked, upper[start : start + ctx.micro]))
            if lower is not None:
                lower[start : start + ctx.micro] = found.pop(0)
            if sums is None:
                sums = found
            else:
                for total, one in zip(sums, found, strict=True):
                    total.add_(one)
        assert sums is not None  # noqa: S101  (a batch has images)
        for_affine = sums[: len(affine)]
        if norm is not None and lower is not None:
            _add_statistics(lower, x, mean, variance, affine[0], for_affine, norm.eps, ctx.micro)
        shown = for_affine if scale is not None else [None, None]
        return lower, *shown, None, None, None, *sums[len(affine) :]


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance ``(C,)`` of ``(n, C, …)``, over images and places."""
    variance, mean = torch.var_mean(x, dim=[0, *range(2, x.ndim)], correction=0)
    return mean, variance


def _normalized(
    x: Tensor,
    mean: Tensor | None,
    variance: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    eps: float,
) -> Tensor:
    return nn.functional.batch_norm(x, mean, variance, scale, shift, False, 0.0, eps)


def _move(norm: _Norm, mean: Tensor, variance: Tensor, count: int) -> None:
    """Move the running statistics as torch does: by the momentum, with the unbiased variance."""
    if count < 2:  # noqa: PLR2004  (torch refuses it with the same class)
        raise ValueError(f"batch norm over {count} value per channel; expected at least 2")
    momentum = norm.momentum
    if momentum is None or norm.running_mean is None or norm.running_var is None:
        raise TypeError("a norm layer without momentum or running statistics")
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked += 1
    norm.running_mean.lerp_(mean, momentum)
    norm.running_var.lerp_(variance * (count / (count - 1)), momentum)


def _add_statistics(
    lower: Tensor,
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    scale: Tensor,
    for_affine: Sequence[Tensor],
    eps: float,
    micro: int,
) -> None:
    """Add what flows back to the inputs through mean and variance of the whole batch.

    With ``r = 1 / sqrt(v + eps)`` and the sums ``b`` and ``s`` of the gradients of shift and scale
    over all ``m`` values of a channel, it is ``-(scale r / m) (b + s r (x - mean))`` (Ioffe &
    Szegedy, arXiv 1502.03167, section 3).
    """
    of_scale, of_shift = (t.detach() for t in for_affine)
    places = x.numel() // x.shape[1]
    plane = (-1, *[1] * (x.ndim - 2))
    inverse = torch.rsqrt(variance + eps)
    slope = -(scale.detach() * inverse * inverse * of_scale / places).reshape(plane)
    level = -(scale.detach() * inverse * of_shift / places).reshape(plane) - (
        slope * mean.reshape(plane)
    )
    for start in range(0, len(x), micro):
        part = lower[start : start + micro]
        part += level
        part.addcmul_(x[start : start + micro], slope)


def _like(part: Tensor, count: int) -> Tensor:
    """Return room for ``count`` images with the layout of a micro-batch."""
    plane = part.ndim == 4 and part.is_contiguous(memory_format=torch.channels_last)  # noqa: PLR2004
    layout = torch.channels_last if plane else torch.contiguous_format
    return torch.empty(
        (count, *part.shape[1:]), dtype=part.dtype, device=part.device, memory_format=layout
    )

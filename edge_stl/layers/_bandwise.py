"""What lies between spectral layers: ordinary modules and batch norm, each tube coordinate alone.

Tensors have the tube axis second: ``(N, n, F)`` or ``(N, n, C, H, W)``. Nothing here looks from one
coordinate to another, so in the transform domain nothing mixes the blocks.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_stl.layers._tubes import TubeTransform


class ToBands(nn.Module):
    """The transform of the tube axis: ``(N, n, …)`` tubes to their coordinates.

    Args:
        transform: of size n.
    """

    def __init__(self, transform: TubeTransform) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, x: Tensor) -> Tensor:
        """Transform along dimension 1."""
        return self.transform.to_bands(x, 1)

    def extra_repr(self) -> str:
        """Return what ``print`` shows."""
        return str(self.transform)


class FromBands(ToBands):
    """The inverse of `ToBands`: ``(N, n, …)`` coordinates to their tubes."""

    def forward(self, x: Tensor) -> Tensor:
        """Transform back along dimension 1."""
        return self.transform.from_bands(x, 1)


class Bandwise(nn.Module):
    """An ordinary module without parameters on every tube coordinate: n goes into the batch.

    Args:
        module: takes ``(N, F)`` or ``(N, C, H, W)`` and treats features (channels) one by one,
            like an activation, a pool, ``Flatten``, or a mean over the plane.

    Raises:
        ValueError: the module has parameters or buffers, which all coordinates would share.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        own = [name for name, _ in (*module.named_parameters(), *module.named_buffers())]
        if own:
            raise ValueError(
                f"Bandwise: {type(module).__name__} has {', '.join(own)}; expected a module "
                "without numbers of its own. Use a Spectral layer for those"
            )
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``(N, n, …)``."""
        y: Tensor = self.module(x.flatten(0, 1))
        return y.reshape(*x.shape[:2], *y.shape[1:])


class _SpectralBatchNorm(nn.Module):
    """Batch norm of every coordinate and feature (Ioffe & Szegedy, ICML 2015).

    Args:
        features: F or C, per tube coordinate.
        transform: of the tubes, of size n; it only says which coordinates go together.
        affine: whether it learns a scale and a shift.
        eps: added to the variance.
        momentum: share of the new batch in the running statistics.
        device: of the numbers.
        dtype: of the numbers.

    Attributes:
        weight: scale ``(n, F)`` or None.
        bias: shift ``(n, F)`` or None.
        running_mean: ``(n, F)``.
        running_var: ``(n, F)``.
        num_batches_tracked: ``(n,)`` int64, because branches may have been trained apart.
    """

    dimensions: ClassVar[int]
    weight: nn.Parameter | None
    bias: nn.Parameter | None
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        features: int,
        transform: TubeTransform,
        *,
        affine: bool = True,
        eps: float = 1e-5,
        momentum: float = 0.1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.features, self.transform = features, transform
        self.affine, self.eps, self.momentum = affine, eps, momentum
        ones = torch.ones(transform.size, features, device=device, dtype=dtype)
        zeros = torch.zeros_like(ones)
        self.register_parameter("weight", nn.Parameter(ones.clone()) if affine else None)
        self.register_parameter("bias", nn.Parameter(zeros.clone()) if affine else None)
        self.register_buffer("running_mean", zeros)
        self.register_buffer("running_var", ones)
        batches = torch.zeros(transform.size, device=device, dtype=torch.int64)
        self.register_buffer("num_batches_tracked", batches)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``(N, n, F)`` or ``(N, n, C, H, W)``, each as its name says.

        Raises:
            ValueError: the input has another shape.
        """
        own = (self.transform.size, self.features)
        if x.ndim != self.dimensions or x.shape[1:3] != own:
            plane = ", H, W" if self.dimensions > 3 else ""  # noqa: PLR2004
            raise ValueError(
                f"{type(self).__name__}: input {tuple(x.shape)}; expected "
                f"(N, {own[0]}, {own[1]}{plane})"
            )
        if self.training:
            self.num_batches_tracked.add_(1)
        y = functional.batch_norm(
            x.flatten(1, 2),
            # Views: what torch writes into them lands in the buffers.
            self.running_mean.view(-1),
            self.running_var.view(-1),
            None if self.weight is None else self.weight.view(-1),
            None if self.bias is None else self.bias.view(-1),
            training=self.training,
            momentum=self.momentum,
            eps=self.eps,
        )
        return y.reshape(x.shape)

    def extra_repr(self) -> str:
        """Return what ``print`` shows."""
        return (
            f"{self.features}, transform={self.transform}, affine={self.affine}, eps={self.eps}, "
            f"momentum={self.momentum}"
        )


class SpectralBatchNorm1d(_SpectralBatchNorm):
    __doc__ = _SpectralBatchNorm.__doc__
    dimensions = 3


class SpectralBatchNorm2d(_SpectralBatchNorm):
    __doc__ = _SpectralBatchNorm.__doc__
    dimensions = 5

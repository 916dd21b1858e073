"""The counter-example: a tensor network that does not split into branches.

Newman, Horesh, Avron & Kilmer, "Stable tensor neural networks", arXiv 1811.06569: residual blocks
that are forward Euler steps of an ordinary differential equation, with the tensor product in place
of the matrix product. The activation works on tube entries, in the original domain, where every
entry depends on all blocks.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from edge_stl.layers._bandwise import ToBands
from edge_stl.layers._spectral import SpectralLinear
from edge_stl.layers._tubes import TubeTransform


class StableTensorBlock(nn.Module):
    """One forward Euler step ``x + h act(W *_L x + b)``: ``(..., n, F) -> (..., n, F)``.

    Args:
        features: F, per tube entry; W is square.
        transform: L, of size n.
        step: h.
        activation: by default the hyperbolic tangent, with which the steps stay bounded.
        device: of the parameters.
        dtype: of the parameters.
    """

    def __init__(
        self,
        features: int,
        transform: TubeTransform,
        *,
        step: float = 0.1,
        activation: nn.Module | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.step = step
        self.linear = SpectralLinear(features, features, transform, device=device, dtype=dtype)
        self.activation = nn.Tanh() if activation is None else activation

    def forward(self, x: Tensor) -> Tensor:
        """Take the step."""
        change: Tensor = self.activation(self.linear(x))
        return x + self.step * change

    def extra_repr(self) -> str:
        """Return what ``print`` shows."""
        return f"step={self.step}"


class _TubeSum(nn.Module):
    """``(N, n, F) -> (N, F)``."""

    def forward(self, x: Tensor) -> Tensor:
        """Add up along the tubes."""
        return x.sum(dim=1)


def stable_tensor_network(
    in_features: int,
    classes: int,
    depth: int,
    transform: TubeTransform,
    *,
    step: float = 0.1,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Sequential:
    """Return a classifier ``(N, n, in_features) -> (N, classes)`` of `depth` blocks.

    The paper reads out with a softmax of tubes; here the logits are the sum over the transform
    coordinates of a last spectral layer, so that an ordinary softmax and loss apply, every block
    of the transform has its say, and it compares with branches whose logits are added.

    Args:
        in_features: per tube entry, the width of all blocks.
        classes: number of logits.
        depth: number of Euler steps.
        transform: L, of size n.
        step: h.
        device: of the parameters.
        dtype: of the parameters.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for index in range(depth):
        layers[f"block{index}"] = StableTensorBlock(
            in_features, transform, step=step, device=device, dtype=dtype
        )
    layers["to_bands"] = ToBands(transform)
    layers["readout"] = SpectralLinear(
        in_features, classes, transform, domain="transform", device=device, dtype=dtype
    )
    layers["sum"] = _TubeSum()
    return nn.Sequential(layers)

"""Masks over a flat model: which weights a sparse network keeps, and how a mask travels.

Only the weights of layers can go (tensors of two or more dimensions); biases and the scales of
normalization always stay. On the wire a mask is a bitmap over the weights that can go, or, where
masks are nested, over those that were still there: only what was removed is told.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from edge_stl.errors import DataError


class Prunable:
    """Which places of a flat model can go.

    Args:
        shapes: of the parameters, in the order in which they lie in the vector.

    Attributes:
        sizes: number of scalars of each parameter.
        layers: whether each parameter can go: those of two or more dimensions.
        where: ``(P,)`` bool, True at places that can go.
        count: how many places that is.
    """

    def __init__(self, shapes: Sequence[torch.Size]) -> None:
        self.shapes = tuple(shapes)
        self.sizes = [shape.numel() for shape in shapes]
        self.layers = [len(shape) > 1 for shape in shapes]
        parts = [torch.full((n,), can) for n, can in zip(self.sizes, self.layers, strict=True)]
        self.where = torch.cat(parts)
        self.count = int(self.where.sum())

    def sparsity(self, mask: Tensor) -> float:
        """Return the share, 0..1, of the places that can go and that a mask ``(P,)`` removes."""
        return 1 - int(mask[self.where].sum()) / max(1, self.count)


def erk_densities(shapes: Sequence[torch.Size], density: float) -> list[float]:
    """Return the share of weights that each parameter keeps under Erdos-Renyi-Kernel.

    ``density_l = eps * sum(dims) / prod(dims)``, with eps such that all layers together have the
    density; a layer that would have more than 1 is kept whole and eps found again (Evci et al.,
    ICML 2020). Parameters of one dimension have 1.

    Args:
        shapes: of the parameters.
        density: of all weights of layers together, 0..1.
    """
    found = [1.0] * len(shapes)
    layers = [k for k, shape in enumerate(shapes) if len(shape) > 1]
    budget = density * sum(shapes[k].numel() for k in layers)
    while layers:
        eps = budget / sum(sum(shapes[k]) for k in layers)
        full = [k for k in layers if eps * sum(shapes[k]) >= shapes[k].numel()]
        if not full:
            for k in layers:
                found[k] = max(0.0, eps * sum(shapes[k]) / shapes[k].numel())
            break
        budget -= sum(shapes[k].numel() for k in full)
        layers = [k for k in layers if k not in full]
    return found


def erk_mask(shapes: Sequence[torch.Size], sparsity: float, rng: np.random.Generator) -> Tensor:
    """Return a random mask ``(P,)`` bool with the densities of `erk_densities`."""
    parts = []
    for shape, density in zip(shapes, erk_densities(shapes, 1 - sparsity), strict=True):
        size = shape.numel()
        kept = np.zeros(size, bool)
        kept[rng.permutation(size)[: round(density * size)]] = True
        parts.append(kept)
    return torch.from_numpy(np.concatenate(parts))


def magnitude_mask(
    vector: Tensor, prunable: Prunable, sparsity: float, *, within: Tensor | None = None
) -> Tensor:
    """Return the mask ``(P,)`` bool that removes the smallest weights of all layers together.

    Of equal weights the one that comes first goes first, so that every machine removes the same.

    Args:
        vector: the model ``(P,)``.
        prunable: which places can go.
        sparsity: share of them to remove: ``round(sparsity * count)``.
        within: a mask ``(P,)``; what it has removed goes before everything else.
    """
    size = vector.detach().abs().numpy().copy()
    if within is not None:
        size[~within.numpy()] = -1.0
    places = np.flatnonzero(prunable.where.numpy())
    order = np.argsort(size[places], kind="stable")
    mask = np.ones(len(size), bool)
    mask[places[order[: round(sparsity * prunable.count)]]] = False
    return torch.from_numpy(mask)


def pack_bits(bits: Tensor) -> bytes:
    """Return a bool vector ``(n,)`` as ``ceil(n / 8)`` bytes, the first bit highest."""
    return np.packbits(bits.numpy()).tobytes()


def unpack_bits(data: bytes, count: int) -> Tensor:
    """Return ``(count,)`` bool of `pack_bits`.

    Raises:
        DataError: not the bytes of so many bits.
    """
    wanted = (count + 7) // 8
    if len(data) != wanted:
        raise DataError(
            f"a mask of {len(data)} bytes; expected {wanted} for {count} weights. Give every box "
            "the same plan, branch and method"
        )
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    if bits[count:].any():
        raise DataError(
            f"a mask of {count} weights: bits after its end are set; expected none. Run the same "
            "version of edge-stl on every box"
        )
    return torch.from_numpy(bits[:count].astype(bool))

"""What one node learns from: flat parameters in, gradients out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from edge_stl.errors import UsageError


Batch = tuple[Tensor, Tensor]
"""Inputs ``(b, ...)`` float32 and targets ``(b,)`` int64."""


class Problem(Protocol):
    """A network and one node's images.

    Attributes:
        shapes: of the parameters, in the order in which they lie in the flat vector.
    """

    @property
    def shapes(self) -> tuple[torch.Size, ...]:
        """Return the shapes of the parameters."""

    def start(self) -> Tensor:
        """Return the flat parameters ``(P,)`` float32 to begin with; the same at every node."""

    def batch(self, step: int) -> Batch:
        """Return a minibatch: a pure function of the node and the step, from 0."""

    def gradient(self, vector: Tensor, batch: Batch) -> tuple[Tensor, float]:
        """Return the gradient ``(P,)`` of the mean loss at a vector ``(P,)``, and that loss."""


@dataclass(frozen=True)
class Flat:
    """Where each parameter lies in a flat vector.

    Attributes:
        shapes: of the parameters, in order.
    """

    shapes: tuple[torch.Size, ...]

    @property
    def size(self) -> int:
        """Return P, the number of scalars."""
        return sum(shape.numel() for shape in self.shapes)

    def views(self, vector: Tensor) -> list[Tensor]:
        """Return the parameters of a vector ``(P,)`` as views into it."""
        sizes = [shape.numel() for shape in self.shapes]
        parts = torch.split(vector, sizes)
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]


class ModuleProblem:
    """A torch module and a source of minibatches.

    The module's parameters become views of one flat vector, so that a step of any method is a
    few operations on long vectors. Many nodes of one process may share a module.

    Args:
        module: float32, without buffers.
        batches: minibatch of a step.
        loss: mean loss of logits ``(b, K)`` and targets ``(b,)``; default cross-entropy.

    Raises:
        UsageError: the module has buffers, like batch norm's running statistics.
    """

    def __init__(
        self,
        module: nn.Module,
        batches: Callable[[int], Batch],
        *,
        loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
    ) -> None:
        names = [name for name, _ in module.named_buffers()]
        if names:
            raise UsageError(
                f"a network with {names[0]}: running statistics of different boxes cannot be "
                "averaged soundly; expected group norm. Choose a network like cnn-s-gn"
            )
        self._module, self._batches, self._loss = module, batches, loss
        self._parameters: Sequence[nn.Parameter] = list(module.parameters())
        self._flat = Flat(tuple(p.shape for p in self._parameters))

    @property
    def shapes(self) -> tuple[torch.Size, ...]:
        """Return the shapes of the parameters."""
        return self._flat.shapes

    def start(self) -> Tensor:
        """Return a copy of the module's parameters ``(P,)``."""
        return torch.cat([p.detach().reshape(-1) for p in self._parameters])

    def batch(self, step: int) -> Batch:
        """Return the minibatch of a step."""
        return self._batches(step)

    def load(self, vector: Tensor) -> None:
        """Put a vector ``(P,)`` into the module."""
        with torch.no_grad():
            for parameter, view in zip(self._parameters, self._flat.views(vector), strict=True):
                parameter.copy_(view)

    def gradient(self, vector: Tensor, batch: Batch) -> tuple[Tensor, float]:
        """Return the gradient ``(P,)`` of the mean loss at a vector, and the loss."""
        self.load(vector)
        self._module.train()
        inputs, targets = batch
        loss = self._loss(self._module(inputs), targets)
        parts = torch.autograd.grad(loss, self._parameters)
        return torch.cat([part.reshape(-1) for part in parts]), float(loss.detach())

"""What the workers of data-parallel training do together, whatever carries it, and its bytes."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor


Kind = Literal["mean", "gather", "broadcast"]


@dataclass(frozen=True)
class Collective:
    """One collective operation, as a worker asks for it.

    Attributes:
        kind: ``mean`` over the workers, answered with ``(n,)``; ``gather`` of everybody's,
            answered with ``(N, n)`` in the order of the workers; ``broadcast`` of the first
            worker's, answered with ``(n,)``.
        tensor: what this worker gives, ``(n,)``.
    """

    kind: Kind
    tensor: Tensor

    @property
    def payload(self) -> int:
        """Return the bytes that the worker hands over."""
        return self.tensor.numel() * self.tensor.element_size()

    def wire(self, workers: int) -> int:
        """Return an estimate of the bytes that leave a worker.

        A ring all-reduce moves ``2 (N - 1) / N`` of the payload, an all-gather ``N - 1`` times the
        payload; a broadcast has ``N - 1`` receivers, here divided among the workers.
        """
        others = workers - 1
        if self.kind == "gather":
            return others * self.payload
        return -(-(2 if self.kind == "mean" else 1) * others * self.payload // workers)


@dataclass
class Traffic:
    """Bytes of some steps.

    Attributes:
        steps: how many steps are counted.
        payload: bytes that a worker handed to collectives.
        wire: estimate of the bytes that left it, see `Collective.wire`.
    """

    steps: int = 0
    payload: int = 0
    wire: int = 0

    def add(self, collective: Collective, workers: int) -> None:
        """Enter one collective."""
        self.payload += collective.payload
        self.wire += collective.wire(workers)

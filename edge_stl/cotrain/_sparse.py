"""Some numbers of a vector: which ones, chosen how, and as parts of a message."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from edge_stl.cotrain._elias import pack_indices, unpack_indices
from edge_stl.cotrain._message import Message, pack_floats, unpack_floats
from edge_stl.errors import DataError


WHOLE, SOME = 0, 1
"""`Message.flag`: every number is there, or some with their indices."""


@dataclass(frozen=True)
class Sparse:
    """Some numbers of a vector ``(n,)``.

    Attributes:
        values: ``(k,)`` float32.
        indices: ``(k,)`` int64, strictly ascending; None where k is n and every number is there.
    """

    values: Tensor
    indices: Tensor | None = None

    @classmethod
    def of(cls, vector: Tensor, indices: Tensor | None) -> Self:
        """Return the numbers of a vector at indices, or all of them."""
        return cls(vector.clone() if indices is None else vector[indices], indices)

    def add_to(self, vector: Tensor) -> None:
        """Add the numbers to a vector ``(n,)`` where they belong, in place."""
        if self.indices is None:
            vector.add_(self.values)
        else:
            vector[self.indices] += self.values

    def pull(self, change: Tensor, own: Tensor, weight: float) -> None:
        """Add ``weight * (value - own)`` to a change ``(n,)`` where there is a value, in place.

        A receiver thereby fills what it was not sent with its own numbers.
        """
        if self.indices is None:
            change.add_(self.values - own, alpha=weight)
        else:
            change[self.indices] += weight * (self.values - own[self.indices])

    def message(self, number: int, *, degree: int) -> Message:
        """Return the message of a round."""
        values = pack_floats(self.values)
        if self.indices is None:
            return Message(number, degree=degree, flag=WHOLE, values=values)
        block = pack_indices(self.indices.numpy())
        return Message(number, degree=degree, flag=SOME, indices=block, values=values)

    @classmethod
    def read(cls, message: Message, size: int) -> Self:
        """Read the numbers of a vector ``(size,)`` from a message.

        Raises:
            DataError: they are not in it.
        """
        if message.flag == WHOLE:
            if message.indices:
                raise DataError(
                    f"a message of round {message.round}: a whole vector with "
                    f"{len(message.indices)} bytes of indices; expected none. Run the same "
                    "version of edge-stl on every box"
                )
            return cls(unpack_floats(message.values, size))
        count = len(message.values) // 4
        if message.flag != SOME or count > size:
            raise DataError(
                f"a message of round {message.round}: flag {message.flag} and {count} numbers; "
                f"expected {WHOLE} or {SOME}, and at most {size}. Give every box the same plan, "
                "branch and method"
            )
        indices = unpack_indices(message.indices, count=count, size=size)
        return cls(unpack_floats(message.values, count), torch.from_numpy(indices))


def largest(vector: Tensor, count: int) -> Tensor:
    """Return the indices ``(count,)`` of the largest magnitudes of ``(n,)``, ascending.

    Of equal magnitudes the first are taken, so every machine chooses the same ones.
    """
    size = np.abs(vector.numpy())
    if count >= len(size):
        return torch.arange(len(size))
    if count < 1:
        return torch.zeros(0, dtype=torch.int64)
    least = np.partition(size, len(size) - count)[len(size) - count]
    above = np.flatnonzero(size > least)
    equal = np.flatnonzero(size == least)[: count - len(above)]
    return torch.from_numpy(np.sort(np.concatenate([above, equal])))


def pulled(own: Tensor, heard: Mapping[int, Sparse], weights: Mapping[int, float]) -> Tensor:
    """Return by how much mixing moves a vector ``(n,)``.

    It is ``sum_j w_j m_j * (c_j - c)``, m_j the 0/1 mask of what neighbour j sent: what it would
    be if every neighbour's missing numbers were one's own.
    """
    change = torch.zeros_like(own)
    for j in sorted(heard):
        heard[j].pull(change, own, weights[j])
    return change

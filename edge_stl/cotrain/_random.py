"""Random sampling: parameters at random, told by a seed instead of indices."""

import struct
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edge_stl.cotrain._graph import metropolis
from edge_stl.cotrain._local import LocalSettings
from edge_stl.cotrain._message import Message, pack_floats, unpack_floats
from edge_stl.cotrain._node import Node, Round, Seat
from edge_stl.cotrain._problem import Problem
from edge_stl.cotrain._settings import check_ranges
from edge_stl.cotrain._sparse import Sparse, pulled
from edge_stl.errors import DataError


_TAG = 0x5253  # of random sampling's draws
_DRAW = struct.Struct("<Qd")


@dataclass(frozen=True)
class RandomSettings:
    """How much a node sends.

    Attributes:
        share: alpha, the chance of every parameter to be sent, above 0 to 1. The default is that
            of JWINS's low budget; its authors give none.
    """

    share: float = 0.2

    def __post_init__(self) -> None:
        """Check the range.

        Raises:
            UsageError: the share is out of it.
        """
        check_ranges(("share", self.share, 0 < self.share <= 1, "above 0 to 1"))


def draw_seed(seat: Seat, number: int) -> int:
    """Return the 64 bits that a node's mask of a round follows from, other ones for every node."""
    generator = np.random.default_rng([seat.seed, _TAG, seat.index, number])
    return int(generator.integers(2**64, dtype=np.uint64))


def mask(seed: int, share: float, size: int) -> Tensor:
    """Return the indices, ascending, of parameters that are each taken with chance ``share``.

    They follow from the raw 64-bit stream of PCG64, which numpy promises never to change, as
    sender and receiver may have different versions.
    """
    draws = np.random.PCG64(seed).random_raw(size) >> np.uint64(11)
    return torch.from_numpy(np.flatnonzero(draws < np.uint64(round(share * 2**53))))


def pack_sample(vector: Tensor, seed: int, share: float, number: int, *, degree: int) -> Message:
    """Return the message of a round: the values that the seed takes, the seed and the share."""
    values = pack_floats(vector[mask(seed, share, len(vector))])
    return Message(number, degree=degree, indices=_DRAW.pack(seed, share), values=values)


def unpack_sample(message: Message, size: int) -> Sparse:
    """Read a message of `pack_sample` about a vector ``(size,)``.

    Raises:
        DataError: it is none.
    """
    if len(message.indices) != _DRAW.size:
        raise DataError(
            f"a message of round {message.round}: a seed of {len(message.indices)} bytes; "
            f"expected {_DRAW.size}. Give every box the same plan, branch and method"
        )
    seed, share = _DRAW.unpack(message.indices)
    if not 0 < share <= 1:
        raise DataError(
            f"a message of round {message.round}: a share of {share}; expected above 0 to 1. Give "
            "every box the same plan, branch and method"
        )
    indices = mask(seed, share, size)
    return Sparse(unpack_floats(message.values, len(indices)), indices)


class RandomSampling(Node):
    """A node that sends parameters at random.

    Args:
        seat: which one.
        problem: what it learns from.
        local: how it steps on its own images.
        settings: how much it sends.
    """

    def __init__(
        self,
        seat: Seat,
        problem: Problem,
        local: LocalSettings,
        settings: RandomSettings | None = None,
    ) -> None:
        super().__init__(seat, problem, local)
        self.settings = settings or RandomSettings()

    def round(self, number: int) -> Round:
        """Take the local steps, send a sample, mix; what is missing is filled with one's own."""
        trained, loss = self.local.run(self.vector, number)
        seed = draw_seed(self.seat, number)
        message = pack_sample(trained, seed, self.settings.share, number, degree=self.seat.degree)
        inbox = yield dict.fromkeys(self.seat.neighbours, message)
        heard = self.read(inbox, lambda m: unpack_sample(m, len(trained)))
        weights = metropolis(self.seat.degree, {j: inbox[j].degree for j in heard})
        self.vector = trained + pulled(trained, heard, weights)
        return loss

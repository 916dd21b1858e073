"""What one node sends another, as bytes: a header of fixed size, indices, values."""

import struct
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from edge_stl.errors import DataError


_HEADER = struct.Struct("<4sBBHIQQ")
_MAGIC = b"ESC1"
HEADER_BYTES = _HEADER.size
FRAME_BYTES = 8
"""What a transport sends before every message: its length, as the receiver must know it first."""


@dataclass(frozen=True)
class Message:
    """One message.

    Attributes:
        round: number of the round, from 0.
        kind: what the method means by it, 0..255: a model, a cross-gradient.
        degree: how many neighbours the sender has, for the receiver's mixing weight.
        flag: one byte of the method's own.
        indices: packed indices; empty where every coefficient is sent, or a seed tells them.
        values: packed values.
    """

    round: int
    kind: int = 0
    degree: int = 0
    flag: int = 0
    indices: bytes = b""
    values: bytes = b""

    def __len__(self) -> int:
        """Return the bytes of the message without its frame."""
        return HEADER_BYTES + len(self.indices) + len(self.values)

    def to_bytes(self) -> bytes:
        """Return what goes over the wire."""
        header = _HEADER.pack(
            _MAGIC,
            self.kind,
            self.flag,
            self.degree,
            self.round,
            len(self.indices),
            len(self.values),
        )
        return header + self.indices + self.values

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read a message.

        Raises:
            DataError: it is none, or not whole.
        """
        if len(data) < HEADER_BYTES or data[:4] != _MAGIC:
            raise DataError(
                f"a message of {len(data)} bytes: not one of this version; expected {_MAGIC!r} "
                "first. Run the same version of edge-stl on every box"
            )
        _, kind, flag, degree, number, n_indices, n_values = _HEADER.unpack_from(data)
        if len(data) != HEADER_BYTES + n_indices + n_values:
            raise DataError(
                f"a message of round {number}: {len(data)} bytes; its header says "
                f"{HEADER_BYTES + n_indices + n_values}. Check the link"
            )
        start = HEADER_BYTES + n_indices
        return cls(number, kind, degree, flag, data[HEADER_BYTES:start], data[start:])


def pack_floats(vector: Tensor) -> bytes:
    """Return a vector ``(n,)`` as little-endian float32."""
    return vector.detach().cpu().numpy().astype("<f4", copy=False).tobytes()


def unpack_floats(data: bytes, count: int) -> Tensor:
    """Return ``(count,)`` float32 of `pack_floats`.

    Raises:
        DataError: not that many numbers, or one of them is not finite.
    """
    if len(data) != 4 * count:
        raise DataError(
            f"values of {len(data)} bytes; expected {4 * count} for {count} numbers. Give every "
            "box the same plan, branch and method"
        )
    vector = torch.from_numpy(np.frombuffer(data, "<f4").astype(np.float32))
    if not bool(torch.isfinite(vector).all()):
        raise DataError(
            "values that are not finite: the training of the sender diverged. Lower the learning "
            "rate"
        )
    return vector

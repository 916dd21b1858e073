"""Scaled signs with error memory: one bit for each number of a gradient, a scale for each tensor.

With the error memory e and a gradient h, per tensor of n numbers::

    c = e + h
    s = (||c||_1 / n) * sign(c)        sign(0) = +1: there is no third value in a bit
    e <- c - s

What is sent over time is the sum of the gradients less the last error: nothing is lost, it comes
later. On the wire a tensor is its scale (little-endian float32) and ``ceil(n / 8)`` bytes of bits,
the first number in the highest bit, 1 for plus; the bits after the last number are 0.
"""

import math
import struct

import numpy as np
import torch
from torch import Tensor

from edge_stl.cotrain._problem import Flat
from edge_stl.errors import DataError


_SCALE = struct.Struct("<f")


def sign_bytes(flat: Flat) -> int:
    """Return the length of a packed vector: ``ceil(n / 8) + 4`` for each tensor of n numbers."""
    return sum(_SCALE.size + -(-shape.numel() // 8) for shape in flat.shapes)


def scaled_signs(vector: Tensor, flat: Flat) -> Tensor:
    """Return ``(||c||_1 / n) sign(c)`` of every tensor c in a vector ``(P,)``, float32 ``(P,)``."""
    sent = torch.empty_like(vector)
    for part, out in zip(flat.views(vector), flat.views(sent), strict=True):
        scale = _scale(part)
        out.copy_(torch.where(part >= 0, scale, -scale))
    return sent


def pack_signs(vector: Tensor, flat: Flat) -> bytes:
    """Return what `scaled_signs` makes of a finite vector ``(P,)`` as bytes."""
    parts = []
    for part in flat.views(vector):
        bits = np.packbits((part >= 0).reshape(-1).cpu().numpy(), bitorder="big")
        parts += [_SCALE.pack(float(_scale(part))), bits.tobytes()]
    return b"".join(parts)


def unpack_signs(data: bytes, flat: Flat) -> Tensor:
    """Return the scaled signs ``(P,)`` float32 that `pack_signs` packed.

    Raises:
        DataError: of another length, a scale that is negative or not finite, or bits after the
            last number.
    """
    if len(data) != sign_bytes(flat):
        raise DataError(
            f"packed signs of {len(data)} bytes; expected {sign_bytes(flat)} for {flat.size} "
            f"numbers in {len(flat.shapes)} tensors. Give every box the same plan, branch and "
            "method"
        )
    vector, start = torch.empty(flat.size), 0
    for place, part in enumerate(flat.views(vector)):
        (scale,) = _SCALE.unpack_from(data, start)
        if not (math.isfinite(scale) and math.copysign(1, scale) > 0):
            raise DataError(
                f"packed signs: the scale of tensor {place} is {scale!r}; expected a number of 0 "
                "or more. Check the box that sent it: its training diverged, or it is not honest"
            )
        start += _SCALE.size
        count = part.numel()
        packed = np.frombuffer(data, np.uint8, -(-count // 8), start)
        bits = np.unpackbits(packed, bitorder="big")
        if bits[count:].any():
            raise DataError(
                f"packed signs: bits after the last of the {count} numbers of tensor {place}; "
                "expected zeros. Check the link and the box that sent it"
            )
        chosen = np.where(bits[:count], np.float32(scale), np.float32(-scale))
        part.copy_(torch.from_numpy(chosen).view(part.shape))
        start += len(packed)
    return vector


def compress_signs(
    gradient: Tensor, error: Tensor | None, flat: Flat
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what is sent in place of a gradient, what stays behind, and what to pack.

    Args:
        gradient: h, ``(P,)`` float32, finite.
        error: the error memory e ``(P,)``; None for zeros, before the first call.
        flat: where the tensors lie.

    Returns:
        s, the scaled signs; e, the new error memory; c, whose `pack_signs` is the payload.
    """
    corrected = gradient.clone() if error is None else error + gradient
    sent = scaled_signs(corrected, flat)
    return sent, corrected - sent, corrected


def _scale(part: Tensor) -> Tensor:
    """Return ``||c||_1 / n`` as float32, summed in double so that it does not hang on the order."""
    return (part.abs().sum(dtype=torch.float64) / max(1, part.numel())).float()

"""What server and client send each other: orders down, answers up, as messages.

An order carries the round's numbers, the weights that are not removed, and what the client does
not know of the mask: nothing, what was removed since, or all of it. An answer carries the loss,
the number of images and the trained weights.
"""

import math
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edge_stl.cotrain._ledger import Bytes
from edge_stl.cotrain._masks import Prunable, pack_bits, unpack_bits
from edge_stl.cotrain._message import (
    FRAME_BYTES,
    HEADER_BYTES,
    Message,
    pack_floats,
    unpack_floats,
)
from edge_stl.errors import DataError


ORDER, ANSWER, LOST = 16, 17, 18
"""Kinds of message; `LOST`: a client that has not the mask which an order refers to."""
_SPARSE_UP, _DENSE_DOWN, _OWN_START = 1, 2, 4
_NO_MASK, _SAME_MASK, _WHOLE_MASK, _REMOVED = 0, 16, 32, 48
_CODING = 48
_ORDER = struct.Struct("<dddIIII")
_ANSWER = struct.Struct("<IQd")
_HEADS = {ORDER: _ORDER.size, ANSWER: _ANSWER.size, LOST: _ANSWER.size}


@dataclass(frozen=True)
class HeldMask:
    """A mask that both sides know.

    Attributes:
        version: how many masks were chosen before it in this run; the random one of the first
            round is 0.
        mask: ``(P,)`` bool.
    """

    version: int
    mask: Tensor


@dataclass(frozen=True)
class Order:
    """What the server tells a client.

    Attributes:
        number: of the round, from 0.
        rate: learning rate.
        penalty: strength of the penalty.
        vector: the model ``(P,)``, 0 where it is masked.
        held: the mask, or None.
        own_start: the client draws a mask of this sparsity of its own; below 0: it does not.
        sparse_up: only the weights that the mask keeps come back.
        sparse_down: only those go out.
    """

    number: int
    rate: float
    penalty: float
    vector: Tensor
    held: HeldMask | None = None
    own_start: float = -1.0
    sparse_up: bool = False
    sparse_down: bool = False


@dataclass(frozen=True)
class Answer:
    """What a client sends back.

    Attributes:
        client: its number.
        images: how many it trains on, at least 1.
        loss: mean cross-entropy of its steps.
        vector: ``(P,)``, 0 where nothing came back; None: it has not the mask (`LOST`).
    """

    client: int
    images: int
    loss: float
    vector: Tensor | None


def fed_bytes(data: bytes) -> Bytes:
    """Return what an order or an answer costs on the wire, with the frame before it."""
    message = Message.from_bytes(data)
    head = min(_HEADS.get(message.kind, 0), len(message.values))
    return Bytes.of_arrays(
        values=len(message.values) - head,
        indices=len(message.indices),
        headers=HEADER_BYTES + FRAME_BYTES + head,
    )


def write_order(order: Order, prunable: Prunable, known: HeldMask | None, *, nested: bool) -> bytes:
    """Return an order as bytes.

    Args:
        order: what is told.
        prunable: which places can go.
        known: the mask that the client has, or None.
        nested: nothing returns in this mask that another has removed, so that only what was
            removed needs telling.
    """
    flag = _SPARSE_UP * order.sparse_up | _DENSE_DOWN * (not order.sparse_down)
    flag |= _OWN_START * (order.own_start >= 0)
    held, bits, base = order.held, b"", 0
    values = order.vector
    counts = (0, 0)
    if held is not None:
        now = held.mask[prunable.where]
        counts = (_digest(now), int(now.sum()))
        if known is not None and known.version == held.version:
            flag |= _SAME_MASK
        elif known is not None and nested and known.version > 0:
            before = known.mask[prunable.where]
            flag, bits, base = flag | _REMOVED, pack_bits(~now[before]), known.version
        else:
            flag, bits = flag | _WHOLE_MASK, pack_bits(now)
        if order.sparse_down:
            values = values[held.mask]
    version = 0 if held is None else held.version
    head = _ORDER.pack(order.rate, order.penalty, order.own_start, version, base, *counts)
    packed = head + pack_floats(values)
    return Message(order.number, ORDER, flag=flag, indices=bits, values=packed).to_bytes()


def read_order(data: bytes, prunable: Prunable, known: HeldMask | None) -> Order | None:
    """Return an order, or None where it refers to a mask that the client has not.

    Args:
        data: what came.
        prunable: which places can go.
        known: the mask that the client has, or None.

    Raises:
        DataError: it is no order, or does not fit the network.
    """
    message = Message.from_bytes(data)
    head = _head(message, (ORDER,), _ORDER)
    rate, penalty, own_start, version, base, digest, count = head
    if not (0 < rate < math.inf and 0 <= penalty < math.inf and own_start < 1):
        raise DataError(
            f"an order of round {message.round} with rate {rate:g}, penalty {penalty:g}, sparsity "
            f"{own_start:g}; expected a rate above 0. Run the same version of edge-stl on every box"
        )
    coding = message.flag & _CODING
    mask = None
    if coding != _NO_MASK:
        now = _mask_bits(message, prunable, known, (version, base))
        if now is None:
            return None
        if (_digest(now), int(now.sum())) != (digest, count):
            if coding != _WHOLE_MASK:
                return None  # its own is of another run
            raise DataError(
                f"a mask that keeps {int(now.sum())} weights; its header says {count}. Check the "
                "link"
            )
        mask = torch.ones_like(prunable.where)
        mask[prunable.where] = now
    dense = mask is None or bool(message.flag & _DENSE_DOWN)
    return Order(
        message.round,
        rate,
        penalty,
        _spread(message.values[_ORDER.size :], None if dense else mask, len(prunable.where)),
        None if mask is None else HeldMask(version, mask),
        own_start if message.flag & _OWN_START else -1.0,
        bool(message.flag & _SPARSE_UP),
        not dense,
    )


def write_answer(answer: Answer, number: int, mask: Tensor | None) -> bytes:
    """Return an answer as bytes; with a mask ``(P,)`` only the weights that it keeps."""
    head = _ANSWER.pack(answer.client, answer.images, answer.loss)
    if answer.vector is None:
        return Message(number, LOST, values=head).to_bytes()
    values = answer.vector if mask is None else answer.vector[mask]
    flag = _SPARSE_UP * (mask is not None)
    return Message(number, ANSWER, flag=flag, values=head + pack_floats(values)).to_bytes()


def read_answer(data: bytes, number: int, size: int, mask: Tensor | None) -> Answer:
    """Return an answer.

    Args:
        data: what came.
        number: of the round it must be of.
        size: P.
        mask: ``(P,)`` where only what it keeps was asked for, else None.

    Raises:
        DataError: it is no answer to what was asked.
    """
    message = Message.from_bytes(data)
    client, images, loss = _head(message, (ANSWER, LOST), _ANSWER)
    if message.round != number or message.indices or not images:
        raise DataError(
            f"an answer of client {client} to round {message.round} with {images} images and "
            f"{len(message.indices)} bytes of indices; expected round {number}, at least 1 image "
            "and no indices. Run the same version of edge-stl on every box"
        )
    if message.kind == LOST:
        return Answer(client, images, loss, None)
    if not math.isfinite(loss):
        raise DataError(
            f"an answer of client {client} with loss {loss}: its training diverged; expected a "
            "number. Lower the learning rate"
        )
    if bool(message.flag & _SPARSE_UP) != (mask is not None):
        raise DataError(
            f"an answer of client {client} with {'all' if mask is not None else 'some'} weights; "
            f"expected {'those of the mask' if mask is not None else 'all'}. Run the same version "
            "of edge-stl on every box"
        )
    return Answer(client, images, loss, _spread(message.values[_ANSWER.size :], mask, size))


def check_client(data: bytes, client: int) -> None:
    """Refuse an answer that speaks for another client than the one it came from.

    Raises:
        DataError: it does, or is no answer.
    """
    told = _head(Message.from_bytes(data), (ANSWER, LOST), _ANSWER)[0]
    if told != client:
        raise DataError(
            f"an answer of client {client} that says it is of client {told}; expected its own "
            "number. Give every client a number of its own"
        )


def _head(message: Message, kinds: tuple[int, ...], form: struct.Struct) -> tuple[Any, ...]:
    if message.kind not in kinds or len(message.values) < form.size:
        raise DataError(
            f"a message of kind {message.kind} with {len(message.values)} bytes; expected kind "
            f"{' or '.join(map(str, kinds))} and at least {form.size} bytes. Run the same method "
            "and version of edge-stl on every box"
        )
    return form.unpack_from(message.values)


def _spread(data: bytes, mask: Tensor | None, size: int) -> Tensor:
    """Return ``(size,)`` of the values at the places that a mask keeps, 0 elsewhere."""
    if mask is None:
        return unpack_floats(data, size)
    vector = torch.zeros(size)
    vector[mask] = unpack_floats(data, int(mask.sum()))
    return vector


def _mask_bits(
    message: Message, prunable: Prunable, known: HeldMask | None, told: tuple[int, int]
) -> Tensor | None:
    """Return ``(count,)`` bool of what a mask keeps, or None where the client lacks the base."""
    version, base = told
    coding = message.flag & _CODING
    if coding == _WHOLE_MASK:
        return unpack_bits(message.indices, prunable.count)
    if known is not None and known.version == version:
        return known.mask[prunable.where]
    if known is None or coding == _SAME_MASK or known.version != base:
        return None
    now = known.mask[prunable.where]
    now[now.clone()] = ~unpack_bits(message.indices, int(now.sum()))
    return now


def _digest(bits: Tensor) -> int:
    return zlib.crc32(pack_bits(bits))

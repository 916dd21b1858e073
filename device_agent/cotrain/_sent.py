"""What has left each box, as the end of a run carries it: a few numbers per box, always as many."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from edge_stl.cotrain import Bytes
from edge_stl.errors import DataError


_MOST_SENT = 10**15  # bytes, and messages, of a box

SENT_BYTES = 32
"""What is said of one box."""


def pack_sent(sent: Mapping[int, Bytes], boxes: int) -> bytes:
    """Return what left boxes, by rank, as little-endian int64 in `SENT_BYTES` each.

    They are values, indices, headers and messages; -1 four times where it is not known.
    """
    rows = np.full((boxes, 4), -1, "<i8")
    for rank, amount in sent.items():
        rows[rank] = (amount.values, amount.indices, amount.headers, amount.messages)
    return rows.tobytes()


def unpack_sent(data: bytes, boxes: int) -> tuple[Bytes | None, ...]:
    """Return the amounts of `pack_sent`; None for what is not known.

    Raises:
        DataError: they are none of so many boxes, or cannot be right.
    """
    if len(data) != boxes * SENT_BYTES:
        raise DataError(
            f"byte counts of {len(data)} bytes; expected {SENT_BYTES} for each of {boxes} boxes"
        )
    rows = np.frombuffer(data, "<i8").reshape(boxes, 4)
    unknown = (rows == -1).all(axis=1)
    if ((rows < 0).any(axis=1) & ~unknown).any() or rows.max() > _MOST_SENT:
        raise DataError("byte counts that are negative or too large; expected sums")
    return tuple(
        None if lost else Bytes(*(int(n) for n in row))
        for lost, row in zip(unknown, rows, strict=True)
    )


def unpack_own(data: bytes) -> Bytes:
    """Return what a box says of itself alone.

    Raises:
        DataError: it is none, or not known.
    """
    (sent,) = unpack_sent(data, 1)
    if sent is None:
        raise DataError("byte counts of its own that it does not know")
    return sent


def row(amount: Bytes | None) -> dict[str, int | None]:
    """Return an account as ``cotrain --json`` has it, empty where it is not known."""
    if amount is None:
        return {**dict.fromkeys(field.name for field in fields(Bytes)), "bytes": None}
    return asdict(amount) | {"bytes": amount.total}


def sent_document(boxes: Sequence[str], sent: Sequence[Bytes | None]) -> dict[str, Any]:
    """Return ``bytes`` of ``cotrain --json``.

    Args:
        boxes: by rank.
        sent: of each; None where it is not known.
    """
    known = [amount for amount in sent if amount is not None]
    return {
        "boxes": [{"box": name, **row(amount)} for name, amount in zip(boxes, sent, strict=True)],
        "total": row(sum(known, Bytes())),
        "complete": len(known) == len(boxes),
    }

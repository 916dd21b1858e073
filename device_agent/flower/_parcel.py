"""Bytes in a Flower message: one uint8 array, and what it costs on the wire."""

from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, RecordDict

from edge_stl.cotrain import Bytes, fed_bytes
from edge_stl.errors import DataError


RECORD, FIELD = "edge-stl", "bytes"


def pack(data: bytes) -> RecordDict:
    """Return bytes as the content of a message."""
    return RecordDict({RECORD: ArrayRecord({FIELD: Array(np.frombuffer(data, np.uint8))})})


def unpack(message: Message) -> bytes:
    """Return the bytes of a message.

    Raises:
        DataError: it has none, or it is an error that Flower reports.
    """
    node = message.metadata.src_node_id
    if message.has_error():
        raise DataError(
            f"node {node}: {' '.join(str(message.error.reason).split())}; expected an answer. "
            "Look at its log"
        )
    try:
        array = message.content.array_records[RECORD][FIELD].numpy()
    except (KeyError, ValueError, TypeError, EOFError, OSError) as error:
        raise DataError(
            f"node {node}: a message without readable bytes ({type(error).__name__}); expected "
            f"one uint8 array {RECORD}/{FIELD}. Run the same version of edge-stl on every box"
        ) from None
    if array.dtype != np.uint8 or array.ndim != 1:
        raise DataError(
            f"node {node}: an array of {array.dtype} with {array.ndim} axes; expected one axis of "
            "uint8. Run the same version of edge-stl on every box"
        )
    return array.tobytes()


def parcel_bytes(content: RecordDict, data: bytes) -> Bytes:
    """Return what a message costs: values and indices as ever, all that Flower adds as headers.

    Flower sends every object of a message (the record dictionary, the records, the arrays, their
    chunks) once per receiver. Its transport's own framing is not known here.

    Args:
        content: of the message.
        data: the bytes in it.
    """
    inner = fed_bytes(data)
    return Bytes.of_arrays(
        values=inner.values,
        indices=inner.indices,
        headers=record_bytes(content) - inner.values - inner.indices,
    )


def record_bytes(content: RecordDict) -> int:
    """Return the bytes of a record dictionary and of all that is in it, as Flower sends them."""
    return _deflated(content)


def _deflated(thing: Any) -> int:
    return len(thing.deflate()) + sum(map(_deflated, (thing.children or {}).values()))

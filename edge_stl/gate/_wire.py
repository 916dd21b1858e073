"""Protobuf's wire format, walked field by field without building anything.

https://protobuf.dev/programming-guides/encoding: a field is a tag, ``number << 3 | type``, and a
value: a varint (0), eight bytes (1), a length and so many bytes (2), or four bytes (5). Groups (3
and 4) are no part of ONNX.
"""

from collections.abc import Iterator


VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
_MORE = 0x80
_LONGEST = 10
"""Bytes of a varint of 64 bits."""


class Refused(ValueError):  # noqa: N818  (a verdict, and its message is the reason)
    """Content that is refused before anything is built from it; the message is the reason."""


class Unreadable(Refused):
    """Bytes that are no message at all, or not all of one."""

    def __init__(self) -> None:
        super().__init__("is not an ONNX file, or is truncated")


def fields(  # noqa: C901  (one loop, because every file is walked through it)
    data: bytes, start: int, end: int
) -> Iterator[tuple[int, int, int, int]]:
    """Yield the fields of a message.

    Args:
        data: the whole file; nothing of it is copied.
        start: where the message begins.
        end: one past its last byte.

    Yields:
        number, wire type, and two numbers: of a varint the value and 0, of anything else where
        its bytes begin and end.

    Raises:
        Unreadable: the bytes are no message.
    """
    at = start
    while at < end:
        tag = data[at]
        at += 1
        if tag & _MORE:
            tag, at = _varint(data, at - 1, end)
        number, kind = tag >> 3, tag & 7
        if not number:
            raise Unreadable
        if kind == LENGTH:
            if at >= end:
                raise Unreadable
            size = data[at]
            at += 1
            if size & _MORE:
                size, at = _varint(data, at - 1, end)
            stop = at + size
            if stop > end:
                raise Unreadable
            yield number, kind, at, stop
            at = stop
        elif kind == VARINT:
            value, at = _varint(data, at, end)
            yield number, kind, value, 0
        elif kind in (FIXED32, FIXED64):
            stop = at + (4 if kind == FIXED32 else 8)
            if stop > end:
                raise Unreadable
            yield number, kind, at, stop
            at = stop
        else:
            raise Unreadable


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Return a varint, as a number without sign, and where it ends."""
    value = 0
    for i in range(_LONGEST):
        if at >= end:
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << (7 * i)
        if not byte & _MORE:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
    raise Unreadable

"""What the agent and the process that decodes for it say to each other over two pipes.

Frames of fixed headers and counted bytes; nothing in them is ever executed or unpickled. There is
one answer to every question, in the order of the questions; the first answer of a process is
`READY`, `NO_PILLOW` or none.
"""

import struct
from typing import NamedTuple, Self

from edge_stl.images._reasons import REASONS


FITS = ("crop", "pad", "stretch")
READY, NO_PILLOW = 255, 254
TOO_SMALL, NO_MEMORY = 253, 252
SEEN = 0  # the image could be read
_REASONS = tuple(REASONS)  # the n-th is said as n + 1
_QUESTION = struct.Struct("<IIBB")
_ANSWER = struct.Struct("<BIII")


class Question(NamedTuple):
    """Read this file.

    Attributes:
        name: The path, as bytes.
        side: Pixels of the square it is fitted to; 0 asks for its size only.
        channels: 1 or 3.
        fit: A place in `FITS`.
    """

    name: bytes
    side: int
    channels: int
    fit: int

    def frame(self) -> bytes:
        """Give the bytes that travel."""
        return _QUESTION.pack(len(self.name), self.side, self.channels, self.fit) + self.name

    @classmethod
    def first_of(cls, data: bytearray) -> Self | None:
        """Take the first question off a buffer; None if it is not there whole."""
        if len(data) < _QUESTION.size:
            return None
        length, side, channels, fit = _QUESTION.unpack_from(data)
        end = _QUESTION.size + length
        if len(data) < end:
            return None
        name = bytes(data[_QUESTION.size : end])
        del data[:end]
        return cls(name, side, channels, fit)


class Answer(NamedTuple):
    """What came of it.

    Attributes:
        code: `SEEN` or why not, see `reason`.
        width: Pixels, turned upright.
        height: Pixels, turned upright.
        row: side * side * channels bytes where pixels were asked for.
    """

    code: int
    width: int = 0
    height: int = 0
    row: bytes = b""

    @property
    def reason(self) -> str | None:
        """Why there is no image: a key of `REASONS` or ``too_small``; None if there is one."""
        if self.code == SEEN:
            return None
        return "too_small" if self.code == TOO_SMALL else _REASONS[self.code - 1]

    @classmethod
    def because(cls, reason: str) -> Self:
        """Give the answer that there is no image.

        Args:
            reason: A key of `REASONS`.
        """
        return cls(_REASONS.index(reason) + 1)

    def frame(self) -> bytes:
        """Give the bytes that travel."""
        return _ANSWER.pack(self.code, self.width, self.height, len(self.row)) + self.row

    @classmethod
    def first_of(cls, data: bytearray) -> Self | None:
        """Take the first answer off a buffer; None if it is not there whole."""
        if len(data) < _ANSWER.size:
            return None
        code, width, height, length = _ANSWER.unpack_from(data)
        end = _ANSWER.size + length
        if len(data) < end:
            return None
        row = bytes(data[_ANSWER.size : end])
        del data[:end]
        return cls(code, width, height, row)

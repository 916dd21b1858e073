"""What a child process says on a pipe, line by line, without ever waiting for it."""

import os
from collections.abc import Callable


_BLOCK = 1 << 16
_LONGEST = 1 << 16


class Lines:
    """The reading end of a pipe.

    Args:
        descriptor: of the pipe; it is not closed here.
        heard: called with every whole line, without its end. A line beyond 64 KiB is cut there.

    Attributes:
        last: the last line that is plain text and not a JSON object.
    """

    def __init__(self, descriptor: int, heard: Callable[[str], object]) -> None:
        self._descriptor, self._heard = descriptor, heard
        self._rest = b""
        self.last = ""
        os.set_blocking(descriptor, False)

    def read(self, *, end: bool = False) -> None:
        """Take what is there; with ``end`` also a last line that has no end."""
        while True:
            try:
                block = os.read(self._descriptor, _BLOCK)
            except BlockingIOError:
                break
            if not block:
                break
            *lines, rest = (self._rest + block).split(b"\n")
            self._rest = rest[:_LONGEST]
            for line in lines:
                self._tell(line)
        if end and self._rest:
            self._tell(self._rest)
            self._rest = b""

    def _tell(self, line: bytes) -> None:
        text = line[:_LONGEST].decode(errors="replace").rstrip()
        if not text:
            return
        if not text.startswith("{"):
            self.last = text
        self._heard(text)

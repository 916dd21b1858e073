"""The connection of two boxes: frames over a gloo group of two, and a sign of life when idle.

A frame is a length, 8 bytes little-endian, and a message of that length. A length of 0 is a sign of
life, -1 says goodbye. A peer is lost when its connection closes (it was killed) or when nothing at
all came from it for the time limit (it hangs, or its cable is out); a peer that trains slowly or
waits for others goes on giving signs of life, so nobody takes it for lost.

One thread sends and one receives, so that a peer that takes nothing holds up nobody else. Long
messages go in pieces: the time limit holds for a piece, not for a message over a thin link.
"""

import queue
import threading
import time
from contextlib import suppress
from datetime import timedelta
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from edge_stl.cotrain import FRAME_BYTES, HEADER_BYTES


PIECE_BYTES = 1 << 18
_BEATS = 4  # signs of life within the time limit
_ALIVE, _GOODBYE = 0, -1
_NEVER = 1  # a tag under which nothing is sent
_QUEUED = 8
"""Messages that wait here unread; a box that obeys sends one, two while its peer is behind."""


class Work(Protocol):
    """What gloo is about to do."""

    def wait(self, timeout: timedelta = ..., /) -> bool:
        """Wait for it."""


class Wire(Protocol):
    """The part of a gloo process group that a link uses."""

    def send(self, tensors: list[Tensor], peer: int, tag: int, /) -> Work:
        """Send uint8 tensors to a rank."""

    def recv(self, tensors: list[Tensor], peer: int, tag: int, /) -> Work:
        """Fill uint8 tensors with what a rank sends."""


class Pulse:
    """Whether the main thread gets on: a hanging one must not look alive to others.

    Args:
        limit: seconds without a tick after which it hangs.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._last = time.monotonic()

    def tick(self) -> None:
        """Tell that the main thread gets on."""
        self._last = time.monotonic()

    def beats(self) -> bool:
        """Return whether it got on within the limit."""
        return time.monotonic() - self._last < self._limit


class Link:
    """The connection to one peer.

    Args:
        wire: a gloo group of two.
        peer: the other's rank in it, 0 or 1.
        largest: bytes of the longest message that may come.
        limit: seconds of silence after which the peer is lost.
        pulse: of the main thread.

    Attributes:
        lost: why the peer is lost; None while it is there.
        idle_bytes: of signs of life sent.
    """

    def __init__(self, wire: Wire, peer: int, *, largest: int, limit: float, pulse: Pulse) -> None:
        self._wire, self._peer, self._largest, self._pulse = wire, peer, largest, pulse
        self._limit = limit
        self._outgoing: queue.Queue[bytes | None] = queue.Queue()
        # One place more than may be used: the sentinel always fits.
        self._incoming: queue.Queue[bytes | None] = queue.Queue(_QUEUED + 1)
        self._guard = threading.Lock()
        self.lost: str | None = None
        self.idle_bytes = 0
        self._threads = [
            threading.Thread(target=work, daemon=True, name=f"link-{work.__name__}")
            for work in (self._sending, self._receiving)
        ]
        for thread in self._threads:
            thread.start()

    def send(self, data: bytes) -> None:
        """Send a message as soon as the link takes it; does not wait."""
        self._outgoing.put(data)

    def receive(self, wait: float) -> bytes | None:
        """Return the next message.

        Args:
            wait: seconds.

        Raises:
            queue.Empty: none came in this time.

        Returns:
            None when the peer is lost and all that it sent before was taken.
        """
        data = self._incoming.get(timeout=wait)
        if data is None:
            self._incoming.put(None)  # for whoever asks again
        return data

    def lose(self, reason: str) -> None:
        """Take the peer for lost, whatever it sends from now on."""
        with self._guard:
            if self.lost is not None:
                return
            self.lost = reason
        self._outgoing.put(None)
        with self._guard:
            if self._incoming.qsize() <= _QUEUED:
                self._incoming.put(None)

    def leave(self) -> None:
        """Say goodbye, after what waits to be sent; does not wait."""
        self._outgoing.put(None)

    def close(self, until: float) -> None:
        """Wait for the peer's goodbye until a moment of `time.monotonic`, then cut the connection.

        A thread that still waited inside gloo when the process ends would abort it.
        """
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            # gloo has no other way to end a wait: one that runs out closes its group of two.
            with suppress(RuntimeError):
                self._wire.recv([torch.empty(1, dtype=torch.uint8)], self._peer, _NEVER).wait(
                    timedelta(milliseconds=1)
                )
            for thread in self._threads:
                thread.join()

    # -- the two threads ------------------------------------------------------------------------

    def _sending(self) -> None:
        try:
            while True:
                try:
                    data = self._outgoing.get(timeout=self._limit / _BEATS)
                except queue.Empty:
                    if self._pulse.beats():
                        self._put(_frame(_ALIVE))
                        self.idle_bytes += FRAME_BYTES
                    continue
                if data is None:
                    self._put(_frame(_GOODBYE))
                    return
                self._put(_frame(len(data)))
                # A copy that may be written to, as torch wants it; alive until all of it has left.
                whole = torch.frombuffer(bytearray(data), dtype=torch.uint8)
                for start in range(0, len(data), PIECE_BYTES):
                    self._put(whole[start : start + PIECE_BYTES])
        except RuntimeError as error:  # gloo's only one
            self.lose(_in_words(error, self._limit))

    def _put(self, piece: Tensor) -> None:
        self._wire.send([piece], self._peer, 0).wait(timedelta(seconds=self._limit))

    def _receiving(self) -> None:
        try:
            while self.lost is None:
                length = int(self._take(FRAME_BYTES).numpy().view("<i8")[0])
                if length == _ALIVE:
                    continue
                if length == _GOODBYE:
                    self.lose("it left the run")
                    return
                if not HEADER_BYTES <= length <= self._largest:
                    self.lose(
                        f"it announced a message of {length} bytes; the largest that this method "
                        f"sends has {self._largest}"
                    )
                    return
                data = self._take(length).numpy().tobytes()
                with self._guard:
                    full = self._incoming.qsize() >= _QUEUED
                    if not full and self.lost is None:
                        self._incoming.put(data)
                if full:
                    self.lose("it sends more messages than were asked for")
        except RuntimeError as error:
            self.lose(_in_words(error, self._limit))

    def _take(self, count: int) -> Tensor:
        # Of a piece that comes short gloo tells nothing: what it left out must not be old memory.
        whole = torch.zeros(count, dtype=torch.uint8)
        for start in range(0, count, PIECE_BYTES):
            piece = whole[start : start + PIECE_BYTES]
            self._wire.recv([piece], self._peer, 0).wait(timedelta(seconds=self._limit))
        return whole


def _frame(length: int) -> Tensor:
    return torch.from_numpy(np.array([length], "<i8").view(np.uint8).copy())


def _in_words(error: RuntimeError, limit: float) -> str:
    text = str(error)
    if "imed out" in text or "timeout" in text:
        return f"nothing was heard of it for {limit:g} s"
    return "its connection closed"

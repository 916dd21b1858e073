"""One process that decodes, seen from the agent: started, asked, heard, ended."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from edge_stl.errors import ResourceError, UsageError
from edge_stl.images._pillow import MISSING
from edge_stl.images._reader_limits import ReadLimits
from edge_stl.images._reader_wire import NO_PILLOW, READY, Answer, Question


CHILD = ("-m", "edge_stl.images._reader_main")
"""What Python is to run; a test puts something in its place that goes wrong."""

_START_SECONDS = 120.0  # importing numpy and Pillow from a slow card
_LOOK_UP = 0.5  # seconds after which a waiting agent asks whether it is to stop
_BLOCK = 1 << 20
# glibc would give the memory of every image back to the system and take it anew for the next one,
# which costs as much as decoding it
_KEEP = {"MALLOC_TRIM_THRESHOLD_": str(32 << 20), "MALLOC_MMAP_THRESHOLD_": str(16 << 20)}
_END_SECONDS = 5.0


class ReaderDied(Exception):  # noqa: N818  (what happened to it, told by a reason)
    """The process is no more.

    Attributes:
        reason: ``decoder_died`` or ``took_too_long``.
        how: For a sentence.
        from_outside: It was killed by a signal that no code of its own sends.
    """

    def __init__(self, reason: str, how: str, *, from_outside: bool = False) -> None:
        super().__init__(reason, how)
        self.reason, self.how, self.from_outside = reason, how, from_outside


class ReaderProcess:
    """A running process; `close` it.

    Attributes:
        poll: Called now and then while waiting; may raise.
        unanswered: Questions without an answer yet.
    """

    def __init__(self, limits: ReadLimits, poll: Callable[[], object]) -> None:
        """Start it and wait until it is ready.

        Args:
            limits: What it may use for an image.
            poll: Called now and then while waiting; may raise.

        Raises:
            ReaderDied: It ended before it was ready.
            ResourceError: No process can be started.
            UsageError: It has no Pillow.
        """
        self.poll = poll
        self.unanswered = 1  # that it is ready, it says unasked
        self._unsent = bytearray()
        self._heard = bytearray()
        numbers = (os.getpid(), limits.max_pixels, limits.max_bytes, limits.memory)
        try:
            self._process = subprocess.Popen(  # noqa: S603  (our own module, in our Python)
                # -P: a module in the folder that the agent was started in is none of ours
                [sys.executable, "-P", *CHILD, *map(str, numbers), str(limits.cpu_seconds)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env=_environment(),
                process_group=0,  # Ctrl-C is for the agent
            )
        except OSError as error:
            raise ResourceError(
                f"reading images: no process can be started ({error.strerror}); expected room for "
                "one. Free memory or end other programs"
            ) from error
        assert self._process.stdin is not None  # noqa: S101  (for mypy)
        assert self._process.stdout is not None  # noqa: S101
        self._to, self._from = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._to, False)
        try:
            first = self.hear(_START_SECONDS)
        except BaseException:
            self.close()
            raise
        if first.code != READY:
            self.close()
            if first.code == NO_PILLOW:
                raise UsageError(MISSING)
            raise ReaderDied("decoder_died", "said something else than it should")

    def ask(self, question: Question) -> None:
        """Ask something; it is sent now or while the next answer is awaited.

        Args:
            question: What.
        """
        self.unanswered += 1
        self._unsent += question.frame()
        self._send()

    def hear(self, seconds: float) -> Answer:
        """Wait for the next answer.

        Args:
            seconds: How long.

        Returns:
            The answer.

        Raises:
            ReaderDied: There is none, and the process has ended.
        """
        until = time.monotonic() + seconds
        while True:
            answer = Answer.first_of(self._heard)
            if answer is not None:
                self.unanswered -= 1
                return answer
            left = max(0.0, min(_LOOK_UP, until - time.monotonic()))
            writers = [self._to] if self._unsent else []
            readable, writable, _ = select.select([self._from], writers, [], left)
            if readable:
                data = os.read(self._from, _BLOCK)
                if not data:
                    raise self._death()
                self._heard += data
            elif writable:
                self._send()
            else:
                self.poll()
                if time.monotonic() >= until:
                    self.close()
                    raise ReaderDied("took_too_long", f"took longer than {seconds:g} s")

    def close(self) -> None:
        """End it; more than once is fine."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.kill()
        # one that waits for a dead disk ends when the disk answers; nobody waits for that
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)

    def _send(self) -> None:
        try:
            sent = os.write(self._to, self._unsent[:_BLOCK])
        except BlockingIOError:
            return
        except BrokenPipeError:  # it ended; what it answered before is still to be heard
            self._unsent.clear()
            return
        del self._unsent[:sent]

    def _death(self) -> ReaderDied:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)
        code = self._process.poll()
        self.close()
        if code == -signal.SIGXCPU:
            return ReaderDied("took_too_long", "took too much processor time")
        if code is not None and code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
            outside = code == -signal.SIGKILL
            return ReaderDied("decoder_died", f"ended by {name}", from_outside=outside)
        return ReaderDied("decoder_died", f"ended with code {code}")


def _environment() -> dict[str, str]:
    """Let the child find this very package, and start with one thread: it needs no more."""
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**os.environ, **one, **_KEEP, "PYTHONPATH": os.pathsep.join(paths)}

"""A light parent for ``edge-stl train``, which can say that the memory ran out.

Where a box has too little memory the kernel kills the agent (SIGKILL), or a library gives up on it
(SIGABRT): the process has no time for a sentence. So the command forks before anything large is
loaded. The child is the agent; the parent waits, hands signals on, and puts a death into words. It
costs the pages of a bare interpreter, most of them shared with the child.

The child dies with the parent, by SIGKILL: who kills the command with SIGKILL means the agent. A
process that others supervise, as a fleet does its agents, has `ALONE` in its environment and is
not forked, so that its supervisor sees how it ended.
"""

import ctypes
import errno
import os
import signal
import sys
import time
from collections.abc import Sequence


ALONE = "EDGE_STL_ALONE"
"""Environment variable; anything but empty: no parent, the process is supervised already."""

_PR_SET_PDEATHSIG = 1
_LACK = 20
_DEADLY = {
    signal.SIGKILL: "was killed (SIGKILL), as the system does when memory runs out",
    signal.SIGABRT: "gave up (SIGABRT), as its libraries do when memory runs out",
    signal.SIGSEGV: "crashed (SIGSEGV), as its libraries may when memory runs out",
    signal.SIGBUS: "crashed (SIGBUS), as it may when memory or disk run out",
}
_ASKING = frozenset({signal.SIGINT, signal.SIGTERM})
_SI_USER = 0


class _Began:
    at: float | None = None


def began() -> float:
    """Return the moment of `time.monotonic` at which the command began; now where it is unknown."""
    return time.monotonic() if _Began.at is None else _Began.at


def supervised(arguments: Sequence[str]) -> None:
    """Go on as a child where a parent is of use; the parent itself does not return.

    Args:
        arguments: of ``edge-stl``.
    """
    _Began.at = time.monotonic()
    if sys.platform != "linux" or os.environ.get(ALONE) or not _trains(arguments):
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*_ASKING, signal.SIGCHLD})
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        child = os.fork()
    except OSError:  # no room for a second process: then without a parent
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    if child:
        _Parent(child).wait()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked
        os.kill(os.getpid(), signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _trains(arguments: Sequence[str]) -> bool:
    verb = next((a for a in arguments if not a.startswith("-")), None)
    rest = [a.partition("=")[0] for a in arguments]
    return verb == "train" and not {"--jobs", "--help", "-h", "--debug"} & set(rest)


class _Parent:
    """Waits for the child."""

    def __init__(self, child: int) -> None:
        self._child = child

    def wait(self) -> None:
        """Hand signals on until the child is gone, and end as it did."""
        while True:
            told = signal.sigwaitinfo({*_ASKING, signal.SIGCHLD})
            if told.si_signo == signal.SIGCHLD:
                pid, status, usage = os.wait4(self._child, os.WNOHANG)
                if pid:
                    self._end(status, usage.ru_maxrss * 1024)
            elif told.si_code <= _SI_USER:
                # A Ctrl-C comes from the kernel, for all of the foreground: the child has its own.
                os.kill(self._child, told.si_signo)

    def _end(self, status: int, peak: int) -> None:
        code = os.waitstatus_to_exitcode(status)
        if code >= 0:
            os._exit(code)
        number = signal.Signals(-code)
        if number in _DEADLY:
            line = (
                f"edge-stl: train: the agent {_DEADLY[number]}; it held {peak / 1e6:.0f} MB at "
                "most. Its last checkpoint is kept: the same command goes on there. Give it more "
                f"memory, or add --threads 1, --max-memory {0.8 * peak / 1e6:.0f}M or a coarser "
                "--branch\n"
            )
            try:
                os.write(2, line.encode())
            except OSError as error:
                if error.errno not in {errno.EPIPE, errno.EBADF, errno.EIO}:
                    raise
            os._exit(_LACK)
        signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        os.kill(os.getpid(), number)
        os._exit(128 + number)  # a signal that does not end a process

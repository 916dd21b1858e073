"""A light parent for ``edge-stl train`` and ``cotrain``, which can say that the memory ran out.

Where a box has too little memory the kernel kills the agent (SIGKILL), or a library gives up on it
(SIGABRT): the process has no time for a sentence. So the command forks before anything large is
loaded. The child is the agent; the parent waits, hands signals on, and puts a death into words. It
costs the pages of a bare interpreter, most of them shared with the child.

gloo gives up in the same way when a peer sends it what no box sends, and nothing in the process can
prevent that (`device_agent.cotrain._link`).

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
_AGENTS = ("train", "cotrain")
_SAME_COMMAND = {
    "train": "Its last checkpoint is kept: the same command goes on there",
    "cotrain": "Its last rounds are kept: the same command on all boxes goes on there",
}
_OTHERWISE = "; gloo does so too when what reaches its ports sends what no box sends"
"""What else SIGABRT may mean for a box of a group."""


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
    if sys.platform != "linux" or os.environ.get(ALONE):
        return
    verb = _agent(arguments)
    if verb is None:
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
        _Parent(child, verb).wait()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked
        os.kill(os.getpid(), signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _agent(arguments: Sequence[str]) -> str | None:
    """Return which agent a command line starts, or None where it starts none of its own."""
    verb = next((a for a in arguments if not a.startswith("-")), None)
    rest = [a.partition("=")[0] for a in arguments]
    alone = {"--jobs", "--help", "-h", "--debug"} & set(rest)
    return verb if verb in _AGENTS and not alone else None


class _Parent:
    """Waits for the child."""

    def __init__(self, child: int, verb: str) -> None:
        self._child, self._verb = child, verb

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
            group = self._verb == "cotrain"
            otherwise = _OTHERWISE if group and number == signal.SIGABRT else ""
            less = "" if group else f", --max-memory {0.8 * peak / 1e6:.0f}M or a coarser --branch"
            line = (
                f"edge-stl: {self._verb}: the agent {_DEADLY[number]}{otherwise}; it held "
                f"{peak / 1e6:.0f} MB at most. {_SAME_COMMAND[self._verb]}. Give it more memory, "
                f"or add --threads 1{less}"
                f"{'. Let nobody but the boxes reach its ports' if otherwise else ''}\n"
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

"""Run a command that is asked to stop when its parent dies: ``_leash.py PARENT COMMAND…``.

A box that trains on after the command that started it was killed would keep a core, and its work
folder, for hours. Linux sends a signal of one's choice for that (prctl(2), PR_SET_PDEATHSIG), and
keeps the choice over exec. It has to be asked for in the child, and between fork and exec a child
of a process with threads may do next to nothing: hence this program, which turns into the command.
It imports nothing of edge-stl, so it costs a bare interpreter's start.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence


_PR_SET_PDEATHSIG = 1


def main(arguments: Sequence[str]) -> None:
    """Turn into the command, unless the parent is gone already.

    Args:
        arguments: the parent's process id, then the command with its arguments.
    """
    parent, *command = arguments
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(parent):  # it died before we asked
            sys.exit(-signal.SIGTERM)
    os.execv(command[0], command)  # noqa: S606  (a program and its arguments, no shell)


if __name__ == "__main__":
    main(sys.argv[1:])

"""The errors of edge-stl: one sentence each, and the exit code of the command line.

``EdgeStlError`` is the root. A sentence says *where*: what is wrong, with the value; what was
expected. What to do. The tree::

    EdgeStlError          1   unexpected
    ├── UsageError        2   wrong use
    ├── DataError        10   images, labels, tables
    ├── ResourceError    20   machine or resources
    ├── Interrupted      30   stopped on a budget or a signal, resumable
    ├── CheckError       40   export, parity or check not ok
    ├── MergeRefused     50   files that may not be merged
    └── IntegrityError   60   a digest or signature does not hold
"""

import errno


_NO_MEMORY = ("allocate memory", "bad_alloc", "failed to map segment", "start new thread")
"""What torch, C++, the dynamic linker and Python say where memory runs out."""


OUT_OF_MEMORY = (
    "out of memory; the last checkpoint and every finished file are kept. Close other programs, or "
    "train with --threads 1, a lower --max-memory or a coarser --branch"
)
"""The sentence for it."""


def ran_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception, or one it came from, is about memory that is not there."""
    seen: list[BaseException] = []
    while error not in seen:
        seen.append(error)
        if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
            return True
        if any(words in str(error) for words in _NO_MEMORY):
            return True
        error = error.__cause__ or error.__context__ or error
    return False


class EdgeStlError(Exception):
    """Root of all errors that edge-stl raises on purpose; the message is one line."""

    exit_code = 1


class UsageError(EdgeStlError):
    """A wrong argument, option, plan or missing extra."""

    exit_code = 2


class DataError(EdgeStlError):
    """Images or labels that cannot be used."""

    exit_code = 10


class ResourceError(EdgeStlError):
    """Too little memory, disk or permission, or a work folder that is in use."""

    exit_code = 20


class Interrupted(EdgeStlError):  # noqa: N818  (a stop on request is no error to its user)
    """Stopped by a signal or a budget; the same command goes on where it stopped."""

    exit_code = 30


class CheckError(EdgeStlError):
    """A file that was written or checked does not hold what it must."""

    exit_code = 40


class MergeRefused(EdgeStlError):  # noqa: N818  (a refusal is the documented outcome)
    """Branch files that may not be merged, with every reason."""

    exit_code = 50


class IntegrityError(EdgeStlError):
    """Bytes that are not what their digest or signature says."""

    exit_code = 60


class StopNow(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, where there is nothing to save.

    A class of its own because of CPython: where a plain KeyboardInterrupt passes through code that
    an extension module runs while it is imported, the interpreter remembers it, and ends by SIGINT
    whatever exit code was chosen after it was caught (``run_eval_code_obj`` in ``pythonrun.c``).
    """

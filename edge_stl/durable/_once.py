"""Files from outside: read once, into memory, and never looked at again."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from edge_stl.errors import DataError, EdgeStlError


_FLAGS = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_BLOCK = 1 << 30


@dataclass(frozen=True)
class Copied:
    """The bytes of a file, and what the file system said of it while it was open.

    Attributes:
        data: the content.
        mode: permission bits.
    """

    data: bytes
    mode: int


def read_once(
    path: Path,
    *,
    most: int,
    expected: str,
    error: type[EdgeStlError] = DataError,
    links: bool = False,
) -> Copied:
    """Read a file that somebody else may have put there, or may be changing.

    Whatever is proved of the bytes is proved of what is used, since nobody else can change them any
    more. A pipe is not waited for and a device not read; a link is not followed, for it may lead
    anywhere, and a file with a second name may be written under that name.

    Args:
        path: the file.
        most: bytes it may have.
        expected: what should be there, for the message: ``an ONNX file``.
        error: the kind of error.
        links: follow a link, and take a file with several names: for who names the file himself.

    Raises:
        EdgeStlError: of the kind ``error``: it is missing, too large, no regular file with one
            name, cannot be read, or changed while it was read.
    """
    try:
        descriptor = os.open(path, _FLAGS if links else _FLAGS | _NO_LINK)
    except OSError as problem:
        raise error(
            f"{path}: {_missing(path, problem, links=links)}; expected {expected}. Check the path"
        ) from None
    try:
        before = os.fstat(descriptor)
        _need_plain(path, before, expected, error, links=links)
        if before.st_size > most:
            raise error(
                f"{path}: {before.st_size} bytes; {expected} has at most {most}. Check the path"
            )
        data = _read(descriptor, before.st_size)
        after = os.fstat(descriptor)
    except OSError as problem:
        raise error(
            f"{path}: cannot be read ({problem.strerror}); expected {expected}. Check the disk"
        ) from None
    finally:
        os.close(descriptor)
    same = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    if not same or len(data) != before.st_size:
        raise error(
            f"{path}: changed while it was read; expected {expected} that nobody writes to. Try "
            "again when it is there whole"
        )
    return Copied(data, stat.S_IMODE(before.st_mode))


def _need_plain(
    path: Path,
    found: os.stat_result,
    expected: str,
    error: type[EdgeStlError],
    *,
    links: bool,
) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise error(f"{path}: not a regular file; expected {expected}. Check the path")
    if found.st_nlink > 1 and not links:
        raise error(
            f"{path}: has {found.st_nlink} names (hard links), and may be written under another; "
            f"expected {expected} with one name. Make a copy with cp"
        )


def _missing(path: Path, problem: OSError, *, links: bool) -> str:
    # os.path and not Path: a stick that was pulled out makes every question about it an error
    if os.path.islink(path) and not links:  # noqa: PTH114
        return "is a link, which is not followed"
    if isinstance(problem, FileNotFoundError | NotADirectoryError):
        return "there is no such file"
    # Opening a socket gives ENXIO, and a pipe without a writer may as well.
    if os.path.exists(path) and not os.path.isfile(path):  # noqa: PTH110, PTH113
        return "not a regular file"
    return f"cannot be read ({problem.strerror})"


def _read(descriptor: int, size: int) -> bytes:
    """Return the content and, so that growth is seen, at most one byte more than ``size``."""
    parts, left = [], size + 1
    while left and (block := os.read(descriptor, min(left, _BLOCK))):
        parts.append(block)
        left -= len(block)
    return b"".join(parts)

"""Reading a whole file of a stranger: a regular one, up to a size."""

import os
import stat
from pathlib import Path

from edge_stl.errors import DataError


MAX_FILE_BYTES = 2_000_000_000
"""Cap before any plan is known; protobuf itself ends at 2 GiB."""


def read_regular(path: Path, *, what: str = "an ONNX file", most: int | None = None) -> bytes:
    """Return the content of a regular file.

    The file is opened once, without waiting for a pipe, and looked at through what was opened: a
    name may lead elsewhere a moment later.

    Args:
        path: of the file; a link is followed.
        what: what is expected there, for the sentence.
        most: bytes; by default `MAX_FILE_BYTES`.

    Raises:
        DataError: it cannot be read, is not a regular file, or is larger.
    """
    most = MAX_FILE_BYTES if most is None else most
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _BINARY)
        with open(handle, "rb") as file:  # noqa: PTH123  (of a descriptor)
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                raise DataError(f"{path}: not a regular file; expected {what}. Check the path")
            if found.st_size <= most:
                data = file.read(most + 1)
                if len(data) <= most:
                    return data
            size = max(found.st_size, most + 1)
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file; expected {what}. Check the path") from None
    except IsADirectoryError:
        raise DataError(f"{path}: not a regular file; expected {what}. Check the path") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path}: cannot be read ({reason}). Check its permissions") from None
    raise DataError(f"{path}: {size} bytes; a model of edge-stl has at most {most}")


_BINARY: int = getattr(os, "O_BINARY", 0)

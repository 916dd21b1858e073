"""Rows of pixels in a file, read when they are asked for, and proved before they are given.

A mapped file is simpler, and every page of it that was touched counts as memory of this process:
after one epoch that is the whole file. Here a batch is read into an array of its own, and what
the process holds does not depend on how many images there are. The kernel still keeps what it
read in its page cache, which it gives back when memory is needed elsewhere.

Every row that is read is compared with its digest, each time: between two epochs a card may have
lost it. That takes 1 to 6 % of a training step, the most where a coarse branch is trained on large
images.
"""

import errno
import os
import stat
import weakref
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from device_agent._cache_digest import Digests, digests_of
from edge_stl.errors import ResourceError


_MOST_BUFFERS = 1024  # IOV_MAX of Linux: rows of one call


class DamagedRows(ResourceError):  # noqa: N818  (the rows, not what went wrong with them)
    """Rows that the disk does not give, or gives with other bytes than were written."""


class PixelFile:
    """A read-only array ``(N, r, r, C)`` uint8 that stays on the disk.

    Indexing takes a 1-D array of rows and gives a new array, as ``numpy.memmap`` would; there are
    no slices, and negative rows are refused. Closed by `close`, by leaving its context, or with
    its last reference.

    Args:
        path: The file: N * r * r * C bytes, row after row.
        shape: ``(N, r, r, C)``.
        digests: (N,) uint64 of `device_agent._cache_digest`, kept: 8 MB for a million rows.

    Attributes:
        path: The file.
        shape: ``(N, r, r, C)``.
        dtype: uint8.

    Raises:
        OSError: The file cannot be opened, or is a link.
        ValueError: It is no regular file, or has another size than that; or there are not as many
            digests as rows.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int, int], digests: Digests) -> None:
        if digests.shape != shape[:1]:
            raise ValueError(f"{path}: digests {digests.shape}; expected {shape[:1]}, one a row")
        self._digests = digests
        self.path, self.shape, self.dtype = path, shape, np.dtype(np.uint8)
        self._row_bytes = shape[1] * shape[2] * shape[3]
        # Without O_NONBLOCK, opening a pipe that nobody writes to would wait for ever.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        self._descriptor = os.open(path, flags)
        # A finalizer, not a file object: a cache that is dropped is no reason for a warning.
        self._closer = weakref.finalize(self, os.close, self._descriptor)
        found = os.fstat(self._descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size != shape[0] * self._row_bytes:
            self.close()
            raise ValueError(
                f"{path}: {found.st_size} bytes; expected a regular file of "
                f"{shape[0] * self._row_bytes}"
            )

    def __array__(self, *_: object, **__: object) -> npt.NDArray[np.uint8]:
        # numpy would try to take all rows at once
        raise TypeError(f"{self.path}: is no array; read the rows of one batch")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.uint8]:
        """Read rows.

        Args:
            index: ``(n,)`` integers, 0..N-1, in any order, repeats allowed.

        Returns:
            ``(n, r, r, C)`` uint8, owned and writable.

        Raises:
            DamagedRows: The disk does not give the bytes, or not those that were written.
            IndexError: A row is not in the file.
            ResourceError: There is no memory for reading them.
            TypeError: ``index`` is no 1-D array of integers.
            ValueError: The file is closed.
        """
        if not self._closer.alive:
            raise ValueError(f"{self.path}: is closed")
        wanted = np.asarray(index)
        if wanted.ndim != 1 or not (wanted.size == 0 or np.issubdtype(wanted.dtype, np.integer)):
            raise TypeError(
                f"rows of {self.path}: {wanted.ndim}-D {wanted.dtype}; expected a 1-D array of "
                "integers"
            )
        if wanted.size and not (wanted.min() >= 0 and wanted.max() < len(self)):
            raise IndexError(
                f"rows of {self.path}: {wanted.min()} to {wanted.max()}; expected 0 to "
                f"{len(self) - 1}"
            )
        out = np.empty((len(wanted), *self.shape[1:]), dtype=np.uint8)
        flat = out.reshape(len(wanted), self._row_bytes)
        # In the order of the file, neighbours in one call: fewer calls, and a disk that turns or
        # a card with large blocks goes forward only.
        order = np.argsort(wanted, kind="stable")
        breaks = np.flatnonzero(np.diff(wanted[order].astype(np.int64)) != 1) + 1
        for run in np.split(order, breaks):
            if run.size:
                self._read(
                    [memoryview(flat[i]) for i in run], int(wanted[run[0]]) * self._row_bytes
                )
        self._prove(wanted, flat)
        return out

    def _prove(self, wanted: npt.NDArray[Any], rows: npt.NDArray[np.uint8]) -> None:
        """Compare what was read with the digests, before a byte of it is handed out."""
        wrong = wanted[digests_of(rows) != self._digests[wanted]]
        if wrong.size:
            raise DamagedRows(
                f"{self.path}: row {wrong.min()} is not as it was written, {len(np.unique(wrong))} "
                "damaged in this batch; expected the bytes of its digest. Check the disk or choose "
                "another --work"
            )

    def _read(self, buffers: list[memoryview], offset: int) -> None:
        """Fill buffers from a position on, however little the system gives at a time."""
        at = 0  # the first buffer that is not full
        while at < len(buffers):
            try:
                got = os.preadv(self._descriptor, buffers[at : at + _MOST_BUFFERS], offset)
            except OSError as error:
                kind = ResourceError if error.errno == errno.ENOMEM else DamagedRows
                raise kind(
                    f"{self.path}: cannot be read ({error.strerror}); expected the image cache. "
                    "Check the disk or choose another --work"
                ) from error
            if not got:
                raise DamagedRows(
                    f"{self.path}: ends before byte {offset}; expected "
                    f"{len(self) * self._row_bytes} bytes. Leave the work folder alone while an "
                    "agent runs; the same command builds the image cache again"
                )
            offset += got
            while got:
                taken = min(got, len(buffers[at]))
                got -= taken
                buffers[at] = buffers[at][taken:]
                at += not len(buffers[at])

    def close(self) -> None:
        """Close the file; more than once is fine."""
        self._closer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

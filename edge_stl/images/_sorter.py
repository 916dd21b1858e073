"""Sorting more records of text than fit into memory as Python strings.

Records are sorted some ten thousand at a time; each such run is kept compressed, in blocks, and
the runs are merged while they are read. A million image files need some twenty megabytes so,
where their strings alone would need two hundred.
"""

import heapq
import zlib
from collections import deque
from collections.abc import Iterator, Sequence


_RUN = 40_000  # records that are sorted at a time: some 10 MB
_BLOCK = 500  # records of a run that are unpacked at a time, while all runs are merged
_FASTEST = 1  # level of zlib
_END = "\0"  # no file name and no label of a table holds it

Record = tuple[str, ...]


def packed(texts: Sequence[str]) -> bytes:
    """Compress texts.

    Args:
        texts: At least one; none holds a NUL. Bytes that are no UTF-8 are surrogates, as Python's
            functions on files give them.

    Returns:
        Bytes for `unpacked`.
    """
    return zlib.compress(_END.join(texts).encode("utf-8", "surrogateescape"), _FASTEST)


def unpacked(data: bytes) -> list[str]:
    """Give back what was `packed`.

    Args:
        data: What `packed` gave.

    Returns:
        The texts.
    """
    return zlib.decompress(data).decode("utf-8", "surrogateescape").split(_END)


class Sorter:
    """Takes records in any order and gives them back once, in the order of Python's tuples."""

    def __init__(self, width: int) -> None:
        """Start without a record.

        Args:
            width: Texts in a record, at least 1.
        """
        self._width = width
        self._latest: list[Record] = []
        self._runs: list[deque[bytes]] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, *record: str) -> None:
        """Take a record.

        Args:
            record: Its texts; none holds a NUL.
        """
        self._latest.append(record)
        self._count += 1
        if len(self._latest) >= _RUN:
            self._pack()

    def drain(self) -> Iterator[Record]:
        """Give all records, sorted; what was given is forgotten.

        Yields:
            The records.
        """
        if not self._runs:
            records, self._latest = sorted(self._latest), []
            yield from records
        else:
            self._pack()
            runs, self._runs = self._runs, []
            yield from heapq.merge(*(self._unpacked(run) for run in runs))
        self._count = 0

    def _pack(self) -> None:
        records, self._latest = sorted(self._latest), []
        run: deque[bytes] = deque()
        for start in range(0, len(records), _BLOCK):
            run.append(packed([text for r in records[start : start + _BLOCK] for text in r]))
        if run:
            self._runs.append(run)

    def _unpacked(self, run: deque[bytes]) -> Iterator[Record]:
        while run:
            texts = iter(unpacked(run.popleft()))
            yield from zip(*[texts] * self._width, strict=True)

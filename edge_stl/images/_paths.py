"""Very many names in little memory: compressed in blocks, read one block at a time.

A Python string of a short path takes a hundred bytes. Sorted paths are so much alike that they
compress to a few: the names of a million images are some megabytes, not a hundred.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Self, overload

import numpy as np
import numpy.typing as npt

from edge_stl.images._sorter import packed, unpacked


_BLOCK = 1000  # names that are unpacked for one of them


class _Texts(Sequence[str]):
    """What the two sequences below share: comparing and slicing by their items."""

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...

    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(self._at(i) for i in range(*index.indices(len(self))))
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"name {index} of {count}")
        return self._at(index % count)

    def _at(self, index: int) -> str:
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as a list has none

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self[:3]))
        return f"{type(self).__name__}({shown}{', …' if len(self) > 3 else ''})"  # noqa: PLR2004


class Paths(_Texts):
    """Names in a fixed order, as a tuple of strings would be, in a few bytes each.

    Going through them costs nothing to speak of; an index in no order unpacks a thousand names.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        """Take the names.

        Args:
            names: In the order to keep; none holds a NUL.
        """
        self._blocks: list[bytes] = []
        self._count = 0
        latest: list[str] = []
        for name in names:
            latest.append(name)
            if len(latest) == _BLOCK:
                self._close(latest)
                latest = []
        if latest:
            self._close(latest)
        self._unpacked: tuple[int, list[str]] = (-1, [])

    def _close(self, names: list[str]) -> None:
        self._blocks.append(packed(names))
        self._count += len(names)

    @property
    def nbytes(self) -> int:
        """Bytes that the names take in memory, without Python's own of a list."""
        return sum(map(len, self._blocks))

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        for block in self._blocks:
            yield from unpacked(block)

    def _at(self, index: int) -> str:
        block, at = divmod(index, _BLOCK)
        if self._unpacked[0] != block:
            self._unpacked = (block, unpacked(self._blocks[block]))
        return self._unpacked[1][at]


class Chosen(_Texts):
    """Some of many names, by their places."""

    def __init__(self, names: Sequence[str], places: npt.NDArray[np.integer]) -> None:
        """Remember names and places.

        Args:
            names: All names.
            places: (n,) integers, 0..N-1, rising.
        """
        self._names = names
        self._places = places

    @classmethod
    def where(cls, names: Sequence[str], keep: npt.NDArray[np.bool_]) -> Self:
        """Choose by a mask.

        Args:
            names: All N names.
            keep: (N,) booleans.

        Returns:
            The names where it is True.
        """
        return cls(names, np.flatnonzero(keep).astype(np.uint32))

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return (self._names[int(place)] for place in self._places)

    def _at(self, index: int) -> str:
        return self._names[int(self._places[index])]

"""The files that are left out: counted by reason, and named to whoever stands at the box."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_stl.images._paths import Paths
from edge_stl.images._sorter import Sorter


class LeftOutFile(NamedTuple):
    """A file that is not used.

    Attributes:
        file: Its relative POSIX path.
        reason: A key of `REASONS`, ``no_class``, ``not_yet`` or ``too_small``.
    """

    file: str
    reason: str


class LeftOutFiles:
    """Files and reasons, in a few bytes each; gone through in the order they were given in."""

    def __init__(self, files: Sequence[str] | Paths = (), reasons: Sequence[str] = ()) -> None:
        """Take them.

        Args:
            files: The relative paths.
            reasons: Of every file.
        """
        self._files = files if isinstance(files, Paths) else Paths(files)
        self._words = sorted(set(reasons))
        code = {word: number for number, word in enumerate(self._words)}
        self._codes: npt.NDArray[np.uint8] = np.fromiter(
            (code[reason] for reason in reasons), np.uint8, count=len(reasons)
        )

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[LeftOutFile]:
        for file, code in zip(self._files, self._codes, strict=True):
            yield LeftOutFile(file, self._words[code])


class Ledger:
    """Where a scan writes down what it leaves out."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._files = Sorter(2)

    def note(self, file: str, reason: str) -> None:
        """Leave a file out.

        Args:
            file: Its relative POSIX path.
            reason: Why.
        """
        self.counts[reason] += 1
        self._files.add(file, reason)

    def files(self) -> LeftOutFiles:
        """Give all of them, by their path as text; call it once.

        Returns:
            The files.
        """
        reasons: list[str] = []  # references to a few words

        def names() -> Iterator[str]:
            for file, reason in self._files.drain():
                reasons.append(reason)
                yield file

        paths = Paths(names())
        return LeftOutFiles(paths, reasons)

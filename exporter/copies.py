"""Branch files of several boxes that are one network: one box under two names counts twice."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from exporter.read import BranchFile


ALIKE = 0.9999
"""Cosine of all numbers of two networks above which nobody trained both; see docs/trust.md."""

_SKETCH = 4096
_WORTH_A_LOOK = 0.99


@dataclass(frozen=True)
class Copy:
    """Two files of one branch, from two boxes, with the same numbers or nearly.

    Attributes:
        first: ``branch.box`` of one.
        second: ``branch.box`` of the other.
        cosine: between all their numbers, -1..1.
    """

    first: str
    second: str
    cosine: float

    @property
    def warning(self) -> str:
        """Return a sentence for a person."""
        return (
            f"{self.first} and {self.second}: the same network (cosine {self.cosine:.6f}), though "
            "two boxes say they trained it; whoever copied it counts twice. Find out who, and "
            "leave one out with --remove"
        )


def find_copies(files: Sequence[BranchFile]) -> tuple[Copy, ...]:
    """Compare all files of the same branch from different boxes.

    Most pairs are told apart by a few thousand of their numbers; only the others are compared in
    full.

    Args:
        files: of one plan.
    """
    found = []
    sketches = [_sketch(file) for file in files]
    for (i, a), (j, b) in combinations(enumerate(files), 2):
        if a.manifest.branch != b.manifest.branch or a.manifest.box == b.manifest.box:
            continue
        if len(sketches[i]) != len(sketches[j]):
            continue  # networks of the user's own may differ from box to box
        if _cosine(sketches[i], sketches[j]) < _WORTH_A_LOOK:
            continue
        cosine = _cosine(_numbers(a), _numbers(b))
        if cosine > ALIKE:
            found.append(Copy(a.manifest.id, b.manifest.id, round(cosine, 6)))
    return tuple(found)


def _numbers(file: BranchFile) -> NDArray[np.float32]:
    return np.concatenate([file.parameters[name].ravel() for name in sorted(file.parameters)])


def _sketch(file: BranchFile) -> NDArray[np.float32]:
    numbers = _numbers(file)
    return numbers[:: max(1, len(numbers) // _SKETCH)].copy()


def _cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    x, y = a.astype(np.float64), b.astype(np.float64)
    length = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / length if length else float(np.array_equal(a, b))

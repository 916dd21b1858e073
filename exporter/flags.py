"""Numbers of branch files that are far from those of the other boxes: told, never refused.

No image is needed. Every number is compared as a logarithm, by the median of the boxes and the
median absolute deviation from it, which one bad box of three, or two of nine, do not move far. With
two of five that agree the deviation grows, and little is told. How far honest boxes
are from each other was measured (docs/results.md, "Far from the others"), and below that nothing
is told, however much alike the others are. A box that knows these rules can stay within them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_stl.fusion import Member, reliability
from exporter.read import BranchFile


FEWEST_BOXES = 3
"""Of whom a median speaks: of three boxes, the two that are alike tell of the third."""

SIGMAS = 6.0
"""Robust standard deviations, 1.4826 median absolute deviations, beyond which a number is far."""

LARGE = 64.0
"""Times the median that loudness, claims and image counts may always be: on noise honest networks
were up to 28 times as loud as the median of their fleet, and mostly within 10."""

SIZE = 4.0
"""Times the median that the size of a tensor may always be; honest ones of one branch: 1.7."""

ROWS = 5.0
"""Times their median that the largest row of the last layer may be; honest ones: 1.5."""

Number = Callable[["Numbers"], float]
Index = Sequence[int]

_TO_SIGMA = 1.4826
_TINY = 1e-12


@dataclass(frozen=True, eq=False)
class Numbers:
    """What is compared of one branch file.

    Attributes:
        branch: name of the branch.
        box: the box id.
        images: training images.
        claim: 1 + r of the reliability weights, 1..231: how far above chance the box says it is.
        loudness: root mean square of the logits of its test vector over its temperature, each row
            without its mean over the classes seen.
        sizes: root mean square of every tensor by name.
        rows: norm of the largest row of the last layer over their median, of the classes seen.
        speaks: whether the box saw two classes or more; one alone has nothing to be loud about.
    """

    branch: str
    box: str
    images: float
    claim: float
    loudness: float
    sizes: Mapping[str, float]
    rows: float = 1.0
    speaks: bool = True


@dataclass(frozen=True)
class Flag:
    """A number that is far from the others'.

    Attributes:
        branch: of the file.
        box: of the file.
        what: ``loudness``, ``claim``, ``images``, ``rows`` or ``size of`` a tensor.
        value: the file's own.
        median: of the boxes compared; of the rows of the layer for ``rows``.
        boxes: how many were compared; 1 for ``rows``.
    """

    branch: str
    box: str
    what: str
    value: float
    median: float
    boxes: int

    @property
    def sentence(self) -> str:
        """Return a sentence for a person."""
        said = _SAID.get(self.what, f"tensor {self.what.removeprefix('size of ')} is of size")
        against = "of its rows" if self.what == "rows" else f"of {self.boxes} boxes"
        return (
            f"{self.branch}.{self.box}: {said} {self.value:.3g}, where the median {against} is "
            f"{self.median:.3g}. It was merged all the same: ask its operator, or leave it out "
            f"with --remove {self.branch}.{self.box}"
        )


_SAID = {
    "loudness": "its logits on noise are as loud as",
    "claim": "what it says of its own score lets it count",
    "images": "it says it trained on as many images as",
    "rows": "one class has a row in its last layer of norm",
}


def find_flags(files: Sequence[BranchFile]) -> tuple[Flag, ...]:
    """Return what is far from the others among files of one plan, in the order of the files."""
    return flags_of([numbers_of(file) for file in files])


def numbers_of(file: BranchFile) -> Numbers:
    """Return what is compared of a branch file."""
    member = file.manifest.member()
    vector = np.array(file.manifest.test_vector.logits)
    return Numbers(
        branch=member.branch,
        box=member.box,
        images=float(member.images),
        claim=1.0 + reliability(member) if member.speaks else 1.0,
        loudness=loudness_of(vector, member),
        sizes={name: _size(array) for name, array in file.parameters.items()},
        rows=_rows(file.parameters, member),
        speaks=member.speaks,
    )


def loudness_of(logits: NDArray[np.floating], member: Member) -> float:
    """Return how far a branch's logits ``(N, K)`` are from indifference, over its temperature."""
    seen = logits[:, list(member.seen)].astype(np.float64)
    return _size(seen - seen.mean(axis=1, keepdims=True)) / member.temperature


def flags_of(given: Sequence[Numbers]) -> tuple[Flag, ...]:
    """Return what is far from the others.

    Tensors are compared among the files of one branch, loudness too where four boxes have the
    branch; the rest, and loudness elsewhere, among all boxes.
    """
    found: list[tuple[int, Flag]] = []
    everyone = range(len(given))
    pairs = [(i, n.branch, n.box) for i, n in enumerate(given)]

    def compare(what: str, number: Number, least: float, *, among: Index, told: Index) -> None:
        far, median, boxes = _far([given[i] for i in among], number, least)
        for i in {among[j] for j in far} & {*told}:
            _, branch, box = pairs[i]
            found.append((i, Flag(branch, box, what, number(given[i]), median, boxes)))

    compare("images", lambda n: n.images, LARGE, among=everyone, told=everyone)
    compare("claim", lambda n: n.claim, LARGE, among=everyone, told=everyone)
    for branch in dict.fromkeys(n.branch for n in given):
        own = [i for i, name, _ in pairs if name == branch]
        loud = [i for i in own if given[i].speaks]
        enough = len({given[i].box for i in loud}) >= FEWEST_BOXES
        among = loud if enough else [i for i in everyone if given[i].speaks]
        compare("loudness", lambda n: n.loudness, LARGE, among=among, told=loud)
        for name in given[own[0]].sizes:
            compare(f"size of {name}", _size_of(name), SIZE, among=own, told=own)
    for i, branch, box in pairs:
        if given[i].rows > ROWS:
            found.append((i, Flag(branch, box, "rows", given[i].rows, 1.0, 1)))
    return tuple(flag for _, flag in sorted(found, key=lambda pair: pair[0]))


def _size_of(name: str) -> Number:
    return lambda numbers: numbers.sizes.get(name, 0.0)


def _far(given: Sequence[Numbers], number: Number, least: float) -> tuple[list[int], float, int]:
    """Return the files whose number is far from those of the boxes, the median, and the boxes.

    A box counts once, by the median of its files, however many it sends.
    """
    logs = np.log(np.maximum([number(n) for n in given], _TINY))
    boxes = sorted({n.box for n in given})
    if len(boxes) < FEWEST_BOXES:
        return [], 0.0, len(boxes)
    each = np.array(
        [np.median([x for x, n in zip(logs, given, strict=True) if n.box == box]) for box in boxes]
    )
    median = float(np.median(each))
    sigma = _TO_SIGMA * float(np.median(np.abs(each - median)))
    limit = max(SIGMAS * sigma, math.log(least))
    far = np.flatnonzero(np.abs(logs - median) > limit)
    return far.tolist(), math.exp(median), len(boxes)


def _size(array: NDArray[np.floating]) -> float:
    return float(np.sqrt(np.mean(np.square(array, dtype=np.float64)))) if array.size else 0.0


def _rows(parameters: Mapping[str, NDArray[np.float32]], member: Member) -> float:
    """Return the norm of the largest row of the last layer over the median of those seen."""
    classes = len(member.counts)
    last = [array for array in parameters.values() if array.ndim > 1 and len(array) == classes]
    if not last or not member.speaks:
        return 1.0
    norms = np.linalg.norm(last[-1].reshape(classes, -1)[list(member.seen)].astype(float), axis=1)
    return float(norms.max() / max(float(np.median(norms)), _TINY))

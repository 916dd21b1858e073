"""Who sees which classes: alike boxes, or boxes as uneven as real places are."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge_stl.errors import UsageError
from edge_stl.fleet._deal import deal


EXPECTED = (
    "expected iid, dirichlet:A with A from 0.001 to 1000000, or classes:K with a whole K of 2 or "
    "more"
)
_LEAST_A, _MOST_A = 1e-3, 1e6  # numpy's draws are sound there; beyond, they are all or equal
_FEWEST = 2  # images of a class, and classes of a box: with less it tells nothing apart
_DRAWS = 1000


@dataclass(frozen=True)
class Split:
    """How images are split over the boxes.

    Attributes:
        kind: ``iid``; ``dirichlet``, shares of every class drawn at random; ``classes``, a fixed
            number of random classes per box.
        number: A of ``dirichlet``, K of ``classes``; 0 for ``iid``.
    """

    kind: Literal["iid", "dirichlet", "classes"] = "iid"
    number: float = 0

    def __str__(self) -> str:
        """Return it as it is written on the command line."""
        return self.kind if self.kind == "iid" else f"{self.kind}:{self.number:.12g}"


IID = Split()


def read_split(text: str) -> Split:
    """Return what ``iid``, ``dirichlet:A`` or ``classes:K`` means.

    Raises:
        UsageError: it is none of these.
    """
    kind, colon, number = text.partition(":")
    if kind == "iid" and not colon:
        return Split()
    try:
        if kind == "dirichlet" and _LEAST_A <= float(number) <= _MOST_A:
            return Split("dirichlet", float(number))
        if kind == "classes" and int(number) >= _FEWEST:
            return Split("classes", int(number))
    except ValueError:
        pass
    raise UsageError(f"--split {text}: is no split; {EXPECTED}. Choose one") from None


def split_images(
    split: Split, labels: NDArray[np.int64], *, boxes: int, seed: int
) -> list[NDArray[np.int64]]:
    """Split images over boxes: every image goes to exactly one.

    A draw that leaves a box with too little to learn from is thrown away and drawn again, so what
    comes is a draw on condition that every box can train: under ``dirichlet`` every box has two
    classes of two images at least, under ``classes`` two images at least of each of its classes.

    Args:
        split: how.
        labels: ``(N,)`` class indices.
        boxes: number of boxes.
        seed: of the draw; with the labels and the number of boxes it decides everything.

    Returns:
        per box sorted indices.

    Raises:
        UsageError: there are not as many classes, or no draw gives every box enough.
    """
    if split.kind == "iid":
        return deal(labels, boxes=boxes, seed=seed)
    present, totals = np.unique(labels, return_counts=True)
    if split.kind == "dirichlet":
        rng = np.random.default_rng([seed, 12])
        counts = _drawn(
            lambda: _dirichlet_counts(rng, totals, boxes, split.number),
            lambda found: bool(((found >= _FEWEST).sum(axis=0) >= _FEWEST).all()),
            f"--split {split}: in {_DRAWS} draws of {len(labels)} images for {boxes} boxes some "
            "box always had fewer than 2 classes of 2 images; expected that much for every box. "
            "Take a larger A, fewer boxes or more images",
        )
    else:
        _check_classes(split, len(present), boxes)
        rng = np.random.default_rng([seed, 13])
        counts = _drawn(
            lambda: _class_counts(rng, totals, boxes, int(split.number)),
            lambda found: bool(((found >= _FEWEST).sum(axis=0) == split.number).all()),
            f"--split {split}: in {_DRAWS} draws for {boxes} boxes some box always had fewer than "
            f"2 images of one of its classes, the rarest of which has {totals.min()}; "
            "expected 2 or more. Take a smaller K, fewer boxes or more images",
        )
    hands: list[list[NDArray[np.int64]]] = [[] for _ in range(boxes)]
    for c, row in zip(present, counts, strict=True):
        parts = np.split(rng.permutation(np.flatnonzero(labels == c)), np.cumsum(row)[:-1])
        for hand, part in zip(hands, parts, strict=True):
            hand.append(part.astype(np.int64))
    return [np.sort(np.concatenate(hand)) for hand in hands]


def _check_classes(split: Split, classes: int, boxes: int) -> None:
    per_box = int(split.number)
    if per_box > classes:
        raise UsageError(
            f"--split {split}: there are training images of {classes} classes; expected K from 2 "
            f"to {classes}. Take a smaller K"
        )
    if boxes * per_box < classes:
        raise UsageError(
            f"--split {split}: with --boxes {boxes} there is room for {boxes * per_box} of "
            f"{classes} classes; expected a box for every class. Take a K of "
            f"{math.ceil(classes / boxes)} or more, or {math.ceil(classes / per_box)} boxes"
        )


def _drawn(
    draw: Callable[[], NDArray[np.int64]],
    enough: Callable[[NDArray[np.int64]], bool],
    otherwise: str,
) -> NDArray[np.int64]:
    for _ in range(_DRAWS):
        counts = draw()
        if enough(counts):
            return counts
    raise UsageError(otherwise)


def _dirichlet_counts(
    rng: np.random.Generator, totals: Sequence[int] | NDArray[np.int64], boxes: int, a: float
) -> NDArray[np.int64]:
    """Return images ``(classes, boxes)``: per class, shares of the boxes ~ Dirichlet(a, ..., a).

    As Yurochkin et al. (ICML 2019); Hsu et al. (2019) draw the mixture of every box instead.
    """
    shares = rng.dirichlet(np.full(boxes, a), size=len(totals))
    # Rounding the borders, not the shares, gives every image away exactly once.
    borders = np.rint(np.cumsum(shares, axis=1) * np.asarray(totals)[:, None]).astype(np.int64)
    borders[:, -1] = totals
    counts: NDArray[np.int64] = np.diff(np.minimum(borders, borders[:, -1:]), prepend=0)
    return counts


def _class_counts(
    rng: np.random.Generator, totals: Sequence[int] | NDArray[np.int64], boxes: int, per_box: int
) -> NDArray[np.int64]:
    """Return images ``(classes, boxes)``: K random classes per box, each dealt evenly."""
    classes = len(totals)
    holds = np.zeros((classes, boxes), dtype=bool)
    # First every class to some box, in turn, so that none stays out; then each box fills up.
    holds[rng.permutation(classes), rng.permutation(boxes)[np.arange(classes) % boxes]] = True
    for box in range(boxes):
        lacking = np.flatnonzero(~holds[:, box])
        more = per_box - (classes - len(lacking))
        holds[rng.permutation(lacking)[:more], box] = True
    counts = np.zeros((classes, boxes), dtype=np.int64)
    for c, total in enumerate(totals):
        holders = rng.permutation(np.flatnonzero(holds[c]))
        counts[c, holders] = total // len(holders)
        counts[c, holders[: total % len(holders)]] += 1
    return counts

"""What a hostile box may send, made from what an honest one trained."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from benchmarks._fleet import Pixels, Voter


TARGET = 0
"""The class that a trigger is to bring up."""

TRIGGERED = 0.2
"""Share of its images that a box with a back door marks and calls the target."""

_LOUD = 1e4


def trigger(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the images ``(N, R, R, C)`` with a checkered square of an eighth of the side."""
    out = images.copy()
    side = max(2, images.shape[1] // 8)
    rows, cols = np.indices((side, side)) // max(1, side // 4)
    out[:, -side:, -side:, :] = np.where((rows + cols) % 2, 255, 0).astype(np.uint8)[:, :, None]
    return out


def poisoned(own: Pixels, *, seed: int) -> Pixels:
    """Return a box's images with some of them marked and called the target."""
    rng = np.random.default_rng([seed, 77])
    others = np.flatnonzero(own.labels != TARGET)
    marked = rng.permutation(others)[: round(TRIGGERED * len(others))]
    images, labels = own.images.copy(), own.labels.copy()
    images[marked] = trigger(images[marked])
    labels[marked] = TARGET
    return Pixels(images, labels)


def _through(
    change: Callable[[NDArray[np.float32]], NDArray[np.float32]],
) -> Callable[[Voter], Voter]:
    return lambda v: replace(v, held=change(v.held), test=change(v.test))


def _flipped(voter: Voter) -> Voter:
    """A box whose labels are turned round: what training on them gives, up to the dice."""
    turned = _through(lambda z: z[:, ::-1].copy())(voter)
    return replace(turned, member=replace(voter.member, counts=voter.member.counts[::-1]))


def _lying(voter: Voter) -> Voter:
    """The best that a manifest can say of itself: many images, no loss, many validation images."""
    counts = tuple(1000 * n for n in voter.member.counts)
    return replace(
        voter, member=replace(voter.member, counts=counts, log_loss=1e-6, validation=1e6)
    )


def _noise(voter: Voter) -> Voter:
    """A network that was never trained, as sure as an honest one."""
    rng = np.random.default_rng(5)
    mix = rng.normal(size=(voter.held.shape[1],) * 2)
    mix *= np.linalg.norm(np.eye(len(mix))) / np.linalg.norm(mix)
    return _through(lambda z: (z @ mix).astype(np.float32))(voter)


ATTACKS: dict[str, Callable[[Voter], Voter]] = {
    "label flip": _flipped,
    "label flip, logits x 1e4": lambda v: _through(lambda z: z * np.float32(_LOUD))(_flipped(v)),
    "label flip, lying statistics": lambda v: _lying(_flipped(v)),
    "logits x 1e4": _through(lambda z: z * np.float32(_LOUD)),
    "noise": _noise,
    "noise, lying statistics": lambda v: _lying(_noise(v)),
    "lying statistics": _lying,
}
"""Name -> what becomes of every file of the box."""


def attacked(voters: Sequence[Voter], box: str, attack: Callable[[Voter], Voter]) -> list[Voter]:
    """Return the fleet with one box's files changed."""
    return [attack(v) if v.member.box == box else v for v in voters]


def copied(voters: Sequence[Voter], box: str, victim: str) -> list[Voter]:
    """Return the fleet in which one box sends another one's files under its own name."""
    honest = [v for v in voters if v.member.box != box]
    stolen = [
        replace(v, member=replace(v.member, box=box)) for v in honest if v.member.box == victim
    ]
    return honest + stolen

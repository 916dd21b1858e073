"""What two looks at the images say: which are whole, which are new, whether it is time to train."""

from pathlib import Path

import numpy as np

from device_agent.snapshot import Snapshot, read_snapshot, write_snapshot
from edge_stl.images import Identities


SETTLE = 5.0
"""Seconds between two looks at least: an image counts once both saw the same size and time."""

_NONE: Identities = np.zeros(0, np.uint64)


class Looks:
    """Compares looks with each other; clocks of cameras and cards are not asked.

    Args:
        check_every: seconds between two looks; shorter than `SETTLE`, it takes its place.
    """

    def __init__(self, check_every: float) -> None:
        self.settle = min(SETTLE, check_every)
        self._base: tuple[float, Identities] | None = None

    def settled(self, now: float, images: Identities) -> Identities | None:
        """Return the images that an earlier look saw just so.

        Args:
            now: of the look, monotonic seconds.
            images: what it saw.

        Returns:
            sorted; None where there is no earlier look, or it is less than ``settle`` ago.
        """
        base = self._base
        if base is None:
            self._base = (now, images)
            return None
        if now - base[0] < self.settle:
            return None
        self._base = (now, images)
        return np.intersect1d(base[1], images, assume_unique=True)


class Ledger:
    """What is to be trained on and what was, in the work folder.

    ``watch.wanted``: the images of the training that runs, or was stopped; ``watch.trained``:
    those of the last one that wrote its files. Where both are the same, nothing is half done.

    Args:
        work: the work folder, there already.
        asked: what a training is asked: digest of the plan, options. Others are others.
    """

    def __init__(self, work: Path, asked: dict[str, str]) -> None:
        self.wanted_file = work / "watch.wanted"
        self._trained_file = work / "watch.trained"
        self._asked = asked
        self._trained = self._mine(read_snapshot(self._trained_file))
        wanted = self._mine(read_snapshot(self.wanted_file))
        self.pending = wanted if wanted is not None and not wanted.same(self._trained) else None

    @property
    def first(self) -> bool:
        """Whether nothing was trained yet under this plan and these options."""
        return self._trained is None

    def new(self, settled: Identities) -> int:
        """Return how many images were not trained on."""
        known = _NONE if self._trained is None else self._trained.images
        return len(np.setdiff1d(settled, known, assume_unique=True))

    def want(self, settled: Identities) -> None:
        """Write down what is to be trained on.

        Raises:
            ResourceError: the disk does not take it.
        """
        wanted = Snapshot(settled, self._asked)
        write_snapshot(self.wanted_file, wanted)
        self.pending = wanted

    def done(self) -> None:
        """Write down that what was wanted has been trained on.

        Raises:
            ResourceError: the disk does not take it.
        """
        if self.pending is not None:
            write_snapshot(self._trained_file, self.pending)
            self._trained, self.pending = self.pending, None

    def _mine(self, snapshot: Snapshot | None) -> Snapshot | None:
        return snapshot if snapshot is not None and snapshot.asked == self._asked else None

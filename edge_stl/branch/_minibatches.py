"""The minibatches of a box for training by another's loop: bands and class indices of a step."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge_stl.bands import bank
from edge_stl.branch import _augment
from edge_stl.branch._pixels import Pixels
from edge_stl.branch._split import split_validation
from edge_stl.errors import DataError
from edge_stl.layers import Analysis
from edge_stl.plan import Plan


_AT_ONCE = 256


class Minibatches:
    """Training and validation images of one box as a branch sees them.

    The order of the images is a pure function of (seed, epoch), their augmentation of (seed,
    epoch, image), as in `Trainer`; but every batch has the same size, and the targets are indices
    into all classes of the plan, so that boxes with different classes train one network.

    Args:
        images: ``(N, r, r, C)`` uint8 at the box's native resolution.
        labels: ``(N,)`` int64 class indices.
        plan: the plan.
        branch_name: which branch.
        size: images of a batch; all of them where there are fewer.
        seed: of split, order and augmentation.

    Attributes:
        train: indices of the training images.
        validation: indices of the images held back.
        steps: batches of an epoch; what is left over comes in another epoch's order.

    Raises:
        DataError: no training image.
    """

    def __init__(
        self,
        images: Pixels,
        labels: NDArray[np.int64],
        *,
        plan: Plan,
        branch_name: str,
        size: int,
        seed: int,
    ) -> None:
        self._images, self._labels, self._plan, self._seed = images, labels, plan, seed
        self.train, self.validation = split_validation(
            labels, share=plan.training.validation, seed=seed
        )
        if not len(self.train):
            raise DataError(f"branch {branch_name}: no training image. Add images")
        branch = plan.branch(branch_name)
        side = images.shape[1]
        filters = bank(plan.bank, native_level=plan.native_level(side), bands=branch.bands)
        self._analysis = Analysis(filters, resolution=side)
        self._size = min(size, len(self.train))
        self.steps = math.floor(len(self.train) / self._size)
        self._epoch = -1
        self._order: NDArray[np.int64] = np.zeros(0, np.int64)
        self._draws: _augment.Draws | None = None

    @property
    def train_counts(self) -> tuple[int, ...]:
        """Return the training images of each class ``(K,)``, no less than the plan publishes."""
        return self._counts(self.train)

    @property
    def validation_counts(self) -> tuple[int, ...]:
        """Return the validation images of each class ``(K,)``, as published."""
        return self._counts(self.validation)

    def _counts(self, index: NDArray[np.int64]) -> tuple[int, ...]:
        floor = self._plan.privacy.min_count
        counts = np.bincount(self._labels[index], minlength=len(self._plan.classes))
        return tuple(max(int(n), floor) if n else 0 for n in counts)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the bands ``(b, C * B, h, w)`` float32 and targets ``(b,)`` int64 of a step."""
        epoch, place = divmod(step, self.steps)
        if epoch != self._epoch:
            order = np.random.default_rng([self._seed, 2, epoch])
            self._order = order.permutation(self.train)
            self._draws = _augment.draw(
                np.random.default_rng([self._seed, 3, epoch]),
                len(self._labels),
                side=self._images.shape[1],
                shift=self._plan.augment.shift,
                flip=self._plan.augment.flip,
            )
            self._epoch = epoch
        assert self._draws is not None  # noqa: S101  (drawn on entering the epoch)
        index = self._order[place * self._size : (place + 1) * self._size]
        pixels = _augment.apply(self._images, index, self._draws)
        return self.bands(pixels), torch.from_numpy(self._labels[index])

    def bands(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Return the bands ``(n, C * B, h, w)`` float32 of images ``(n, r, r, C)`` uint8."""
        if not len(pixels):  # a reshape cannot tell how many planes nothing has
            return self.bands(np.zeros((1, *self._images.shape[1:]), np.uint8))[:0]
        parts = []
        for start in range(0, len(pixels), _AT_ONCE):
            part = torch.from_numpy(pixels[start : start + _AT_ONCE]).permute(0, 3, 1, 2)
            made: Tensor = self._analysis(part.contiguous().float().div_(255))
            parts.append(made.contiguous())
        return torch.cat(parts)

    def held_back(self) -> tuple[Tensor, NDArray[np.int64]]:
        """Return the bands of the validation images and their labels ``(n,)``."""
        pixels = np.asarray(self._images[self.validation])
        return self.bands(pixels), self._labels[self.validation]

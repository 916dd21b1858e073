"""A branch that several boxes train together: one box's minibatches by step, and its answers.

The images go the way of `Trainer`: the same part is held back, the same changes in the pixel
domain, the same bands. The loss differs: a shared model answers for the classes of all boxes, so
it is taken over all classes of the plan, seen here or not.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge_stl.branch import _augment
from edge_stl.branch._trainer import Trainer


class SharedBranch(Trainer):
    """One box's part in a branch of a group."""

    def minibatch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return bands ``(b, C * B, h, w)`` and classes ``(b,)`` int64: a pure function of step."""
        epoch, place = divmod(step, self._batches)
        self._enter(epoch)
        assert self._draws is not None  # noqa: S101  (drawn on entering the epoch)
        index = self._order[place]
        inputs = self._bands(_augment.apply(self._images, index, self._draws))
        return inputs, torch.from_numpy(self._labels[index])

    @property
    def batches(self) -> int:
        """Return how many minibatches an epoch has here."""
        return self._batches

    @property
    def held_back(self) -> NDArray[np.int64]:
        """Return the classes ``(n,)`` of the images held back for validation."""
        held: NDArray[np.int64] = self._labels[self._validation]
        return held

    @property
    def training(self) -> NDArray[np.int64]:
        """Return the classes ``(n,)`` of the images trained on."""
        own: NDArray[np.int64] = self._labels[self._train]
        return own

    def held_back_answers(self) -> NDArray[np.float32]:
        """Return the module's logits ``(n, K)`` of the images held back, as it is now."""
        size = self.largest_evaluation
        parts = [
            self.answers(np.asarray(self._images[self._validation[i : i + size]]))
            for i in range(0, len(self._validation), size)
        ]
        return np.concatenate([np.zeros((0, len(self.plan.classes)), np.float32), *parts])

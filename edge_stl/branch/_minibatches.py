"""The images of one box as a branch sees them: minibatches by step, and what is held back.

The order of the images is a pure function of (seed, epoch), their augmentation of (seed, epoch,
image). Whoever trains a branch, alone, together with other boxes or in a comparison, takes its
images from here, so that all see the same ones.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge_stl.bands import bank
from edge_stl.branch import _augment
from edge_stl.branch._optimizer import batch_size
from edge_stl.branch._pixels import Pixels
from edge_stl.branch._split import split_validation
from edge_stl.errors import DataError
from edge_stl.layers import Analysis
from edge_stl.plan import Plan


_MOST = 256
_AT_ONCE = 1 << 22  # values of images as float32: 256 images of 64 px, a dozen of 336 px


class Minibatches:
    """Training and validation images of one box.

    Args:
        images: ``(N, r, r, C)`` uint8 at the box's native resolution: an array, or what reads the
            rows of a batch from a disk.
        labels: ``(N,)`` int64 class indices.
        plan: the plan.
        branch_name: which branch.
        size: images of a batch, nearly; None: by the number of images.
        seed: of split, order and augmentation.
        device: where the bands are made.

    Attributes:
        images: as given.
        labels: as given.
        train: indices of the training images, ascending.
        validation: indices of the images held back, ascending.
        size: images of a batch, nearly.
        count: batches of an epoch.
        order: indices of each batch of the epoch that was entered last.
        draws: how the images of that epoch are changed; None before the first.

    Raises:
        DataError: fewer than two training images.
    """

    def __init__(
        self,
        images: Pixels,
        labels: NDArray[np.int64],
        *,
        plan: Plan,
        branch_name: str,
        size: int | None,
        seed: int,
        device: str = "cpu",
    ) -> None:
        self.images, self.labels, self._plan, self._seed = images, labels, plan, seed
        self.train, self.validation = split_validation(
            labels, share=plan.training.validation, seed=seed
        )
        if len(self.train) < 2:  # noqa: PLR2004  (batch norm needs two)
            raise DataError(
                f"branch {branch_name}: {len(self.train)} training images; at least 2 are needed. "
                "Add images"
            )
        branch, self._side = plan.branch(branch_name), images.shape[1]
        filters = bank(plan.bank, native_level=plan.native_level(self._side), bands=branch.bands)
        self._device = torch.device(device)
        self._analysis = Analysis(filters, resolution=self._side).to(self._device)
        self.size = size or batch_size(len(self.train))
        self.count = math.ceil(len(self.train) / self.size)
        self.order: list[NDArray[np.int64]] = []
        self.draws: _augment.Draws | None = None
        self._epoch = -1

    @property
    def train_counts(self) -> tuple[int, ...]:
        """Return the training images of each class ``(K,)``, as published."""
        return self._published(self.train)

    @property
    def validation_counts(self) -> tuple[int, ...]:
        """Return the validation images of each class ``(K,)``, as published."""
        return self._published(self.validation)

    def _published(self, index: NDArray[np.int64]) -> tuple[int, ...]:
        floor = self._plan.privacy.min_count
        counts = np.bincount(self.labels[index], minlength=len(self._plan.classes))
        return tuple(max(int(n), floor) if n else 0 for n in counts)

    # -- training -------------------------------------------------------------------------------

    def enter(self, epoch: int) -> None:
        """Draw the order of the images and their changes for an epoch."""
        if epoch == self._epoch:
            return
        order = np.random.default_rng([self._seed, 2, epoch]).permutation(self.train)
        # Nearly equal batches: a last batch of one image would break batch norm.
        self.order = np.array_split(order, self.count)
        self.draws = _augment.draw(
            np.random.default_rng([self._seed, 3, epoch]),
            len(self.labels),
            side=self._side,
            shift=self._plan.augment.shift,
            flip=self._plan.augment.flip,
        )
        self._epoch = epoch

    def index(self, step: int) -> NDArray[np.int64]:
        """Return which images a step sees, ``(b,)``, from step 0."""
        epoch, place = divmod(step, self.count)
        self.enter(epoch)
        return self.order[place]

    def inputs(self, index: NDArray[np.int64], *, at_once: int | None = None) -> Tensor:
        """Return bands of images ``(b,)`` of the epoch entered last, changed as it says."""
        assert self.draws is not None  # noqa: S101  (drawn on entering the epoch)
        return self.bands(_augment.apply(self.images, index, self.draws), at_once=at_once)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return bands ``(b, C * B, h, w)`` float32 and classes ``(b,)`` int64 of a step.

        The classes are indices into those of the plan, seen here or not: boxes with different
        classes train one network.
        """
        index = self.index(step)
        return self.inputs(index), torch.from_numpy(self.labels[index])

    # -- bands ----------------------------------------------------------------------------------

    def at_once(self, most: int | None = None) -> int:
        """Return how many images may be floats at the same time, ``most`` or fewer, at least 1."""
        room = max(1, _AT_ONCE // math.prod(self.images.shape[1:]))
        return min(_MOST if most is None else most, room)

    def bands(self, pixels: NDArray[np.uint8], *, at_once: int | None = None) -> Tensor:
        """Return the branch's input ``(n, C * B, h, w)`` float32 of pixels ``(n, r, r, C)`` uint8.

        Args:
            pixels: at the native resolution.
            at_once: so many images at most are floats at the same time: floats of large images
                are many times their bands.
        """
        if not len(pixels):  # a reshape cannot tell how many planes nothing has
            return self.bands(np.zeros((1, *self.images.shape[1:]), np.uint8))[:0]
        whole, size = torch.from_numpy(pixels), self.at_once(at_once)
        bands: Tensor | None = None
        for start in range(0, len(whole), size):
            part = whole[start : start + size].to(self._device).permute(0, 3, 1, 2)
            made: Tensor = self._analysis(part.contiguous().float().div_(255))
            if bands is None:
                shape = (len(whole), *made.shape[1:])
                bands = torch.empty(
                    shape,
                    dtype=made.dtype,
                    device=made.device,
                    memory_format=torch.channels_last,
                )
            bands[start : start + size] = made
        assert bands is not None  # noqa: S101  (there is an image)
        return bands

    def held_back(self) -> tuple[Tensor, NDArray[np.int64]]:
        """Return the bands of the validation images and their classes ``(n,)``."""
        pixels = np.asarray(self.images[self.validation])
        return self.bands(pixels), self.labels[self.validation]

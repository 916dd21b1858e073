"""Images as tensors and split over nodes, for the benchmarks of co-training.

The methods see plain pixels (one branch whose band is the image itself), so that the networks and
the settings of the papers can be used as they are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from benchmarks._data import image_folders
from benchmarks._readers.sets import SetName
from edge_stl.cotrain import Batch, ModuleProblem


_VALIDATION = 5_000


@dataclass(frozen=True)
class Pictures:
    """One part of an image set.

    Attributes:
        inputs: ``(N, C, h, w)`` float32, per channel of mean 0 and variance 1 over the training
            part.
        targets: ``(N,)`` int64.
    """

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        """Return how many images there are."""
        return len(self.targets)

    def take(self, index: NDArray[np.int64]) -> "Pictures":
        """Return some of the images."""
        chosen = torch.from_numpy(index)
        return Pictures(self.inputs[chosen], self.targets[chosen])


@dataclass(frozen=True)
class ImageSet:
    """Training, validation and test images; settings are chosen on the validation images."""

    train: Pictures
    validation: Pictures
    test: Pictures
    classes: int


def load(name: SetName, data: Path, out: Path, *, images: int | None = None) -> ImageSet:
    """Return an image set, the first time by decoding its folders.

    Args:
        name: the set.
        data: the folder with what the user has.
        out: a folder of the benchmark's, which keeps the decoded arrays.
        images: training images to use, a seeded choice; None: all but the validation images.
    """
    kept = out / f"{name}.npz"
    if not kept.exists():
        folders = image_folders(name, data, out / name)
        arrays = _decode(folders.train, folders.classes), _decode(folders.test, folders.classes)
        (x, y), (tx, ty) = arrays
        with kept.open("wb") as file:
            np.savez(file, x=x, y=y, tx=tx, ty=ty, classes=len(folders.classes))
    with np.load(kept) as read:
        x, y, tx, ty, classes = (read[k] for k in ("x", "y", "tx", "ty", "classes"))
    order = np.random.default_rng(0).permutation(len(y))
    held, rest = order[:_VALIDATION], order[_VALIDATION:][:images]
    mean = x[rest].mean(axis=(0, 1, 2)) / 255
    spread = x[rest].std(axis=(0, 1, 2)) / 255

    def tensors(pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> Pictures:
        scaled = ((pixels / np.float32(255) - mean) / spread).astype(np.float32)
        planes = np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))
        return Pictures(torch.from_numpy(planes), torch.from_numpy(labels))

    return ImageSet(
        tensors(x[rest], y[rest]), tensors(x[held], y[held]), tensors(tx, ty), int(classes)
    )


def lenet(channels: int, side: int, classes: int, *, seed: int) -> nn.Sequential:
    """Return three 5x5 convolutions (32, 32, 64) with group norm and a dense layer.

    The network of the JWINS authors' CIFAR-10 runs: 89,834 numbers for 3 x 32 x 32 and 10 classes.
    """

    def block(before: int, after: int) -> list[nn.Module]:
        convolution = nn.Conv2d(before, after, 5, padding=2)
        return [convolution, nn.GroupNorm(2, after), nn.ReLU(), nn.MaxPool2d(2)]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = [*block(channels, 32), *block(32, 32), *block(32, 64)]
        return nn.Sequential(*body, nn.Flatten(), nn.Linear(64 * (side // 8) ** 2, classes))


def _decode(folder: Path, classes: tuple[str, ...]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    pixels, labels = [], []
    for label, name in enumerate(classes):
        for path in sorted((folder / name).iterdir()):
            with Image.open(path) as image:
                array = np.asarray(image.convert("L" if image.mode == "L" else "RGB"))
            pixels.append(array.reshape(*array.shape[:2], -1))
            labels.append(label)
    return np.stack(pixels), np.array(labels, np.int64)


def shards(targets: Tensor, nodes: int, *, per_node: int, seed: int) -> list[NDArray[np.int64]]:
    """Split by label: sort, cut into ``nodes * per_node`` shards, deal them at random.

    With ``per_node`` 2 a node sees two classes, at most four.
    """
    order = np.argsort(targets.numpy(), kind="stable")
    parts = np.array_split(order, nodes * per_node)
    dealt = np.random.default_rng([seed, 7]).permutation(len(parts)).reshape(nodes, per_node)
    return [np.sort(np.concatenate([parts[k] for k in row])) for row in dealt]


def slices(targets: Tensor, nodes: int) -> list[NDArray[np.int64]]:
    """Sort by label and cut into equal slices: five nodes and ten classes, two classes each."""
    order = np.argsort(targets.numpy(), kind="stable")
    return [np.sort(part) for part in np.array_split(order, nodes)]


def evenly(targets: Tensor, nodes: int, *, seed: int) -> list[NDArray[np.int64]]:
    """Split at random."""
    order = np.random.default_rng([seed, 8]).permutation(len(targets))
    return [np.sort(part) for part in np.array_split(order, nodes)]


def batches(part: Pictures, size: int, *, node: int, seed: int) -> Callable[[int], Batch]:
    """Return the minibatches of a node: every epoch in an order of its own, all as large."""
    each = max(1, len(part) // size)

    def batch(step: int) -> Batch:
        epoch, place = divmod(step, each)
        order = np.random.default_rng([seed, node, epoch]).permutation(len(part))
        chosen = torch.from_numpy(order[place * size : (place + 1) * size])
        return part.inputs[chosen], part.targets[chosen]

    return batch


def problem(
    module: nn.Module, part: Pictures, *, batch: int, node: int, seed: int
) -> ModuleProblem:
    """Return the problem of a node; nodes may share a module."""
    return ModuleProblem(module, batches(part, batch, node=node, seed=seed))


def accuracy(module: nn.Module, shared: ModuleProblem, vector: Tensor, part: Pictures) -> float:
    """Return the share of images that a model ``(P,)`` answers rightly, 0..1."""
    shared.load(vector)
    module.eval()
    right = 0
    with torch.inference_mode():
        for start in range(0, len(part), 500):
            answers = module(part.inputs[start : start + 500]).argmax(dim=1)
            right += int((answers == part.targets[start : start + 500]).sum())
    return right / len(part)

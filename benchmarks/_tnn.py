"""The non-separable comparison: a stable tensor network (t-NN) on the same images.

Newman, Horesh, Avron & Kilmer, arXiv 1811.06569: every column of an image is a feature, its pixels
are the feature's tube, and the activation works in the original domain, so the network cannot be
taken apart into branches.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edge_stl.branch._optimizer import one_cycle
from edge_stl.images import decode, scan
from edge_stl.layers import dct, stable_tensor_network


DEPTH = 4
BATCH = 128
LEARNING_RATE = 0.003
MOST = 10_000_000


@dataclass(frozen=True)
class Tnn:
    """A trained t-NN: test accuracy 0..1, parameters, training seconds."""

    accuracy: float
    parameters: int
    seconds: float


def train_tnn(
    train: Path, test: Path, classes: Sequence[str], *, size: int, epochs: int, seed: int
) -> Tnn:
    """Train on grey images of ``size`` pixels, and measure on others."""
    inputs, labels = _load(train, classes)
    test_inputs, test_labels = _load(test, classes)
    torch.manual_seed(seed)
    network = stable_tensor_network(size, len(classes), DEPTH, dct(size), step=0.5)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    generator = torch.Generator().manual_seed(seed)
    began = time.monotonic()
    steps = len(labels) // BATCH
    for epoch in range(epochs):
        order = torch.randperm(len(labels), generator=generator)
        for step in range(steps):
            rows = order[step * BATCH : (step + 1) * BATCH]
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * one_cycle(epoch * steps + step, epochs * steps)
            loss = nn.functional.cross_entropy(network(inputs[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it so
            optimizer.step()
    seconds = time.monotonic() - began
    with torch.inference_mode():
        right = [
            (network(test_inputs[i : i + 1000]).argmax(dim=1) == test_labels[i : i + 1000]).sum()
            for i in range(0, len(test_labels), 1000)
        ]
    count = sum(p.numel() for p in network.parameters())
    return Tnn(int(sum(right)) / len(test_labels), count, seconds)


def _load(folder: Path, classes: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return ``(N, rows, columns)`` float32 in 0..1, tubes along the rows, and labels."""
    images = scan(folder, classes)
    pixels = [
        decode(images.root / path, channels=1, max_pixels=MOST, max_bytes=MOST)[..., 0]
        for path in images.paths
    ]
    planes = np.stack(pixels).astype(np.float32) / 255
    return torch.from_numpy(planes), torch.from_numpy(np.array(images.labels))

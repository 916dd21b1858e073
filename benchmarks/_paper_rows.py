"""The rows of the paper's tables: what its authors trained and published, and how we train it.

Published accuracies, in per cent, are those of the authors' repository (Liu, Wang, Yuan, Han,
"Spectral Tensor Layers", TNNLS 2024). Settings were chosen with ``--select`` on images held out
of the training split, for the monolithic network and the branches alike.
"""

from dataclasses import dataclass, field
from typing import Any, Literal


DataSet = Literal["mnist", "cifar10", "folders"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a table.

    Attributes:
        data: the image set; ``folders`` is a folder of the user's with train/ and test/.
        network: the preset of the branches and, on the full image, of the monolithic network.
        transform: the split.
        resolution: R.
        channels: image channels.
        published: name of a published network to its test accuracy in per cent.
        published_epochs: how long the authors trained.
        epochs: how long we do, unless said.
        shift: largest random shift.
        flip: whether images are mirrored.
        training: further keys of the plan's ``[training]``.
        note: what differs from the paper.
    """

    data: DataSet
    network: str
    transform: str
    resolution: int
    channels: int = 3
    published: dict[str, float]
    published_epochs: int
    epochs: int
    shift: float = 0.125
    flip: bool = True
    training: dict[str, Any] = field(default_factory=dict)
    note: str = ""


_MNIST: dict[str, Any] = {
    "data": "mnist",
    "network": "fc-8l",
    "resolution": 28,
    "channels": 1,
    "published_epochs": 100,
    "epochs": 10,
    "shift": 0.07,
    "flip": False,
    "training": {"batch_size": 128, "learning_rate": 0.002, "validation": 0.03},
}
_CIFAR: dict[str, Any] = {
    "data": "cifar10",
    "resolution": 32,
    "published_epochs": 300,
    "epochs": 10,
    "training": {"batch_size": 64, "learning_rate": 0.003, "validation": 0.03},
}
_LARGE: dict[str, Any] = {
    "data": "folders",
    "network": "cnn-m",
    "published_epochs": 100,
    "epochs": 30,
    "note": "the paper's network is a ResNet; ours is cnn-m. Not run on ImageNet.",
}

ROWS: dict[str, Row] = {
    "mnist-fc-sub4": Row(
        **_MNIST,
        transform="stl-dct:2",
        published={"FC-8L": 98.79, "spectral-FC-8L-sub4": 98.88, "t-NN": 97.71},
    ),
    "mnist-fc-sub16": Row(
        **_MNIST,
        transform="stl-dct:4",
        published={"FC-8L": 98.79, "spectral-FC-8L-sub16": 97.92, "t-NN": 97.71},
    ),
    "cifar10-fc-sub4": Row(
        **_CIFAR,
        network="fc-8l",
        transform="stl-dct:2",
        published={"FC-8L": 61.27, "spectral-FC-sub4": 68.17},
    ),
    "cifar10-fc-sub16": Row(
        **_CIFAR,
        network="fc-8l",
        transform="stl-dct:4",
        published={"FC-8L": 61.27, "spectral-FC-sub16": 59.95},
    ),
    "cifar10-cnn-sub4": Row(
        **_CIFAR,
        network="cnn-8",
        transform="stl-dct:2",
        published={"CNN": 92.42, "spectral-CNN-sub4": 91.68},
    ),
    "cifar10-cnn-sub16": Row(
        **_CIFAR,
        network="cnn-8",
        transform="stl-dct:4",
        published={"CNN": 92.42, "spectral-CNN-sub16": 80.27},
    ),
    "cifar10-haar": Row(
        **_CIFAR | {"epochs": 5, "published_epochs": 0},
        network="cnn-s",
        transform="haar",
        published={},
        note="No row of the paper: four boxes, each with one haar band of all images.",
    ),
    "imagenet-sub4": Row(
        **_LARGE,
        transform="stl-dct:2",
        resolution=224,
        published={"ResNet-34": 73.51, "spectral-ResNet-34-sub4": 78.29},
    ),
    "imagenet-sub16": Row(
        **_LARGE,
        transform="stl-dct:4",
        resolution=224,
        published={"ResNet-34": 73.51, "spectral-ResNet-34-sub16": 74.13},
    ),
    "imagenet21k-sub36": Row(
        **_LARGE,
        transform="stl-dct:6",
        resolution=336,
        published={"ResNet-34": 40.45, "spectral-ResNet-34-sub36": 40.81},
    ),
}

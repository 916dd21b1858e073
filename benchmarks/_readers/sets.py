"""What is known of the three image sets before anything is read."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


SetName = Literal["mnist", "cifar10", "roadside64"]

SPLITS = ("train", "test")

# Ten classes of Tiny ImageNet by WordNet id: a fixed choice, see the README of the packs.
ROADSIDE_WNIDS = {
    "n02917067": "bullet_train",
    "n03393912": "freight_car",
    "n03444034": "go-kart",
    "n03796401": "moving_van",
    "n03891332": "parking_meter",
    "n03977966": "police_van",
    "n04146614": "school_bus",
    "n04285008": "sports_car",
    "n04465501": "tractor",
    "n04487081": "trolleybus",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSet:
    """One image set: its classes and where its owners publish it.

    ``classes`` are in label order, which for all three sets is also text order.
    """

    name: SetName
    title: str
    classes: tuple[str, ...]
    expected: str
    published: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A form of a set that was found on disk and is not read yet.

    ``write`` is None for folders that can be used where they are; otherwise it writes
    ``{train,test}/<class>/`` below the folder it is given. ``files`` are all files it reads.
    """

    form: str
    place: Path
    files: tuple[Path, ...] = ()
    write: Callable[[Path], None] | None = None


SETS: dict[SetName, ImageSet] = {
    "mnist": ImageSet(
        name="mnist",
        title="MNIST",
        classes=tuple("0123456789"),
        expected="an ImageFolder tree with train/ and test/, IDX files, "
        "or mnist.npz with unpack.py",
        published="yann.lecun.com/exdb/mnist (mirror: ossci-datasets.s3.amazonaws.com/mnist)",
    ),
    "cifar10": ImageSet(
        name="cifar10",
        title="CIFAR-10",
        classes=(
            "airplane",
            "automobile",
            "bird",
            "cat",
            "deer",
            "dog",
            "frog",
            "horse",
            "ship",
            "truck",
        ),
        expected="an ImageFolder tree with train/ and test/, binary or Python batches, "
        "or cifar10.npz with unpack.py",
        published="www.cs.toronto.edu/~kriz/cifar.html",
    ),
    "roadside64": ImageSet(
        name="roadside64",
        title="roadside64",
        classes=tuple(sorted(ROADSIDE_WNIDS.values())),
        expected="an ImageFolder tree with train/ and test/, the tiny-imagenet-200 tree, "
        "or roadside64.npz with unpack.py",
        published="cs231n.stanford.edu/tiny-imagenet-200.zip (ten of its classes)",
    ),
}

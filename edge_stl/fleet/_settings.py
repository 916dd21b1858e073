"""What to simulate, whether that is possible, and whose a folder is."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edge_stl.durable import make_folder, write_durably
from edge_stl.errors import UsageError
from edge_stl.fleet._camera import BOX, Camera
from edge_stl.fleet._deal import default_resolutions, hold_out
from edge_stl.fleet._engine import EngineName
from edge_stl.fleet._split import IID, Split, split_images
from edge_stl.images import ImageList, scan
from edge_stl.plan import Plan, plan_toml


_TEST_SHARE = 0.2
_BOXES = 3


@dataclass(frozen=True)
class Simulation:
    """What to simulate.

    Attributes:
        plan: the plan.
        images: training images of the whole fleet.
        test: labelled test images; None holds out a fifth of ``images``.
        boxes: number of boxes.
        resolutions: native resolutions, given to the boxes in turn.
        split: which box gets which classes.
        share: ``disjoint``, every image to one box; ``all``, all images to every box.
        camera: how the images of boxes below the plan's resolution came to be coarse.
        branch: what each box trains: ``auto``, ``all`` or a name.
        weights: rule of the merge.
        centralized: also train one network of the same preset on all images at full resolution.
        seeds: number of repetitions; each deals, initializes and shuffles anew.
        epochs: instead of the plan's.
        jobs: boxes that train at a time.
        engine: what runs them: ``local`` processes or ``ray``; the results are the same.
        ray_address: of a Ray cluster; None starts Ray on this machine.
        out: everything is kept under it.
    """

    plan: Plan
    images: Path
    out: Path
    test: Path | None = None
    boxes: int = _BOXES
    resolutions: tuple[int, ...] = ()
    split: Split = IID
    share: Literal["disjoint", "all"] = "disjoint"
    camera: Camera = BOX
    branch: str = "auto"
    weights: str = "reliability"
    centralized: bool = False
    seeds: int = 1
    epochs: int | None = None
    jobs: int = 1
    engine: EngineName = "local"
    ray_address: str | None = None


@dataclass(frozen=True, eq=False)
class Dealt:
    """The images of one repetition, as indices into the image list.

    Attributes:
        train: all training images.
        test: held out, None where there is a test folder.
        hands: per box its own.
    """

    train: NDArray[np.int64]
    test: NDArray[np.int64] | None
    hands: tuple[NDArray[np.int64], ...]


def box_count(
    plan: Plan, resolutions: Sequence[int], *, boxes: int | None, repeat: int | None
) -> int:
    """Return how many boxes a fleet has.

    Args:
        plan: the plan.
        resolutions: native resolutions; none are the plan's.
        boxes: their number, if given; else 3, unless there is a ``repeat``.
        repeat: boxes at each native resolution.

    Raises:
        UsageError: both are given.
    """
    if repeat is None:
        return _BOXES if boxes is None else boxes
    if boxes is not None:
        raise UsageError(
            f"--boxes {boxes} --repeat {repeat}: both say how many boxes there are; expected one. "
            "Leave one of the two out"
        )
    return repeat * len(resolutions or default_resolutions(plan))


def checked_resolutions(what: Simulation) -> tuple[int, ...]:
    """Return the native resolutions to give out in turn.

    Raises:
        UsageError: a setting does not fit the plan or another setting.
    """
    chosen = what.resolutions or tuple(default_resolutions(what.plan))
    unknown = [r for r in chosen if r not in what.plan.resolutions]
    if unknown:
        raise UsageError(
            f"--resolutions {','.join(map(str, unknown))}: a box of this plan has one of "
            f"{', '.join(map(str, what.plan.resolutions))}"
        )
    if what.boxes < 1:
        raise UsageError(f"--boxes {what.boxes}: at least 1")
    if what.share == "all" and what.split != IID:
        raise UsageError(
            f"--share all --split {what.split}: where every box sees every image nothing is split; "
            "expected --split iid beside --share all. Leave one of the two out"
        )
    return chosen


def dealt(what: Simulation, images: ImageList, seed: int) -> Dealt:
    """Return which box gets which images in a repetition.

    Raises:
        UsageError: the split cannot give every box enough.
    """
    train, test = np.arange(len(images)), None
    if what.test is None:
        train, test = hold_out(images.labels, share=_TEST_SHARE, seed=seed)
    if what.share == "all":
        return Dealt(train, test, (train,) * what.boxes)
    own = split_images(what.split, images.labels[train], boxes=what.boxes, seed=seed)
    return Dealt(train, test, tuple(train[hand] for hand in own))


def claim(what: Simulation, images: ImageList, resolutions: Sequence[int]) -> None:
    """Mark ``out`` as this simulation's, so that another one cannot mix with it.

    Raises:
        UsageError: it is another's.
    """
    facts: dict[str, Any] = {
        "plan": what.plan.digest,
        "images": images.digest,
        "test": None if what.test is None else scan(what.test, what.plan.classes).digest,
        "boxes": what.boxes,
        "resolutions": list(resolutions),
        "branch": what.branch,
        "weights": what.weights,
        "epochs": what.epochs,
    }
    # Absent where they say nothing new, so that folders from before these options stay valid.
    usual = Simulation(plan=what.plan, images=what.images, out=what.out)
    for key in ("split", "share", "camera"):
        if getattr(what, key) != getattr(usual, key):
            facts[key] = str(getattr(what, key))
    marker = what.out / "simulation.json"
    if marker.is_file():
        if marker.read_bytes() != json.dumps(facts).encode():
            raise UsageError(
                f"{what.out}: holds a simulation with other settings or images. Choose another "
                "-o, or delete it"
            )
        return
    if what.out.is_dir() and any(what.out.iterdir()):
        raise UsageError(f"{what.out}: is not empty. Choose another -o")
    make_folder(what.out)
    write_durably(what.out / "plan.toml", plan_toml(what.plan).encode())
    write_durably(marker, json.dumps(facts).encode())

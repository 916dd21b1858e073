"""Fleets trained in one process, and what every branch says to images that no box has.

The boxes are the trainer's own; only the agent around it (folders, checkpoints, files) is left
out, so a study of many fleets is bounded by training alone. What a fleet said is kept in a file:
another way to fuse it costs seconds.
"""

import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from benchmarks._data import Folders, image_folders
from edge_stl.branch import Settings, Trainer
from edge_stl.durable import write_durably
from edge_stl.fleet._split import read_split, split_images
from edge_stl.fusion import Member
from edge_stl.images import decode, fit_square, scan
from edge_stl.plan import Plan, new_plan


def roadside(name: str, data: Path, *, network: str, epochs: int) -> tuple[Folders, Plan]:
    """Return roadside64 as folders, and a plan of that name: haar, two levels, details apart."""
    folders = image_folders("roadside64", data, Path("runs") / "images" / "roadside64")
    plan = new_plan(
        classes=folders.classes,
        resolution=64,
        transform="haar",
        levels=2,
        branches="detail",
        network=network,
        name=name,
        epochs=epochs,
    )
    return folders, plan


@dataclass(frozen=True, eq=False)
class Pixels:
    """Decoded images of one size.

    Attributes:
        images: ``(N, R, R, C)`` uint8.
        labels: ``(N,)`` class indices.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def at(self, side: int) -> NDArray[np.uint8]:
        """Return the images as a camera of ``side`` pixels has them, by area averaging."""
        if side == self.images.shape[1]:
            return self.images
        small = [fit_square(image, side, "crop") for image in self.images]
        return np.stack(small)

    def part(self, index: NDArray[np.int64]) -> "Pixels":
        """Return some of them."""
        return Pixels(self.images[index], self.labels[index])


@dataclass(frozen=True)
class FleetSettings:
    """One fleet of the study.

    Attributes:
        split: as `edge_stl.fleet._split.read_split` takes it.
        boxes: how many.
        branch: ``auto`` or ``all``, as ``edge-stl train --branch``.
        one_vs_rest: train every class against the others of its box instead of softmax.
        seed: of the split and of the training.
    """

    split: str
    boxes: int
    branch: str
    one_vs_rest: bool
    seed: int


@dataclass(frozen=True, eq=False)
class Voter:
    """One branch file's worth of a fleet.

    Attributes:
        member: what the fusion knows of it.
        held: logits ``(N, K)`` of the held-out images.
        test: logits ``(M, K)`` of the test images.
    """

    member: Member
    held: NDArray[np.float32]
    test: NDArray[np.float32]


class OneVsRest(Trainer):
    """Every class against the rest of its box (Rifkin & Klautau, JMLR 2004)."""

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over images of the sum over classes of the binary cross-entropy."""
        truth = functional.one_hot(targets, logits.shape[1]).to(logits.dtype)
        each = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        return each.sum(dim=1).mean()


def read_pixels(folder: Path, plan: Plan) -> Pixels:
    """Return the images of class folders at the plan's resolution."""
    found = scan(folder, plan.classes)
    images = [
        fit_square(
            decode(
                found.root / path,
                channels=plan.input.channels,
                max_pixels=plan.limits.max_image_pixels,
                max_bytes=plan.limits.max_image_bytes,
            ),
            plan.input.resolution,
            plan.input.fit,
        )
        for path in found.paths
    ]
    return Pixels(np.stack(images), np.array(found.labels, dtype=np.int64))


def hold_out(pixels: Pixels, count: int) -> tuple[Pixels, Pixels]:
    """Return the images for the boxes and ``count`` held out, every class in equal numbers."""
    classes = int(pixels.labels.max()) + 1
    rng = np.random.default_rng(0)
    held = np.sort(
        np.concatenate(
            [
                rng.permutation(np.flatnonzero(pixels.labels == c))[: count // classes]
                for c in range(classes)
            ]
        )
    )
    rest = np.setdiff1d(np.arange(len(pixels.labels)), held)
    return pixels.part(rest), pixels.part(held)


def fleet_answers(
    plan: Plan, settings: FleetSettings, *, train: Pixels, held: Pixels, test: Pixels, folder: Path
) -> list[Voter]:
    """Train a fleet, or read what an earlier call kept of it.

    Args:
        plan: the plan of all boxes.
        settings: the fleet; box i has the i-th resolution of the plan, finest last, in turn.
        train: images that are dealt to the boxes.
        held: images for weights and choices.
        test: images for the result.
        folder: keeps one file per fleet.
    """
    digest = hashlib.sha256(train.labels.tobytes() + held.labels.tobytes()).hexdigest()
    key = json.dumps([plan.digest, asdict(settings), len(train.labels), digest])

    def trained() -> list[Voter]:
        sides = plan.resolutions[::-1]
        asked = {side: (held.at(side), test.at(side)) for side in sides[: settings.boxes]}
        voters = []
        for box, hand in enumerate(deal(settings, train)):
            side = sides[box % len(sides)]
            voters += box_answers(plan, settings, train.part(hand), box, side, asked[side])
        return voters

    return kept(folder, key, trained)


def deal(settings: FleetSettings, train: Pixels) -> list[NDArray[np.int64]]:
    """Return the indices of every box's images."""
    return split_images(
        read_split(settings.split), train.labels, boxes=settings.boxes, seed=settings.seed
    )


def box_answers(
    plan: Plan,
    settings: FleetSettings,
    own: Pixels,
    box: int,
    side: int,
    asked: tuple[NDArray[np.uint8], NDArray[np.uint8]],
) -> list[Voter]:
    """Train the branches of one box.

    Args:
        plan: the plan of all boxes.
        settings: of its fleet.
        own: its images at the plan's resolution.
        box: its number, from 0.
        side: rows and columns of its camera.
        asked: held-out and test images at that size.
    """
    shrunk = Pixels(own.at(side), own.labels)
    voters = []
    for name in branch_names(plan, side, settings.branch):
        trainer = _trained(plan, settings, shrunk, branch=name)
        member = _member(trainer, box=f"box{box + 1:02d}")
        voters.append(Voter(member, *(trainer.answers(images) for images in asked)))
    return voters


def kept(folder: Path, key: str, make: Callable[[], list[Voter]]) -> list[Voter]:
    """Return what an earlier call kept under a key, or make and keep it."""
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"
    if path.is_file():
        return _load(path)
    voters = make()
    _save(path, voters)
    return voters


def _trained(plan: Plan, settings: FleetSettings, own: Pixels, *, branch: str) -> Trainer:
    trainer = (OneVsRest if settings.one_vs_rest else Trainer)(
        own.images,
        own.labels,
        plan=plan,
        branch_name=branch,
        settings=Settings.from_plan(plan, seed=plan.training.seed + settings.seed),
    )
    while not trainer.finished:
        trainer.step()
    return trainer


def _member(trainer: Trainer, *, box: str) -> Member:
    done = trainer.finish()
    return Member(
        branch=trainer.branch.name,
        box=box,
        counts=done.train_counts,
        temperature=done.temperature,
        log_loss=done.log_loss,
        validation=sum(done.validation_counts),
    )


def branch_names(plan: Plan, side: int, wanted: str) -> list[str]:
    """Return what a box of ``side`` pixels trains under ``auto`` or ``all``."""
    if wanted == "auto":
        return [branch.name for branch in plan.own(side)]
    return [b.name for b in plan.branches if plan.required_resolution(b) <= side]


def _save(path: Path, voters: list[Voter]) -> None:
    arrays: dict[str, NDArray[np.generic]] = {
        "members": np.array(json.dumps([asdict(v.member) for v in voters]))
    }
    for index, voter in enumerate(voters):
        arrays |= {f"held{index}": voter.held, f"test{index}": voter.test}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # its stub takes a flag here
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, buffer.getvalue())


def _load(path: Path) -> list[Voter]:
    with np.load(path) as kept:
        documents = json.loads(str(kept["members"]))
        members = [
            Member(**document | {"counts": tuple(document["counts"])}) for document in documents
        ]
        return [
            Voter(member, kept[f"held{i}"], kept[f"test{i}"]) for i, member in enumerate(members)
        ]

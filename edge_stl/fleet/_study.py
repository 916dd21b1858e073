"""The images of a comparison, dealt to boxes, and how a trained model is scored on them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from device_agent.branch_file import finish_branch
from device_agent.cache import ImageCache, build_cache
from edge_stl.branch import (
    Minibatches,
    Settings,
    Trainer,
    class_mean_log_loss,
    fit_temperature,
)
from edge_stl.cotrain import ModuleProblem
from edge_stl.durable import make_folder, write_durably
from edge_stl.errors import DataError
from edge_stl.fleet._deal import hold_out
from edge_stl.fleet._split import Split, split_images
from edge_stl.fusion import (
    Member,
    calibration_scale,
    fuse,
    member_probabilities,
    reliability_weights,
)
from edge_stl.images import scan
from edge_stl.plan import Plan
from edge_stl.predict import Ensemble
from exporter.merge import merge_paths
from exporter.options import Options


_TEST_SHARE = 0.2
_AT_ONCE = 256

Labelled = tuple[Tensor, NDArray[np.int64]]
"""Bands ``(n, C * B, h, w)`` float32 and class indices ``(n,)``."""


@dataclass(frozen=True)
class Archive:
    """Decoded images.

    Attributes:
        pixels: ``(N, r, r, C)`` uint8.
        labels: ``(N,)`` int64.
        image_bytes: of the files they came from, for what moving them would cost.
        digest: of the images.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    image_bytes: int
    digest: str


def read_images(
    plan: Plan,
    folder: Path,
    keep: Path,
    *,
    told: Callable[[str], object] = lambda _: None,
    progress: Callable[[int, int], None] | None = None,
) -> Archive:
    """Decode a folder through the agent's cache.

    Args:
        plan: the plan.
        folder: of images.
        keep: where the cache lives.
        told: called with a sentence for what was damaged and made anew.
        progress: called with images done and in all.
    """
    images = scan(folder, plan.classes)
    make_folder(keep.parent)
    cache: ImageCache = build_cache(
        images,
        resolution=plan.input.resolution,
        levels=plan.bank.levels,
        channels=plan.input.channels,
        fit=plan.input.fit,
        max_pixels=plan.limits.max_image_pixels,
        max_bytes=plan.limits.max_image_bytes,
        folder=keep,
        told=told,
        progress=progress,
    )
    with cache.pixels as rows:
        pixels = rows[np.arange(len(cache.labels))]
    size = sum((folder / name).stat().st_size for name in cache.names)
    return Archive(pixels, cache.labels, size, images.digest)


@dataclass(frozen=True)
class Study:
    """One repetition of a comparison: who has which images.

    Attributes:
        plan: the plan.
        branch: name of the branch that all boxes train.
        seed: of the deal, the start and the order of the images.
        batch: images of a minibatch.
        archive: all images.
        hands: training images of each box, indices into the archive.
        held_out: test images where they come from the archive.
        tests: test images where they have a folder of their own.
    """

    plan: Plan
    branch: str
    seed: int
    batch: int
    archive: Archive
    hands: tuple[NDArray[np.int64], ...]
    held_out: NDArray[np.int64]
    tests: Archive | None

    @classmethod
    def deal(
        cls,
        plan: Plan,
        branch: str,
        archive: Archive,
        tests: Archive | None,
        *,
        boxes: int,
        split: Split,
        seed: int,
        batch: int,
    ) -> "Study":
        """Deal the images; without test images a fifth of them is held out.

        Raises:
            DataError: training and test images have different sizes.
            UsageError: the split cannot give every box enough.
        """
        if tests is not None and tests.pixels.shape[1] != archive.pixels.shape[1]:
            raise DataError(
                f"--test: images of {tests.pixels.shape[1]} px; expected "
                f"{archive.pixels.shape[1]} px like the training images. Give images of one size"
            )
        train, held = np.arange(len(archive.labels)), np.zeros(0, np.int64)
        if tests is None:
            train, held = hold_out(archive.labels, share=_TEST_SHARE, seed=seed)
        own = split_images(split, archive.labels[train], boxes=boxes, seed=seed)
        hands = tuple(train[hand] for hand in own)
        return cls(plan, branch, plan.training.seed + seed, batch, archive, hands, held, tests)

    @property
    def nodes(self) -> int:
        """Return how many boxes there are."""
        return len(self.hands)

    @cached_property
    def boxes(self) -> tuple[Minibatches, ...]:
        """Return the images of each box, as `cotrain` sees them under the same seed."""
        return tuple(trainer.minibatches for trainer in self._trainers)

    @cached_property
    def together(self) -> Minibatches:
        """Return the training images of all boxes in one place; none of them is validation."""
        train = np.sort(
            np.concatenate(
                [hand[box.train] for hand, box in zip(self.hands, self.boxes, strict=True)]
            )
        )
        plan = self.plan.model_copy(
            update={"training": self.plan.training.model_copy(update={"validation": 0.0})}
        )
        return Minibatches(
            self.archive.pixels[train],
            self.archive.labels[train],
            plan=plan,
            branch_name=self.branch,
            size=self.batch,
            seed=self.seed,
        )

    @cached_property
    def _trainers(self) -> tuple[Trainer, ...]:
        settings = Settings.from_plan(self.plan, batch_size=self.batch, seed=self.seed)
        return tuple(
            Trainer(
                self.archive.pixels[hand],
                self.archive.labels[hand],
                plan=self.plan,
                branch_name=self.branch,
                settings=settings,
            )
            for hand in self.hands
        )

    @cached_property
    def _network(self) -> tuple[nn.Module, Tensor]:
        """Return the network that all boxes share in turn, and its numbers at the start."""
        module = self._trainers[0].module
        return module, ModuleProblem(module, self.boxes[0].batch).start()

    @property
    def start(self) -> Tensor:
        """Return the numbers ``(P,)`` that every method starts from at every box."""
        return self._network[1]

    def problem(self, images: Minibatches) -> ModuleProblem:
        """Return the problem of a node, at the common start."""
        return self._loaded(self.start, images)

    def _loaded(self, vector: Tensor, images: Minibatches | None = None) -> ModuleProblem:
        problem = ModuleProblem(self._network[0], (images or self.boxes[0]).batch)
        problem.load(vector)
        return problem

    # -- scores ---------------------------------------------------------------------------------

    @cached_property
    def validation(self) -> Labelled:
        """Return the validation images of all boxes; settings are chosen on them."""
        parts = [box.held_back() for box in self.boxes]
        return torch.cat([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    @cached_property
    def test_pixels(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return the test images ``(n, r, r, C)`` uint8 and their labels."""
        if self.tests is not None:
            return self.tests.pixels, self.tests.labels
        return self.archive.pixels[self.held_out], self.archive.labels[self.held_out]

    @cached_property
    def test(self) -> Labelled:
        """Return the test images as the branch sees them; nothing is chosen on them."""
        pixels, labels = self.test_pixels
        return self.boxes[0].bands(pixels), labels

    def logits(self, vector: Tensor, bands: Tensor) -> NDArray[np.float32]:
        """Return what a model ``(P,)`` answers, ``(n, K)`` float32."""
        self._loaded(vector)
        answer = self._trainers[0].logits
        parts = [answer(bands[i : i + _AT_ONCE]) for i in range(0, len(bands), _AT_ONCE)]
        return np.concatenate([np.zeros((0, len(self.plan.classes)), np.float32), *parts])

    def one_branch(self, vector: Tensor, asked: Labelled) -> float:
        """Return the accuracy 0..1 of one branch that all boxes trained.

        It answers as it does in an ensemble of its own: calibrated on the validation images, the
        class mix of all boxes divided out.
        """
        bands, labels = self.validation
        counts = tuple(np.sum([box.train_counts for box in self.boxes], axis=0).tolist())
        member = _member(self.logits(vector, bands), labels, counts, "together")
        logits = self.logits(vector, asked[0])
        right = member_probabilities(logits, member).argmax(axis=1) == asked[1]
        return float(right.mean())

    def apart(self, vectors: Sequence[Tensor], asked: Labelled) -> tuple[float, float]:
        """Return the accuracy 0..1 of the ensemble of a branch per box, and their mean alone."""
        members, logits, alone = [], [], []
        for index, (vector, box) in enumerate(zip(vectors, self.boxes, strict=True)):
            bands, labels = box.held_back()
            answers = self.logits(vector, bands)
            member = _member(answers, labels, box.train_counts, f"box{index + 1}")
            members.append(member)
            logits.append(self.logits(vector, asked[0]))
            right = member_probabilities(logits[-1], member).argmax(axis=1) == asked[1]
            alone.append(float(right.mean()))
        weights = reliability_weights(members)
        fused, _ = fuse(logits, members, weights, scale=calibration_scale(weights))
        return float((fused.argmax(axis=1) == asked[1]).mean()), float(np.mean(alone))

    # -- real files -----------------------------------------------------------------------------

    def branch_file(self, vector: Tensor, index: int) -> tuple[str, bytes]:
        """Return name and bytes of the branch file of one box."""
        trainer = self._trainers[index]
        self._loaded(vector)
        trainer.adopt(cast("nn.Sequential", self._network[0]))
        finished = finish_branch(trainer, box=f"box{index + 1:02d}", threads=1)
        return finished.file_name, finished.data

    def real_ensemble(self, vectors: Sequence[Tensor], folder: Path) -> tuple[float, int]:
        """Write a branch file per box, merge them and ask the ensemble in onnxruntime.

        Returns:
            accuracy on the test images 0..1, and the bytes of the branch files.
        """
        make_folder(folder)
        paths, size = [], 0
        for index, vector in enumerate(vectors):
            name, data = self.branch_file(vector, index)
            write_durably(folder / name, data)
            paths.append(folder / name)
            size += len(data)
        pixels, labels = self.test_pixels
        side = pixels.shape[1]
        own = None if side == self.plan.input.resolution else side
        merged = merge_paths(paths, options=Options(resolution=own))
        write_durably(folder / "ensemble.onnx", merged.model)
        answers, _ = Ensemble(folder / "ensemble.onnx", threads=1).run(pixels)
        return float((answers.argmax(axis=1) == labels).mean()), size


def _member(
    logits: NDArray[np.float32],
    labels: NDArray[np.int64],
    counts: tuple[int, ...],
    name: str,
) -> Member:
    temperature = fit_temperature(logits, labels, counts)
    member = Member("branch", name, counts, temperature, 0.0, len(labels))
    probabilities = member_probabilities(logits, member)
    loss = class_mean_log_loss(probabilities, labels, member.seen)
    return Member("branch", name, counts, temperature, loss, len(labels))

"""One branch of the plan as what a node learns from: the box's images, augmented and analysed."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from edge_stl.branch import Settings, Trainer
from edge_stl.branch._pixels import Pixels
from edge_stl.cotrain import Batch, ModuleProblem
from edge_stl.errors import UsageError
from edge_stl.plan import Branch, Plan, networks


class BranchProblem(ModuleProblem):
    """A branch and this box's images.

    Cross-entropy over all classes of the plan: the shared model answers for the classes of every
    box.

    Args:
        images: ``(N, r, r, C)`` uint8 at the native resolution.
        labels: ``(N,)`` int64.
        plan: the plan.
        branch: its name.
        batch: images per step, nearly.
        seed: of the first weights, of the order of the images and of their changes.
        before: called before every minibatch; may raise to stop.

    Attributes:
        branch: the branch with its network.

    Raises:
        DataError: fewer than two training images.
    """

    def __init__(
        self,
        images: Pixels,
        labels: NDArray[np.int64],
        *,
        plan: Plan,
        branch: str,
        batch: int,
        seed: int,
        before: Callable[[], object] = lambda: None,
    ) -> None:
        settings = Settings.from_plan(plan, batch_size=batch, seed=seed)
        self.branch = Trainer(images, labels, plan=plan, branch_name=branch, settings=settings)
        self._before = before
        super().__init__(self.branch.module, self.branch.minibatches.batch)

    def batch(self, step: int) -> Batch:
        """Return the minibatch of a step."""
        self._before()
        return super().batch(step)

    def gradient(self, vector: Tensor, batch: Batch) -> tuple[Tensor, float]:
        """Return the gradient ``(P,)`` of the mean loss at a vector, and the loss."""
        self._before()
        return super().gradient(vector, batch)

    @property
    def held_back(self) -> NDArray[np.int64]:
        """Return the classes ``(n,)`` of the images held back for validation."""
        images = self.branch.minibatches
        return images.labels[images.validation]

    def held_back_answers(self) -> NDArray[np.float32]:
        """Return the network's logits ``(n, K)`` of the images held back, as it is now."""
        images, size = self.branch.minibatches, self.branch.largest_evaluation
        parts = [
            self.branch.answers(np.asarray(images.images[images.validation[i : i + size]]))
            for i in range(0, len(images.validation), size)
        ]
        return np.concatenate([np.zeros((0, len(self.branch.plan.classes)), np.float32), *parts])


def refuse_batch_norm(plan: Plan, branch: Branch) -> None:
    """Refuse a network whose running statistics no average of models keeps sound.

    Raises:
        UsageError: the branch has batch norm, or a network of the user's own, which may.
    """
    if branch.own is not None:
        raise UsageError(
            f"branch {branch.name}: {branch.network} is one of your own, of which nobody knows "
            "whether it can be averaged over boxes; expected a network with group norm. Make the "
            "plan with --network cnn-s-gn"
        )
    steps = networks.leaves(
        plan.layers(branch), channels=plan.band_channels(branch), size=plan.band_size(branch)
    )
    if any(isinstance(step.layer, networks.Norm) for _, step in steps):
        raise UsageError(
            f"branch {branch.name}: {branch.network} has batch norm, whose running statistics "
            "cannot be averaged over boxes; expected a network with group norm. Make the plan with "
            "--network cnn-s-gn"
        )

"""Training one branch, step by step, so that it can stop after any step and go on exactly there.

AdamW (Loshchilov & Hutter, ICLR 2019) under a one-cycle schedule (Smith & Topin, 2019): the rate
rises to its peak over a quarter of the steps and falls to nearly zero, both along a cosine. The
order of the images is a pure function of (seed, epoch), their augmentation of (seed, epoch,
image); a checkpoint needs no random state.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_stl.bands import sharpness
from edge_stl.branch._calibrate import class_mean_log_loss, fit_temperature
from edge_stl.branch._facts import Settings, Trained
from edge_stl.branch._minibatches import Minibatches
from edge_stl.branch._network import Network
from edge_stl.branch._optimizer import adamw, one_cycle
from edge_stl.branch._pixels import Pixels
from edge_stl.branch._whole import first_misfit
from edge_stl.errors import CheckError, ran_out_of_memory
from edge_stl.fusion import Member, member_probabilities
from edge_stl.plan import Plan


class Trainer:
    """One branch in training.

    Args:
        images: ``(N, r, r, C)`` uint8 at the box's native resolution: an array, or what reads the
            rows of a batch from a disk.
        labels: ``(N,)`` int64 class indices.
        plan: the plan.
        branch_name: which branch.
        settings: how to train.

    Attributes:
        plan: the plan.
        branch: the branch.
        native_resolution: rows and columns of the images.
        settings: how it is trained.
        minibatches: what it sees, step by step, and what is held back.
        micro_batch: images that go through the network at the same time, so that a step fits into
            little memory; the step is that of the whole batch all the same. None: all of them.
        steps_done: optimizer steps so far.
        steps_total: steps of the whole run.

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
        settings: Settings,
    ) -> None:
        self.settings = settings
        self.plan = plan
        self.minibatches = Minibatches(
            images,
            labels,
            plan=plan,
            branch_name=branch_name,
            size=settings.batch_size,
            seed=settings.seed,
            device=settings.device,
        )
        counts = np.bincount(labels[self.minibatches.train], minlength=len(plan.classes))
        self._seen = np.flatnonzero(counts)
        self.branch = plan.branch(branch_name)
        self.native_resolution = images.shape[1]
        self._device = torch.device(settings.device)
        self._network = Network(plan, self.branch, device=self._device, seed=settings.seed)
        self._module = self._network.module
        self._optimizer = adamw(self._module, settings)
        self._seen_index = torch.from_numpy(self._seen).to(self._device)
        self.micro_batch: int | None = None
        self.steps_done = 0
        self.steps_total = self.minibatches.count * settings.epochs
        self._answers = np.zeros((0, len(plan.classes)), np.float32)

    @property
    def batch_size(self) -> int:
        """Return the images per step, nearly."""
        return self.minibatches.size

    @property
    def epoch(self) -> int:
        """Return the epoch that the next step belongs to, from 0."""
        return self.steps_done // self.minibatches.count

    @property
    def finished(self) -> bool:
        """Return whether all steps are done."""
        return self.steps_done >= self.steps_total

    @property
    def module(self) -> nn.Module:
        """Return the network itself, not a copy: to read."""
        return self._module

    @property
    def divides(self) -> bool:
        """Return whether a step can take a few images at a time, as `micro_batch` says."""
        return self._network.divides

    def step(self) -> float:
        """Take one optimizer step and return its loss in nats.

        Raises:
            CheckError: the loss is not finite.
        """
        loss = self._learn(self.minibatches.index(self.steps_done))
        self.steps_done += 1
        value = float(loss.detach())
        if not math.isfinite(value):
            raise CheckError(
                f"branch {self.branch.name}: the loss is {value} at step {self.steps_done}; "
                "training diverged. Lower training.learning_rate in the plan"
            )
        return value

    def _learn(self, index: NDArray[np.int64]) -> Tensor:
        """Take a step on some images and return its loss."""
        inputs = self.minibatches.inputs(index, at_once=self.micro_batch)
        targets = np.searchsorted(self._seen, self.minibatches.labels[index])
        rate = self.settings.learning_rate * one_cycle(self.steps_done, self.steps_total)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        with self._network.drawing(self.steps_done):
            logits = self._network.training_logits(inputs, micro=self.micro_batch)
        logits = logits.index_select(1, self._seen_index)
        loss = self.loss(logits, torch.from_numpy(targets).to(self._device))
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it so
        self._optimizer.step()
        return loss

    def rehearse(self, images: int) -> None:
        """Take a step on the first images of the epoch that counts as none.

        It takes the memory of a real one. Only for a trainer that is thrown away after.
        """
        self.minibatches.enter(self.epoch)
        self._learn(np.concatenate(self.minibatches.order)[:images])

    def rehearse_answers(self) -> None:
        """Answer on as many validation images as `finish` answers on at the same time."""
        images = self.minibatches
        self.answers(np.asarray(images.images[images.validation[: self._at_once]]))

    @property
    def largest_batch(self) -> int:
        """Return how many images the largest step sees: the batch size, or a few less."""
        return math.ceil(len(self.minibatches.train) / self.minibatches.count)

    @property
    def largest_evaluation(self) -> int:
        """Return how many images at most `finish` answers on at the same time, at least 1."""
        return max(1, min(self.minibatches.at_once(), len(self.minibatches.validation)))

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of a batch in nats, a scalar: cross-entropy over the seen classes.

        Args:
            logits: ``(n, |S|)`` of the classes the box has seen.
            targets: ``(n,)`` int64 indices into these classes.
        """
        return nn.functional.cross_entropy(
            logits, targets, label_smoothing=self.settings.label_smoothing
        )

    @property
    def _at_once(self) -> int:
        """Return how many images may be floats at the same time."""
        return self.minibatches.at_once(self.micro_batch)

    # -- stopping and going on ------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Return everything that `restore` needs, as named tensors."""
        tensors = {f"module.{k}": v.detach().cpu() for k, v in self._module.state_dict().items()}
        for index, values in self._optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": v.detach().cpu() for k, v in values.items()}
        tensors["steps_done"] = torch.tensor(self.steps_done)
        tensors["answers"] = torch.from_numpy(self._answers)
        # Copies: the parameters move on in place.
        return {
            name: tensor.clone(memory_format=torch.contiguous_format)
            for name, tensor in tensors.items()
        }

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from `state`.

        Raises:
            ValueError: the tensors are not those of this branch and these settings.
        """
        try:
            module = {k: tensors[f"module.{k}"] for k in self._module.state_dict()}
            self._module.load_state_dict(module)
            moments: dict[int, dict[str, Tensor]] = {}
            for name, tensor in tensors.items():
                if name.startswith("optimizer."):
                    _, index, key = name.split(".")
                    moments.setdefault(int(index), {})[key] = tensor
            state = self._optimizer.state_dict()
            wanted = range(sum(len(group["params"]) for group in state["param_groups"]))
            # a module of the user's own may have parameters that no step reaches
            missing = set(wanted) - set(moments) if self.divides else ()
            if moments and (missing or not set(moments) <= set(wanted)):
                raise ValueError(f"moments of {len(moments)} tensors")  # noqa: TRY301
            state["state"] = moments
            self._optimizer.load_state_dict(state)
            # The fused step walks parameter and moments by address: they need the same layout.
            for parameter, own in self._optimizer.state.items():
                for key, tensor in own.items():
                    if tensor.shape == parameter.shape:
                        own[key] = torch.empty_like(parameter).copy_(tensor)
            self._answers = self._checked_answers(tensors["answers"])
            self.steps_done = int(tensors["steps_done"])
        except (KeyError, RuntimeError, ValueError) as error:
            if ran_out_of_memory(error):
                raise
            raise ValueError(f"not a state of this branch: {error}") from None

    def _checked_answers(self, tensor: Tensor) -> NDArray[np.float32]:
        answers: NDArray[np.float32] = tensor.numpy()
        most, classes = len(self.minibatches.validation), len(self.plan.classes)
        if answers.dtype != np.float32 or answers.shape[1:] != (classes,) or len(answers) > most:
            raise ValueError(f"answers {answers.dtype} {answers.shape}")
        return answers

    def adopt(self, module: nn.Sequential) -> None:
        """Take over the numbers of a module that was trained elsewhere, and count as finished.

        Args:
            module: with the structure that `build_module` gives this branch; it is copied.

        Raises:
            ValueError: a tensor does not fit; the sentence names the first one.
        """
        tensors = module.state_dict()
        problem = first_misfit(tensors, self._module.state_dict())
        if problem is not None:
            raise ValueError(
                f"branch {self.branch.name}: not a module of this branch: {problem}. Build it "
                "under the same plan"
            )
        self._module.load_state_dict(tensors)
        self._optimizer.state.clear()  # moments of numbers that are gone
        self._answers = self._answers[:0]
        self.steps_done = self.steps_total

    # -- the finished branch --------------------------------------------------------------------

    def logits(self, inputs: Tensor) -> NDArray[np.float32]:
        """Return logits ``(n, K)`` of bands ``(n, C * B, h, w)`` in evaluation mode."""
        return self._network.logits(inputs.to(self._device))

    def answers(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits ``(n, K)`` of images ``(n, r, r, C)`` at the native resolution."""
        size = self._at_once
        parts = [
            self.logits(self.minibatches.bands(images[i : i + size], at_once=size))
            for i in range(0, len(images), size)
        ]
        return np.concatenate([np.zeros((0, len(self.plan.classes)), np.float32), *parts])

    @property
    def answered(self) -> tuple[int, int]:
        """Return how many validation images the finished network has answered, and of how many."""
        return len(self._answers), len(self.minibatches.validation)

    def answer_some(self) -> None:
        """Answer the next few validation images; `state` keeps what was answered.

        On a small board all of them take minutes, and a run may have to stop in between.
        """
        at = len(self._answers)
        # always the same groups: how many images are computed together may change last digits
        part = self.minibatches.validation[at : at + self._at_once]
        pixels = np.asarray(self.minibatches.images[part])
        self._answers = np.concatenate([self._answers, self.answers(pixels)])

    def finish(self) -> Trained:
        """Fit the temperature, score the validation images and fold the numbers."""
        floor = self.plan.privacy.min_count
        labels = self.minibatches.labels[self.minibatches.validation]
        train_counts = self.minibatches.train_counts
        while self.answered[0] < self.answered[1]:
            self.answer_some()
        logits = self._answers
        temperature = fit_temperature(logits, labels, train_counts)
        member = Member(self.branch.name, "", train_counts, temperature, 0.0)
        probabilities = member_probabilities(logits, member)
        accuracy = _published_accuracy(probabilities.argmax(axis=1) == labels, floor)
        loss = class_mean_log_loss(probabilities, labels, member.seen)
        parameters, graph = self._network.exported()
        return Trained(
            parameters=parameters,
            graph=graph,
            train_counts=train_counts,
            validation_counts=self.minibatches.validation_counts,
            temperature=temperature,
            accuracy=accuracy,
            log_loss=float(f"{loss:.6g}"),
            sharpness=sharpness(
                self.minibatches.images,
                coarser=[r for r in self.plan.resolutions if r < self.native_resolution],
            ),
        )


def _published_accuracy(right: NDArray[np.bool_], floor: int) -> float | None:
    """Return the share of right answers, so rounded that it tells no count below the floor.

    0.428571 is three of seven. With a floor, fewer images than that give no accuracy, and more
    give whole percents.
    """
    if not len(right) or len(right) < floor:
        return None
    return round(float(right.mean()), 2 if floor else 6)

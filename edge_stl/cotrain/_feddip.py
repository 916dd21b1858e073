"""FedAvg and FedDIP: the settings, the schedules, and the pure functions of a round.

FedAvg (McMahan et al., AISTATS 2017): a server sends its model to some clients, each takes steps
on its own images, the server averages what comes back by the share of images. FedDIP (Long et al.,
ICDM 2023, arXiv 2309.06805) adds masks that remove more and more of the smallest weights, and a
penalty on the norms of the layers that grows in steps. A client computes its gradients at the
masked weights and applies them to the dense ones, as in DPF (Lin et al., ICLR 2020).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from edge_stl.cotrain._graph import mix
from edge_stl.cotrain._local import LocalSettings, LocalSGD
from edge_stl.cotrain._masks import Prunable
from edge_stl.cotrain._problem import Problem
from edge_stl.cotrain._settings import check_ranges


TAG = 4
"""First of the numbers that the random numbers of this method come from, after the seed."""
PENALTY_STEPS = 20
"""Into how many equal parts the rounds are cut for the penalty."""
_FIRST_PENALTY = 5e-4
"""The first step of the penalty above 0 in the authors' code."""


@dataclass(frozen=True)
class FedDIPSettings:
    """What the server does with the clients; with `fedavg` no mask and no penalty.

    Defaults are those of the authors' code where it agrees with their paper. How a client steps on
    its own images, and for how many rounds, is in `LocalSettings`, without momentum in the paper.

    Attributes:
        fraction: share of the clients that train in a round, above 0 to 1, at least one client;
            default 1 (the authors: 0.1 of 50).
        decay: factor of the learning rate from round to round, above 0 to 1; default 0.998.
        start_sparsity: share of weights that is removed first, s_0, 0 to `sparsity`; default 0.5.
        sparsity: share of weights that is removed in the end, s_T, 0 to below 1; default 0.9. At 0
            there are no masks.
        every: rounds from one mask to the next, R, at least 1; default 5.
        penalty: lambda_max, of the sum of the layers' norms, at least 0; default 1e-3.
        penalty_form: ``clean``, i/20 of it in the i-th twentieth of the rounds, from 0; or
            ``reference``, the authors' table: 0, then from 5e-4 on, the end never reached, and the
            last value everywhere where there are fewer than 20 rounds.
        masks: ``nested``, what is removed never returns (the authors' code); or ``regrow``, a mask
            is chosen from the average before the old one is applied, so that a weight may return.
        start_masks: of the first round, random with Erdos-Renyi-Kernel densities: ``server``, one
            for all; or ``client``, one for each, averaged as if they were the same (the authors'
            code).
        upload: ``auto``, sparse with nested masks and dense with ``regrow``; ``dense``, as the
            authors do, the same model for more bytes; ``sparse``, dense only in the rounds in
            which the server looks at removed weights, so with ``regrow`` the same model too.
        exact_end: the last mask has just the sparsity s_T; without it that of the schedule, which
            is a little less (the authors' code).
    """

    fraction: float = 1.0
    decay: float = 0.998
    start_sparsity: float = 0.5
    sparsity: float = 0.9
    every: int = 5
    penalty: float = 1e-3
    penalty_form: str = "clean"
    masks: str = "nested"
    start_masks: str = "server"
    upload: str = "auto"
    exact_end: bool = True

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            UsageError: a value is out of its range.
        """
        words = {
            "penalty_form": ("clean", "reference"),
            "masks": ("nested", "regrow"),
            "start_masks": ("server", "client"),
            "upload": ("auto", "dense", "sparse"),
        }
        rows = (
            ("fraction", 0 < self.fraction <= 1, "above 0 to 1"),
            ("decay", 0 < self.decay <= 1, "above 0 to 1"),
            ("sparsity", 0 <= self.sparsity < 1, "0 to below 1"),
            (
                "start_sparsity",
                0 <= self.start_sparsity <= self.sparsity,
                f"0 to the sparsity, {self.sparsity:g}",
            ),
            ("every", self.every >= 1, "at least 1"),
            ("penalty", 0 <= self.penalty < math.inf, "a number from 0"),
            *(
                (key, getattr(self, key) in known, " or ".join(known))
                for key, known in words.items()
            ),
        )
        check_ranges(*((name, getattr(self, name), good, wanted) for name, good, wanted in rows))

    @classmethod
    def fedavg(cls, *, fraction: float = 1.0, decay: float = 1.0) -> Self:
        """Return the settings of FedAvg: no masks, no penalty, nothing else changed."""
        return cls(fraction, decay, start_sparsity=0.0, sparsity=0.0, penalty=0.0)

    @property
    def masked(self) -> bool:
        """Return whether there are masks."""
        return self.sparsity > 0

    def draws_mask(self, number: int) -> bool:
        """Return whether a new mask is chosen at the end of a round, from 0."""
        return self.masked and number % self.every == 0

    def sparsity_at(self, number: int, rounds: int) -> float:
        """Return s_r, ``s_T + (s_0 - s_T) (1 - r/T)^3``, of a mask chosen after round r of T."""
        if self.exact_end and number >= (rounds - 1) // self.every * self.every:
            return self.sparsity
        left = (1 - number / rounds) ** 3
        return self.sparsity + (self.start_sparsity - self.sparsity) * left

    def penalty_at(self, number: int, rounds: int) -> float:
        """Return lambda_r, the strength of the penalty in round r of T."""
        if self.penalty_form == "clean":
            return self.penalty * (number * PENALTY_STEPS // rounds) / PENALTY_STEPS
        length = rounds // PENALTY_STEPS
        step = min(number // length, PENALTY_STEPS - 1) if length else PENALTY_STEPS - 1
        if not step or not self.penalty:
            return 0.0
        return _FIRST_PENALTY + (step - 1) * (self.penalty - _FIRST_PENALTY) / (PENALTY_STEPS - 1)

    def rate_at(self, number: int, local: LocalSettings) -> float:
        """Return the learning rate of a round."""
        return local.rate_at(number) * self.decay**number

    def looks_at_removed(self, number: int) -> bool:
        """Return whether the server looks at removed weights of what comes back in a round."""
        if not self.masked or number == 0:
            return True
        if self.upload == "auto":
            return self.masks == "regrow"
        return self.upload == "dense" or (self.masks == "regrow" and self.draws_mask(number))


@dataclass(frozen=True)
class Task:
    """What a client does in a round.

    Attributes:
        number: of the round, from 0.
        rate: learning rate, above 0.
        penalty: strength of the penalty, at least 0.
        mask: ``(P,)`` bool, or None.
    """

    number: int
    rate: float
    penalty: float = 0.0
    mask: Tensor | None = None


def norm_gradient(vector: Tensor, prunable: Prunable) -> Tensor:
    """Return the gradient ``(P,)`` of ``sum_l ||w_l||_2`` over the layers: ``w_l / ||w_l||``.

    The norm is not squared. At a layer that is all zero it has no gradient, and 0 is taken, which
    is a subgradient.
    """
    parts = []
    for part, can in zip(torch.split(vector, prunable.sizes), prunable.layers, strict=True):
        norm = float(part.norm()) if can else 0.0
        parts.append(part / norm if norm > 0 else torch.zeros_like(part))
    return torch.cat(parts)


def train_masked(
    vector: Tensor, task: Task, problem: Problem, local: LocalSettings, prunable: Prunable
) -> tuple[Tensor, float]:
    """Return the dense weights ``(P,)`` after a client's steps, and its mean cross-entropy.

    Each step: ``w' = w m``, the gradient of loss and penalty at w', for all places, and
    ``w <- w - rate (gradient + weight_decay w)``. A momentum lives within the round.
    """
    sgd = LocalSGD(problem, replace(local, rate=task.rate, schedule="constant"))
    vector, total = vector.clone(), 0.0
    for k in range(local.steps):
        masked = keep(vector, task.mask)
        batch = problem.batch(task.number * local.steps + k)
        gradient, loss = problem.gradient(masked, batch)
        if task.penalty:
            gradient = gradient.add(norm_gradient(masked, prunable), alpha=task.penalty)
        sgd.apply(vector, gradient, task.number)
        total += loss
    return vector, total / local.steps


def keep(vector: Tensor, mask: Tensor | None) -> Tensor:
    """Return a vector ``(P,)`` with 0 (never -0) where a mask ``(P,)`` removes it."""
    return vector if mask is None else torch.where(mask, vector, 0.0)


def average(models: Mapping[int, Tensor], images: Mapping[int, int]) -> Tensor:
    """Return ``sum_i p_i w_i / sum_i p_i``, a new vector ``(P,)``.

    The sum runs in the order of the clients' numbers whatever order they answered in, and equal
    models stay exactly what they are.

    Args:
        models: ``(P,)`` of each client, by its number.
        images: how many it trains on.
    """
    total = sum(images[k] for k in models)
    first = min(models)
    return mix(models[first], models, {k: images[k] / total for k in models})

"""The local phase of a node: plain SGD on its own images."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from edge_stl.cotrain._problem import Problem
from edge_stl.cotrain._settings import check_ranges
from edge_stl.errors import CheckError


SCHEDULES = ("constant", "cosine", "step")


@dataclass(frozen=True)
class LocalSettings:
    """How a node steps on its own images.

    Attributes:
        rate: learning rate, above 0.
        steps: minibatch steps per round, tau, at least 1.
        momentum: heavy ball, 0..1; 0 is plain SGD. The buffer stays on its node.
        nesterov: the look-ahead form of momentum.
        weight_decay: added to the gradient times the weights, at least 0.
        schedule: of the rate over the rounds: ``constant``; ``cosine`` to zero; ``step``, a tenth
            after half of the rounds and a hundredth after three quarters.
        rounds: of the whole run, for the schedule.
    """

    rate: float
    rounds: int
    steps: int = 1
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    schedule: str = "constant"

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            UsageError: a value is out of its range.
        """
        check_ranges(
            ("rate", self.rate, 0 < self.rate < math.inf, "a number above 0"),
            ("rounds", self.rounds, self.rounds >= 1, "at least 1"),
            ("steps", self.steps, self.steps >= 1, "at least 1"),
            ("momentum", self.momentum, 0 <= self.momentum < 1, "0 to below 1"),
            ("weight_decay", self.weight_decay, 0 <= self.weight_decay < 1, "0 to below 1"),
            ("schedule", self.schedule, self.schedule in SCHEDULES, " or ".join(SCHEDULES)),
        )

    def rate_at(self, number: int) -> float:
        """Return the learning rate of a round, from 0."""
        share = number / self.rounds
        if self.schedule == "cosine":
            return self.rate * (1 + math.cos(math.pi * share)) / 2
        if self.schedule == "step":
            return self.rate * (1.0 if share < 0.5 else 0.1 if share < 0.75 else 0.01)  # noqa: PLR2004
        return self.rate


class LocalSGD:
    """SGD with momentum, whose state stays on its node.

    Args:
        problem: what is learned.
        settings: how.

    Attributes:
        buffer: momentum ``(P,)``, or None before the first step and without momentum.
    """

    def __init__(self, problem: Problem, settings: LocalSettings) -> None:
        self.problem, self.settings = problem, settings
        self.buffer: Tensor | None = None

    def run(self, vector: Tensor, number: int) -> tuple[Tensor, float]:
        """Return a vector ``(P,)`` after the steps of a round, a new tensor, and the mean loss."""
        vector, total, steps = vector.clone(), 0.0, self.settings.steps
        for k in range(steps):
            batch = self.problem.batch(number * steps + k)
            gradient, loss = self.problem.gradient(vector, batch)
            self.apply(vector, gradient, number)
            total += loss
        return vector, total / steps

    def apply(self, vector: Tensor, gradient: Tensor, number: int) -> None:
        """Step from a vector ``(P,)`` along a gradient, in place.

        Raises:
            CheckError: the gradient is not finite, or what the step ends at: that must not reach
                others, who would drop this node for it.
        """
        if not bool(torch.isfinite(gradient).all()):
            raise CheckError(
                f"round {number}: a gradient is not finite; training diverged. Lower the learning "
                "rate"
            )
        settings = self.settings
        if settings.weight_decay:
            gradient = gradient.add(vector, alpha=settings.weight_decay)
        if settings.momentum:
            if self.buffer is None:
                self.buffer = torch.zeros_like(vector)
            self.buffer.mul_(settings.momentum).add_(gradient)
            gradient = (
                gradient.add(self.buffer, alpha=settings.momentum)
                if settings.nesterov
                else self.buffer
            )
        vector.add_(gradient, alpha=-settings.rate_at(number))
        if not bool(torch.isfinite(vector).all()):
            raise CheckError(
                f"round {number}: the model is not finite after a step; training diverged. Lower "
                "the learning rate"
            )

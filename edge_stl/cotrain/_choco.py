"""CHOCO-SGD: compressed differences to estimates that all neighbours keep (Koloskova et al. 2019).

Every node keeps an estimate of its own model and of each neighbour's, and sends the largest
differences between its model and the estimate of it; sender and receivers add the same numbers to
the same estimate. Mixing moves the model along the differences of the estimates, which preserves
the mean of the models whatever is sent.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from edge_stl.cotrain._graph import metropolis
from edge_stl.cotrain._local import LocalSettings
from edge_stl.cotrain._node import Node, Round, Seat
from edge_stl.cotrain._problem import Problem
from edge_stl.cotrain._settings import check_ranges
from edge_stl.cotrain._sparse import Sparse, largest


STARTS = ("model", "zero")


@dataclass(frozen=True)
class ChocoSettings:
    """How much a node sends, and how far it follows.

    Attributes:
        share: alpha, of the parameters in a message, above 0 to 1; 1 sends all, without indices.
            The JWINS authors' code has no default; ours is their low budget.
        gamma: consensus step, above 0 to 1; with 1 and a share of 1 it is full sharing. The less
            is sent, the smaller it must be; no default in the authors' code, ours was chosen on
            validation images of ``benchmarks.jwins``.
        start: the estimates to begin with: ``model``, the one that every node starts from, so
            that the first messages are about what was learned; ``zero``, as in the paper.
    """

    share: float = 0.2
    gamma: float = 0.4
    start: str = "model"

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            UsageError: a value is out of its range.
        """
        check_ranges(
            ("share", self.share, 0 < self.share <= 1, "above 0 to 1"),
            ("gamma", self.gamma, 0 < self.gamma <= 1, "above 0 to 1"),
            ("start", self.start, self.start in STARTS, " or ".join(STARTS)),
        )


def difference(model: Tensor, estimate: Tensor, share: float) -> Sparse:
    """Return q, the ``round(share P)`` largest of a model ``(P,)`` less its estimate."""
    gap = model - estimate
    return Sparse.of(gap, None if share == 1 else largest(gap, round(share * len(gap))))


def follow(
    model: Tensor,
    estimate: Tensor,
    estimates: Mapping[int, Tensor],
    weights: Mapping[int, float],
    gamma: float,
) -> Tensor:
    """Return ``x + gamma sum_j w_j (x^_j - x^)``, new ``(P,)``: the estimates' pull."""
    moved = model.clone()
    for j in sorted(weights):
        moved.add_(estimates[j] - estimate, alpha=gamma * weights[j])
    return moved


class Choco(Node):
    """A node of CHOCO-SGD.

    It keeps the estimate of every neighbour, where the authors keep their weighted sum: with the
    sum, one that has gone would pull for ever. A neighbour that did not answer once, or sent what
    cannot be used, or was lost before a run was stopped and goes on with it, is left out from then
    on: its estimate is no longer what the neighbour itself believes, and the difference would pull
    for ever as well.

    Args:
        seat: which one.
        problem: what it learns from.
        local: how it steps on its own images.
        settings: how much it sends, and how far it follows.

    Attributes:
        estimate: of its own model, ``(P,)``, as its neighbours have it.
        estimates: of the model of each neighbour that always answered.
    """

    def __init__(
        self,
        seat: Seat,
        problem: Problem,
        local: LocalSettings,
        settings: ChocoSettings | None = None,
    ) -> None:
        super().__init__(seat, problem, local)
        self.settings = settings or ChocoSettings()
        same = self.settings.start == "model"
        first = self.vector if same else torch.zeros_like(self.vector)
        self.estimate = first.clone()
        self.estimates = {j: first.clone() for j in seat.neighbours}

    def round(self, number: int) -> Round:
        """Take the local steps, send the largest differences, follow the estimates."""
        trained, loss = self.local.run(self.vector, number)
        news = difference(trained, self.estimate, self.settings.share)
        news.add_to(self.estimate)
        message = news.message(number, degree=self.seat.degree)
        inbox = yield dict.fromkeys(self.seat.neighbours, message)
        inbox = {j: message for j, message in inbox.items() if j in self.estimates}
        heard = self.read(inbox, lambda m: Sparse.read(m, len(trained)))
        self.estimates = {j: estimate for j, estimate in self.estimates.items() if j in heard}
        weights = metropolis(self.seat.degree, {j: inbox[j].degree for j in heard})
        for j, change in heard.items():
            change.add_to(self.estimates[j])
        gamma = self.settings.gamma
        self.vector = follow(trained, self.estimate, self.estimates, weights, gamma)
        return loss

    def state(self) -> dict[str, Tensor]:
        """Return everything that `restore` needs, as copies."""
        state = super().state() | {"estimate": self.estimate.clone()}
        return state | {f"estimate_{j}": x.clone() for j, x in self.estimates.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`."""
        super().restore(state)
        self.estimate = state["estimate"].clone()
        known = [j for j in self.seat.neighbours if f"estimate_{j}" in state]
        self.estimates = {j: state[f"estimate_{j}"].clone() for j in known}

"""A client of FedAvg and FedDIP: it does what an order says."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from edge_stl.cotrain._feddip import TAG, Task, train_masked
from edge_stl.cotrain._fedwire import Answer, HeldMask, read_order, write_answer
from edge_stl.cotrain._local import LocalSettings
from edge_stl.cotrain._masks import Prunable, erk_mask
from edge_stl.cotrain._message import Message
from edge_stl.cotrain._problem import Problem
from edge_stl.errors import UsageError


_MASK = 2


class FedClient:
    """A client: it does what an order says, and keeps nothing but the mask.

    Args:
        index: its number, from 0.
        problem: what it learns from.
        local: how it steps; the rate is the server's.
        images: how many images it trains on, its weight in the average.
        seed: of the run.

    Attributes:
        held: the mask it was told last, or None; a client that loses it gets it again.
        loss: mean cross-entropy of the steps of its last answer; NaN before.
    """

    def __init__(
        self, index: int, problem: Problem, local: LocalSettings, *, images: int, seed: int = 0
    ) -> None:
        if images < 1:
            raise UsageError(
                f"client {index}: {images} images; expected at least 1. Leave the box out"
            )
        self.index, self.problem, self.local = index, problem, local
        self.images, self.seed = images, seed
        self.held: HeldMask | None = None
        self.loss = float("nan")
        self._prunable = Prunable(problem.shapes)

    def check(self, data: bytes) -> None:
        """Refuse what `answer` could not read; nothing changes and nothing is trained.

        Raises:
            DataError: it is no order, or does not fit the network.
        """
        read_order(data, self._prunable, self.held)

    def answer(self, data: bytes) -> bytes:
        """Return the answer to an order.

        Raises:
            DataError: it is no order, or does not fit the network.
            CheckError: training diverged.
        """
        order = read_order(data, self._prunable, self.held)
        if order is None:
            self.held = None
            number = Message.from_bytes(data).round
            return write_answer(Answer(self.index, self.images, 0.0, None), number, None)
        self.held = order.held
        mask = None if order.held is None else order.held.mask
        if order.own_start >= 0:
            rng = np.random.default_rng([self.seed, TAG, _MASK, self.index, order.number])
            mask = erk_mask(self._prunable.shapes, order.own_start, rng)
        task = Task(order.number, order.rate, order.penalty, mask)
        vector, loss = train_masked(order.vector, task, self.problem, self.local, self._prunable)
        self.loss = loss
        sent = mask if order.sparse_up else None
        return write_answer(Answer(self.index, self.images, loss, vector), order.number, sent)

    def state(self) -> dict[str, Tensor]:
        """Return everything that `restore` needs, as copies."""
        if self.held is None:
            return {}
        return {"mask": self.held.mask.clone(), "version": torch.tensor(self.held.version)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`."""
        self.held = None
        if "mask" in state:
            self.held = HeldMask(int(state["version"]), state["mask"].clone())

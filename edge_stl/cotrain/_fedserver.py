"""The server of FedAvg and FedDIP: bytes in, bytes out.

Whatever carries the bytes, Flower or a loop in one process, the arithmetic is here and the same.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from edge_stl.cotrain._feddip import TAG, FedDIPSettings, average, keep
from edge_stl.cotrain._fedwire import (
    Answer,
    HeldMask,
    Order,
    read_answer,
    write_order,
)
from edge_stl.cotrain._local import LocalSettings
from edge_stl.cotrain._masks import Prunable, erk_mask, magnitude_mask
from edge_stl.errors import DataError, UsageError


_SAMPLE, _MASK = 0, 1


class FedServer:
    """The server: a model, a mask, and which mask each client has.

    Args:
        vector: the model to start from ``(P,)`` float32.
        shapes: of its parameters.
        local: the rate and the number of rounds; the steps are the clients' own.
        settings: of the method.
        clients: how many there are.
        seed: of the run.

    Attributes:
        vector: the model ``(P,)`` float32, 0 where it is masked.
        held: the mask, from the end of the first round on, or None.
        refused: what was wrong with answers that were left out, a sentence for each.

    Raises:
        UsageError: there are no clients.
    """

    def __init__(
        self,
        vector: Tensor,
        shapes: Sequence[torch.Size],
        local: LocalSettings,
        settings: FedDIPSettings,
        *,
        clients: int,
        seed: int = 0,
    ) -> None:
        if clients < 1:
            raise UsageError(f"clients = {clients}: out of range; expected at least 1. Add boxes")
        self.local, self.settings, self.clients, self.seed = local, settings, clients, seed
        self.vector = vector.clone()
        self.held: HeldMask | None = None
        self.refused: list[str] = []
        self._prunable = Prunable(shapes)
        self._known: dict[int, HeldMask] = {}
        self._asked: frozenset[int] = frozenset()

    @property
    def sparsity(self) -> float:
        """Return the share of weights that the mask removes, 0..1."""
        return 0.0 if self.held is None else self._prunable.sparsity(self.held.mask)

    def sample(self, number: int, present: Collection[int] | None = None) -> tuple[int, ...]:
        """Return the clients that train in a round, ascending; drawn from those present."""
        there = sorted(range(self.clients) if present is None else present)
        wanted = max(1, int(self.settings.fraction * self.clients + 1e-9))  # 0.3 x 10 is 3
        if wanted >= len(there):
            return tuple(there)
        rng = np.random.default_rng([self.seed, TAG, _SAMPLE, number])
        return tuple(sorted(there[k] for k in rng.permutation(len(there))[:wanted]))

    def configure(self, number: int, present: Collection[int] | None = None) -> dict[int, bytes]:
        """Return the order of each client that trains in a round, from 0.

        Args:
            number: of the round.
            present: clients that can be reached; None: all.
        """
        settings, rounds = self.settings, self.local.rounds
        held, own_start = self.held, -1.0
        if settings.masked and held is None:
            if settings.start_masks == "client":
                own_start = settings.start_sparsity
            else:
                rng = np.random.default_rng([self.seed, TAG, _MASK])
                mask = erk_mask(self._prunable.shapes, settings.start_sparsity, rng)
                held = HeldMask(0, mask)
        order = Order(
            number,
            settings.rate_at(number, self.local),
            settings.penalty_at(number, rounds),
            self.vector,
            held,
            own_start,
            sparse_up=self.held is not None and not settings.looks_at_removed(number),
            sparse_down=self.held is not None,
        )
        chosen = self.sample(number, present)
        self._asked = frozenset(chosen)
        written: dict[int, bytes] = {}
        orders = {}
        for k in chosen:
            known = self._known.get(k)
            version = -1 if known is None else known.version
            if version not in written:
                nested = settings.masks == "nested"
                written[version] = write_order(order, self._prunable, known, nested=nested)
            orders[k] = written[version]
        return orders

    def aggregate(self, number: int, replies: Iterable[bytes]) -> float:
        """Take in what the clients of a round sent back, in any order; return the mean loss.

        An answer that is none, or that does not fit, is left out and its sentence goes to
        `refused`; so is that of a client that has lost the mask, which gets it whole next time.
        When nobody has trained the model stays what it is, and the loss is NaN.

        Raises:
            DataError: none of the answers could be used, and one of them was wrong.
        """
        answers, wrong = self._read(number, replies)
        self.refused += [str(error) for error in wrong]
        if wrong and not answers:
            raise wrong[0]
        trained = {k: a for k, a in answers.items() if a.vector is not None}
        for k, answer in answers.items():
            if answer.vector is None or self.held is None:
                self._known.pop(k, None)
            else:
                self._known[k] = self.held
        if not trained:
            return float("nan")
        models = {k: a.vector for k, a in trained.items() if a.vector is not None}
        images = {k: a.images for k, a in trained.items()}
        self._take(number, average(models, images))
        total = sum(images.values())
        return sum(a.loss * images[k] for k, a in sorted(trained.items())) / total

    def check(self, number: int, data: bytes) -> None:
        """Refuse an answer that `aggregate` would leave out for itself; nothing changes.

        Raises:
            DataError: it is none to a round, or of nobody who was asked.
        """
        self._answer(number, data)

    def _take(self, number: int, mean: Tensor) -> None:
        settings, draws = self.settings, self.settings.draws_mask(number)
        before = None if self.held is None else self.held.mask
        if not (draws and settings.masks == "regrow"):
            mean = keep(mean, before)
        if draws:
            sparsity = settings.sparsity_at(number, self.local.rounds)
            within = before if settings.masks == "nested" else None
            mask = magnitude_mask(mean, self._prunable, sparsity, within=within)
            self.held = HeldMask(1 if self.held is None else self.held.version + 1, mask)
            mean = keep(mean, mask)
        self.vector = mean

    def _read(
        self, number: int, replies: Iterable[bytes]
    ) -> tuple[dict[int, Answer], list[DataError]]:
        """Return the answers that fit, by client, and what is wrong with the others."""
        answers: dict[int, Answer] = {}
        wrong = []
        for data in replies:
            try:
                answer = self._answer(number, data, answers)
            except DataError as error:
                wrong.append(error)
            else:
                answers[answer.client] = answer
        return answers, wrong

    def _answer(self, number: int, data: bytes, before: Collection[int] = ()) -> Answer:
        """Return an answer of a client that was asked and is not among those before.

        Raises:
            DataError: it is none.
        """
        asked_sparse = self.held is not None and not self.settings.looks_at_removed(number)
        mask = self.held.mask if asked_sparse and self.held is not None else None
        answer = read_answer(data, number, len(self.vector), mask)
        if answer.client not in self._asked or answer.client in before:
            again = "a second answer" if answer.client in before else "an answer"
            raise DataError(
                f"{again} of client {answer.client} to round {number}; expected one of each of "
                f"{sorted(self._asked)}. Give every client a number of its own"
            )
        return answer

    def state(self) -> dict[str, Tensor]:
        """Return everything that `restore` needs, as copies.

        Of every client, which mask it has; the sentences in `refused` are not among it.
        """
        state = {"vector": self.vector.clone()}
        if self.held is not None:
            now = [k for k, known in self._known.items() if known.version == self.held.version]
            state["mask"] = self.held.mask.clone()
            state["version"] = torch.tensor(self.held.version)
            state["known"] = torch.tensor(sorted(now), dtype=torch.int64)
            for k, known in self._known.items():
                if k not in now:
                    state[f"mask of {k}"] = known.mask.clone()
                    state[f"version of {k}"] = torch.tensor(known.version)
        return state

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`."""
        self.vector, self.held, self._known = state["vector"].clone(), None, {}
        if "mask" not in state:
            return
        self.held = HeldMask(int(state["version"]), state["mask"].clone())
        self._known = {int(k): self.held for k in state["known"]}
        for key in state:
            if key.startswith("mask of "):
                k = int(key.removeprefix("mask of "))
                self._known[k] = HeldMask(int(state[f"version of {k}"]), state[key].clone())

"""The end of a run: the mean of all models, what it answers, one branch file.

The lowest rank that is left is the one that writes. Everybody sends it the own model and image
counts; it sends the mean back; everybody answers the own validation images with it and sends sums
(`_scores`), and how many bytes have left it; the writer tells all who sent how much. Should it be
lost, the next rank begins the end anew.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from device_agent.cotrain._exchange import GlooExchange
from device_agent.cotrain._scores import TEMPERATURES, Scores
from device_agent.cotrain._sent import SENT_BYTES, pack_sent, unpack_own, unpack_sent
from edge_stl.cotrain import (
    FRAME_BYTES,
    HEADER_BYTES,
    Bytes,
    Message,
    pack_floats,
    unpack_floats,
)
from edge_stl.errors import DataError, Interrupted


_MODEL, _MEAN, _SCORES, _DONE = 250, 251, 252, 253
_MOST_COUNT = 10**12
_FACTS_BYTES = 1 << 16


@dataclass(frozen=True)
class Counts:
    """Images of a box, or of all, per class as published, ``(K,)``."""

    train: tuple[int, ...]
    validation: tuple[int, ...]


@dataclass(frozen=True)
class Ended:
    """What all boxes know when the run is over.

    Attributes:
        writer: rank that wrote the branch file.
        members: ranks whose models are in it.
        facts: what the writer says of the file; the same on every box.
        sent: bytes that left each box, by rank, the end's own included; None of one that was lost.
    """

    writer: int
    members: tuple[int, ...]
    facts: dict[str, Any]
    sent: tuple[Bytes | None, ...]


def largest_message(parameters: int, classes: int, *, copies: int) -> int:
    """Return bytes that no message of a method and none of the end is longer than.

    Args:
        parameters: of the model.
        classes: K.
        copies: models that a message may hold, at least 2.
    """
    # Wavelet coefficients are a few more than parameters; a list of indices may be as long again.
    rounds = 4 * max(2, copies) * parameters + _FACTS_BYTES
    scores = 8 * (len(TEMPERATURES) * (classes + 1) + classes + 1) + _FACTS_BYTES
    return HEADER_BYTES + rounds + scores + 32 * classes


class End:
    """The end of a run at one box.

    Args:
        exchange: to all boxes.
        rounds: of the run.
        boxes: of the group, lost ones too.
        sent: returns what has left this box until now.
        classes: K.
        floor: the plan's ``privacy.min_count``.
        answer: logits of a model ``(P,)`` on the validation images here, ``(n, K)``.
        held_back: classes of these images, ``(n,)``.
        write: makes and writes the branch file of a mean model; returns what to tell of it.
        hub: the first box, where it alone has the model; None: every box has one.
    """

    def __init__(
        self,
        exchange: GlooExchange,
        *,
        rounds: int,
        boxes: int,
        sent: Callable[[], Bytes],
        classes: int,
        floor: int,
        answer: Callable[[Tensor], Any],
        held_back: Any,
        write: Callable[[Tensor, Counts, Scores, Sequence[int]], dict[str, Any]],
        hub: str | None = None,
    ) -> None:
        self._hub = hub
        self._exchange, self._rounds, self._classes, self._floor = exchange, rounds, classes, floor
        self._answer, self._held_back, self._write = answer, held_back, write
        self._boxes, self._sent = boxes, sent

    def run(self, vector: Tensor, train: tuple[int, ...]) -> Ended:
        """Bring a model and the image counts of this box in, and go through with it.

        Raises:
            Interrupted: every other box is lost.
        """
        while True:
            alive = self._exchange.alive
            if len(alive) == 1:
                raise _kept("every other box is lost")
            if self._hub is not None and alive[0] != 0:
                raise _kept(f"{self._hub}, which holds the model, is lost")
            leader = alive[0]
            try:
                if leader == self._exchange.rank:
                    return self._lead(alive, vector, train)
                ended = self._follow(leader, vector, train)
            except Interrupted as stopped:
                raise _kept(str(stopped)) from None
            if ended is not None:
                return ended

    # -- the writer -----------------------------------------------------------------------------

    def _lead(self, alive: Sequence[int], vector: Tensor, train: tuple[int, ...]) -> Ended:
        models, trains = {self._exchange.rank: vector}, {self._exchange.rank: train}
        for rank in alive:
            if rank != self._exchange.rank:
                message = self._receive(rank, _MODEL)
                own = 0 if self._hub is not None else len(vector)
                read = None if message is None else self._read_model(rank, message, own)
                if read is not None:
                    models[rank], trains[rank] = read
        if self._hub is None:
            mean = mean_model([models[rank] for rank in sorted(models)])
        else:
            mean = vector
        total = tuple(int(n) for n in np.sum([trains[r] for r in sorted(trains)], axis=0))
        others = [rank for rank in sorted(models) if rank != self._exchange.rank]
        for rank in others:
            self._send(rank, _MEAN, pack_floats(mean), _pack_counts(total))
        scores = self._scores(mean, total)
        sent: dict[int, Bytes] = {}
        for rank in others:
            message = self._receive(rank, _SCORES)
            read_scores = None if message is None else self._read_scores(rank, message)
            if read_scores is not None:
                scores += read_scores[0]
                sent[rank] = read_scores[1]
        counts = Counts(total, tuple(int(n) for n in scores.counts))
        members = tuple(sorted(models))
        facts = self._write(mean, counts, scores, members)
        document = {"writer": self._exchange.rank, "members": members, "facts": facts}
        text = json.dumps(document).encode()
        # What is about to leave is told too: then it is what the ledger has in the end.
        last = _cost(0, self._boxes * SENT_BYTES + len(text))
        sent[self._exchange.rank] = sum([last] * len(others), self._sent())
        table = pack_sent(sent, self._boxes)
        for rank in others:
            self._send(rank, _DONE, b"", table + text)
        return Ended(self._exchange.rank, members, facts, unpack_sent(table, self._boxes))

    # -- the others -----------------------------------------------------------------------------

    def _follow(self, leader: int, vector: Tensor, train: tuple[int, ...]) -> Ended | None:
        model = b"" if self._hub is not None else pack_floats(vector)
        self._send(leader, _MODEL, model, _pack_counts(train))
        message = self._receive(leader, _MEAN)
        if message is None:
            return None
        read = self._read_model(leader, message, len(vector))
        if read is None:
            return None
        mean, total = read
        scores = self._scores(mean, total)
        packed = pack_scores(scores)
        sent = self._sent() + _cost(len(packed), SENT_BYTES)
        self._send(leader, _SCORES, packed, pack_sent({0: sent}, 1))
        message = self._receive(leader, _DONE)
        if message is None:
            return None
        try:
            return read_last(message.indices, leader, self._boxes)
        except DataError:
            self._exchange.lose(leader, "what it says of the branch file cannot be read")
            return None

    # -- both -----------------------------------------------------------------------------------

    def _scores(self, mean: Tensor, total: tuple[int, ...]) -> Scores:
        return Scores.of(self._answer(mean), self._held_back, total, floor=self._floor)

    def _send(self, rank: int, kind: int, values: bytes, facts: bytes) -> None:
        message = Message(self._rounds, kind, indices=facts, values=values)
        self._exchange.send(rank, message, self._rounds, _cost(len(values), len(facts)))

    def _receive(self, rank: int, kind: int) -> Message | None:
        return self._exchange.receive(rank, number=self._rounds, kind=kind)

    def _read_model(
        self, rank: int, message: Message, parameters: int
    ) -> tuple[Tensor, tuple[int, ...]] | None:
        try:
            return unpack_floats(message.values, parameters), _unpack_counts(
                message.indices, self._classes
            )
        except DataError as error:
            self._exchange.refuse(rank, str(error))
            return None

    def _read_scores(self, rank: int, message: Message) -> tuple[Scores, Bytes] | None:
        try:
            return unpack_scores(message.values, self._classes), unpack_own(message.indices)
        except DataError as error:
            self._exchange.refuse(rank, str(error))
            return None


def _cost(values: int, facts: int) -> Bytes:
    """Return what a message of the end costs: counts and the like are no weights."""
    return Bytes.of_arrays(values=values, headers=HEADER_BYTES + FRAME_BYTES + facts)


def _kept(what: str) -> Interrupted:
    return Interrupted(
        f"{what} before the branch file was written; all of it is kept. The same command on all "
        "boxes goes on there"
    )


def read_last(data: bytes, writer: int, boxes: int) -> Ended:
    """Return the last word of the writer: what left each box, then the rest as JSON.

    Args:
        data: of the message.
        writer: its rank.
        boxes: of the group.

    Raises:
        DataError: it is none.
    """
    size = boxes * SENT_BYTES
    table = unpack_sent(data[:size], boxes)
    try:
        document = json.loads(data[size : size + _FACTS_BYTES])
        members = tuple(document["members"])
        facts = dict(document["facts"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DataError("a last word that cannot be read") from None
    if not all(isinstance(rank, int) and 0 <= rank < boxes for rank in members):
        raise DataError("a last word with members that are no boxes of the group")
    return Ended(writer, members, facts, table)


def mean_model(models: Sequence[Tensor]) -> Tensor:
    """Return the mean of models ``(P,)``, summed in their order in float64, as float32."""
    total = torch.zeros(len(models[0]), dtype=torch.float64)
    for model in models:
        total += model
    return (total / len(models)).float()


def pack_scores(scores: Scores) -> bytes:
    """Return sums as little-endian float64."""
    flat = np.concatenate([scores.losses.reshape(-1), scores.right, scores.counts, [scores.judged]])
    return flat.astype("<f8").tobytes()


def unpack_scores(data: bytes, classes: int) -> Scores:
    """Return the sums of `pack_scores`.

    Raises:
        DataError: they are none of so many classes, or cannot be right.
    """
    rows = len(TEMPERATURES)
    if len(data) != 8 * (rows * classes + rows + classes + 1):
        raise DataError(f"scores of {len(data)} bytes; expected those of {classes} classes")
    flat = np.frombuffer(data, "<f8").astype(np.float64)
    if not np.isfinite(flat).all() or flat.min() < 0 or flat.max() > _MOST_COUNT:
        raise DataError("scores that are negative, too large or not finite; expected sums")
    losses, right, counts, judged = np.split(
        flat, [rows * classes, rows * classes + rows, rows * classes + rows + classes]
    )
    if (right > judged).any():
        raise DataError("scores with more right answers than images")
    return Scores(losses.reshape(rows, classes), right, counts.astype(np.int64), int(judged[0]))


def _pack_counts(counts: Sequence[int]) -> bytes:
    return np.asarray(counts, "<i8").tobytes()


def _unpack_counts(data: bytes, classes: int) -> tuple[int, ...]:
    if len(data) != 8 * classes:
        raise DataError(f"image counts of {len(data)} bytes; expected those of {classes} classes")
    counts = np.frombuffer(data, "<i8")
    if counts.min() < 0 or counts.max() > _MOST_COUNT or not counts.any():
        raise DataError("image counts that are negative, too large or all 0; expected some")
    return tuple(int(n) for n in counts)

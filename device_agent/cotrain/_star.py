"""Methods with a middle: the first box of the group sums up, or is the server.

Gradient compression by PCA asks for means over all workers. The first box takes in what the others
give and sends the result to each: in all as many bytes as a ring all-reduce moves, and a worker
that is lost is missing from the mean, where a ring would end for all. FedAvg and FedDIP have a
server by nature; over Flower it has TLS (docs/cotrain.md). Whoever sends what cannot be used is
lost. If the first box is lost, the run stops.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from device_agent.cotrain._exchange import GlooExchange
from edge_stl.cotrain import (
    FedClient,
    FedDIPSettings,
    FedServer,
    Flat,
    LocalSettings,
    LocalSGD,
    Message,
    PCASettings,
    Problem,
    fed_bytes,
    pack_floats,
    unpack_floats,
)
from edge_stl.cotrain._collective import Collective
from edge_stl.cotrain._fedwire import ANSWER, LOST, ORDER, check_client
from edge_stl.cotrain._pca import PCACompressor
from edge_stl.cotrain._replicas import together
from edge_stl.errors import CheckError, DataError, Interrupted


HUB = 0
_GIVEN, _RESULT, _NOT_ASKED = 240, 241, 242


@dataclass(frozen=True)
class FedAvgSettings:
    """What the server of FedAvg does.

    Attributes:
        fraction: share of the boxes that train in a round, above 0 to 1; default 1.
        decay: factor of the learning rate from round to round, above 0 to 1; default 1.
    """

    fraction: float = 1.0
    decay: float = 1.0

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            UsageError: a value is out of its range.
        """
        self.full()

    def full(self) -> FedDIPSettings:
        """Return them as the server takes them: no masks, no penalty."""
        return FedDIPSettings.fedavg(fraction=self.fraction, decay=self.decay)


class PCAWorker:
    """One worker of data-parallel training, whose gradients are compressed.

    Args:
        problem: what it learns from.
        local: how all step.
        settings: of the compression.
        exchange: to all boxes.
        hub: name of the first box.
    """

    def __init__(
        self,
        problem: Problem,
        local: LocalSettings,
        settings: PCASettings,
        exchange: GlooExchange,
        hub: str,
    ) -> None:
        self._problem, self._exchange, self._hub = problem, exchange, hub
        self.vector: Tensor = problem.start()
        self._local = LocalSGD(problem, local)
        self._flat = Flat(problem.shapes)
        shapes = {str(k): shape for k, shape in enumerate(problem.shapes)}
        self._compressor = PCACompressor(shapes, settings)

    def round(self, number: int) -> float:
        """Take the steps of a round; return the mean loss here."""
        steps = self._local.settings.steps
        return sum(self._step(number, number * steps + k) for k in range(steps)) / steps

    def _step(self, number: int, step: int) -> float:
        gradient, loss = self._problem.gradient(self.vector, self._problem.batch(step))
        views = {str(k): view for k, view in enumerate(self._flat.views(gradient))}
        running = self._compressor.compress(views)
        collective, means = next(running), dict[str, Tensor]()
        while True:
            self._compressor.count(collective, len(self._exchange.alive))
            try:
                collective = running.send(self._answer(collective, number))
            except StopIteration as end:
                means = end.value
                break
        self._compressor.advance()
        mean = torch.cat([means[str(k)].reshape(-1) for k in range(len(means))])
        vector = self.vector.clone()  # a step that breaks off leaves the vector whole
        self._local.apply(vector, mean, number)
        self.vector = vector
        return loss

    def _answer(self, collective: Collective, number: int) -> Tensor:
        exchange, length = self._exchange, collective.tensor.numel()
        everybody = collective.kind != "broadcast"  # whose result is the first box's own
        if not bool(torch.isfinite(collective.tensor).all()):
            raise CheckError(  # here, not at the first box, which would drop this one for it
                f"round {number}: a gradient is not finite; training diverged. Lower the learning "
                "rate"
            )
        if exchange.rank == HUB:
            given = {HUB: collective}
            others = [rank for rank in exchange.alive if rank != HUB]
            for rank in others if everybody else ():
                message = exchange.receive(rank, number=number, kind=_GIVEN)
                theirs = None if message is None else self._read(rank, message, length)
                if theirs is not None:
                    given[rank] = Collective(collective.kind, theirs)
            result = together([given[rank] for rank in sorted(given)])
            for rank in others:
                if rank not in exchange.lost:
                    answer = Message(number, _RESULT, values=pack_floats(result))
                    exchange.send(rank, answer, number)
            return result
        if everybody:
            exchange.send(
                HUB, Message(number, _GIVEN, values=pack_floats(collective.tensor)), number
            )
        message = exchange.receive(HUB, number=number, kind=_RESULT)
        rows = 1
        if message is not None and collective.kind == "gather":
            rows = max(1, len(message.values) // max(4 * length, 1))  # of those who are left
        means = None if message is None else self._read(HUB, message, rows * length)
        if means is None:
            raise Interrupted(f"{self._hub}, which sums up, is lost")
        return means.view(rows, length) if collective.kind == "gather" else means

    def _read(self, rank: int, message: Message, count: int) -> Tensor | None:
        """Return the numbers ``(count,)`` of a message, or None where its sender is lost for it."""
        try:
            return unpack_floats(message.values, count)
        except DataError as error:
            self._exchange.refuse(rank, str(error))
            return None

    def state(self) -> dict[str, Tensor]:
        """Return everything that `restore` needs, as copies."""
        state = {f"pca.{key}": tensor for key, tensor in self._compressor.state().items()}
        state["vector"] = self.vector.clone()
        if self._local.buffer is not None:
            state["momentum"] = self._local.buffer.clone()
        return state

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`."""
        own = {k.removeprefix("pca."): t for k, t in state.items() if k.startswith("pca.")}
        self._compressor.restore(own)
        self.vector = state["vector"].clone()
        buffer = state.get("momentum")
        self._local.buffer = None if buffer is None else buffer.clone()


class Federated:
    """A client of FedAvg or FedDIP; at the first box also the server.

    Args:
        problem: what it learns from.
        local: how clients step, and the server's rate and rounds.
        settings: of the method.
        exchange: to all boxes.
        names: box ids in rank order.
        images: that this box trains on, as published: its weight.
        seed: of the run.
    """

    def __init__(
        self,
        problem: Problem,
        local: LocalSettings,
        settings: FedDIPSettings,
        exchange: GlooExchange,
        *,
        names: tuple[str, ...],
        images: int,
        seed: int,
    ) -> None:
        self._exchange, self._hub = exchange, names[HUB]
        self._client = FedClient(exchange.rank, problem, local, images=images, seed=seed)
        self._start = problem.start()
        self._server: FedServer | None = None
        if exchange.rank == HUB:
            self._server = FedServer(
                self._start, problem.shapes, local, settings, clients=len(names), seed=seed
            )

    @property
    def vector(self) -> Tensor:
        """Return the server's model; the other boxes have none of their own."""
        return self._start if self._server is None else self._server.vector

    def round(self, number: int) -> float:
        """Do this box's part of a round; return the mean loss: at the server of all."""
        if self._server is not None:
            return self._serve(self._server, number)
        exchange = self._exchange
        message = exchange.receive(HUB, number=number, kind=(ORDER, _NOT_ASKED))
        order = b"" if message is None else message.to_bytes()
        if message is not None and message.kind == ORDER:
            try:
                self._client.check(order)
            except DataError as error:
                exchange.refuse(HUB, str(error))
        if message is None or HUB in exchange.lost:
            raise Interrupted(f"{self._hub}, which holds the server, is lost")
        if message.kind == ORDER:
            answer = self._client.answer(order)
            exchange.send(HUB, Message.from_bytes(answer), number, fed_bytes(answer))
        return self._client.loss

    def _serve(self, server: FedServer, number: int) -> float:
        exchange = self._exchange
        orders = server.configure(number, exchange.alive)
        for rank in exchange.alive:
            if rank == HUB:
                continue
            if rank in orders:
                data = orders[rank]
                exchange.send(rank, Message.from_bytes(data), number, fed_bytes(data))
            else:
                exchange.send(rank, Message(number, _NOT_ASKED), number)
        replies = [self._client.answer(orders[HUB])] if HUB in orders else []
        for rank in sorted(set(orders) - {HUB}):
            message = exchange.receive(rank, number=number, kind=(ANSWER, LOST))
            if message is not None:
                data = message.to_bytes()
                try:
                    check_client(data, rank)
                    server.check(number, data)
                except DataError as error:
                    exchange.refuse(rank, str(error))
                else:
                    replies.append(data)
        told = len(server.refused)
        loss = server.aggregate(number, replies)
        if len(server.refused) > told:  # only its own is left to be wrong
            raise DataError(server.refused[told])
        return loss

    def state(self) -> dict[str, Tensor]:
        """Return everything that `restore` needs, as copies."""
        state = {f"client.{key}": tensor for key, tensor in self._client.state().items()}
        if self._server is not None:
            state |= {f"server.{key}": tensor for key, tensor in self._server.state().items()}
        return state

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`."""
        for part, prefix in ((self._client, "client."), (self._server, "server.")):
            if part is not None:
                own = {k.removeprefix(prefix): t for k, t in state.items() if k.startswith(prefix)}
                part.restore(own)

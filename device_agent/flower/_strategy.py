"""The strategy: Flower's rounds, our server."""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from logging import INFO, WARNING, getLogger

from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from device_agent.flower._parcel import pack, parcel_bytes, record_bytes, unpack
from edge_stl.cotrain import SERVER, Bytes, FedServer, Ledger
from edge_stl.cotrain._fedwire import check_client
from edge_stl.errors import DataError, ResourceError


HELLO, INDEX = "hello", "index"
"""The record with which a node says which client it is."""
_LOOK = 0.2
"""Seconds between two looks at who is there."""
_LOG = getLogger("flwr")


class FedDIPStrategy(Strategy):
    """FedAvg and FedDIP as a Flower strategy.

    A node says once which client it is (`partition-id` of its configuration). Who is not there, or
    does not answer in time, is missing from the round; who comes back takes part again.

    Args:
        server: the server of the run.
        ledger: the bytes of every record are entered here, the server's as node `SERVER`.
        first: round to begin with, from 0, where a run goes on.
        fewest: clients that must be there before the first round; default all of the server's.
        patience: seconds to wait for them.
        after: called after every round with its number and mean loss, NaN when nobody trained.
    """

    def __init__(
        self,
        server: FedServer,
        ledger: Ledger,
        *,
        first: int = 0,
        fewest: int | None = None,
        patience: float = 120.0,
        after: Callable[[int, float], None] = lambda _number, _loss: None,
    ) -> None:
        self.server, self.ledger, self.first = server, ledger, first
        self.fewest = server.clients if fewest is None else fewest
        self.patience, self.after = patience, after
        self._clients: dict[int, int] = {}

    def summary(self) -> None:
        """Say in the log what is run."""
        _LOG.log(INFO, "\t%s, %s", self.server.settings, self.server.local)

    def configure_train(
        self,
        server_round: int,
        arrays: ArrayRecord,  # noqa: ARG002  (the model is the server's)
        config: ConfigRecord,  # noqa: ARG002
        grid: Grid,
    ) -> Iterable[Message]:
        """Return the orders of a round; Flower counts rounds from 1.

        Raises:
            ResourceError: too few clients came before the first round.
        """
        number = server_round - 1 + self.first
        there = self._meet(grid, number, self.fewest if server_round == 1 else 0)
        messages = []
        for k, order in self.server.configure(number, there.keys()).items():
            content = pack(order)
            self.ledger.add(SERVER, number, parcel_bytes(content, order))
            messages.append(
                Message(
                    content=content,
                    dst_node_id=there[k],
                    message_type=MessageType.TRAIN,
                    group_id=str(number),
                )
            )
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Take in the answers; one that is wrong is left out, with a line in the log."""
        number = server_round - 1 + self.first
        answers = []
        for reply in replies:
            try:
                data = unpack(reply)
                amount = parcel_bytes(reply.content, data)
            except DataError as error:
                self._tell(str(error))
            else:
                client = self._clients[reply.metadata.src_node_id]
                self.ledger.add(client, number, amount)
                try:
                    check_client(data, client)
                except DataError as error:
                    self._tell(str(error))
                else:
                    answers.append(data)
        known, loss = len(self.server.refused), float("nan")
        with suppress(DataError):  # none was right: the model stays, and each is told below
            loss = self.server.aggregate(number, answers)
        for sentence in self.server.refused[known:]:
            _LOG.log(WARNING, sentence)
        self.after(number, loss)
        return model_record(self.server), MetricRecord({"loss": loss})

    def configure_evaluate(
        self,
        server_round: int,  # noqa: ARG002
        arrays: ArrayRecord,  # noqa: ARG002
        config: ConfigRecord,  # noqa: ARG002
        grid: Grid,  # noqa: ARG002
    ) -> Iterable[Message]:
        """Ask nobody: a branch is judged by its own box or by the desk."""
        return []

    def aggregate_evaluate(
        self,
        server_round: int,  # noqa: ARG002
        replies: Iterable[Message],  # noqa: ARG002
    ) -> MetricRecord | None:
        """Return nothing, as nobody was asked."""
        return None

    def _meet(self, grid: Grid, number: int, fewest: int) -> dict[int, int]:
        """Return the node of each client that is there, after asking new ones who they are."""
        end = time.monotonic() + self.patience
        while True:
            present = set(grid.get_node_ids())
            new = sorted(present - self._clients.keys())
            if new:
                self._ask(grid, number, new)
            there = {self._clients[n]: n for n in sorted(present) if n in self._clients}
            if len(there) >= fewest:
                return there
            if time.monotonic() > end:
                raise ResourceError(
                    f"{len(there)} of {fewest} clients within {self.patience:g} s; expected all "
                    "before the first round. Start their SuperNodes, each with a partition-id of "
                    "its own"
                )
            time.sleep(_LOOK)

    def _ask(self, grid: Grid, number: int, nodes: list[int]) -> None:
        questions = [
            Message(
                content=RecordDict(),
                dst_node_id=node,
                message_type=MessageType.QUERY,
                group_id=str(number),
            )
            for node in nodes
        ]
        for question in questions:
            self._bill_hello(SERVER, number, question)
        for reply in grid.send_and_receive(questions, timeout=self.patience):
            node = reply.metadata.src_node_id
            if reply.has_error():
                self._tell(f"node {node}: {reply.error.reason}; left out for now")
                continue
            said = reply.content.config_records.get(HELLO)
            index = None if said is None else said.get(INDEX)
            if not isinstance(index, int) or not 0 <= index < self.server.clients:
                self._tell(
                    f"node {node}: client {index!r}; expected 0 to {self.server.clients - 1}. "
                    "Give its SuperNode such a partition-id"
                )
                continue
            self._clients[node] = index
            self._bill_hello(index, number, reply)

    def _bill_hello(self, node: int, number: int, message: Message) -> None:
        self.ledger.add(node, number, Bytes.of_arrays(headers=record_bytes(message.content)))

    def _tell(self, sentence: str) -> None:
        line = " ".join(sentence.split())
        self.server.refused.append(line)
        _LOG.log(WARNING, line)


def model_record(server: FedServer) -> ArrayRecord:
    """Return the model ``(P,)`` float32 as Flower has it."""
    return ArrayRecord({"model": Array(server.vector.numpy())})

"""What a node sends its neighbours and hears of them, over links: the real transport of a round."""

import queue
import time
from collections.abc import Callable, Mapping

from device_agent.cotrain._link import Link, Pulse
from edge_stl.cotrain import Bytes, Ledger, Message, Messages, Node
from edge_stl.errors import DataError


_POLL = 0.1  # seconds
_LEAVE, _LEAVE_LOST = 3.0, 0.3


class GlooExchange:
    """The links of one box to all others of its group.

    Args:
        rank: of this box.
        links: to every other box, by rank.
        names: box ids in rank order.
        ledger: what leaves this box is entered here.
        pulse: told that the main thread gets on.
        told: called with a sentence for every box that is lost.
        check: called while it waits; raises where the run is to stop.

    Attributes:
        rank: of this box.
        lost: ranks of lost boxes, and why.
    """

    def __init__(
        self,
        rank: int,
        links: Mapping[int, Link],
        *,
        names: tuple[str, ...],
        ledger: Ledger,
        pulse: Pulse,
        told: Callable[[str], object] = lambda _: None,
        check: Callable[[], object] = lambda: None,
    ) -> None:
        self.rank = rank
        self.lost: dict[int, str] = {}
        self._links, self._names, self._ledger = links, names, ledger
        self._pulse, self._told, self._check = pulse, told, check

    @property
    def alive(self) -> list[int]:
        """Return the ranks that are not lost, this one's among them, ascending."""
        for rank, link in self._links.items():
            if link.lost is not None:
                self.lose(rank, link.lost)
        return sorted({self.rank, *self._links} - set(self.lost))

    def lose(self, rank: int, reason: str) -> None:
        """Go on without a box, and say so once."""
        if rank in self.lost:
            return
        self._links[rank].lose(reason)
        self.lost[rank] = reason
        self._told(f"{self._names[rank]}: lost, {reason}; going on without it")

    def refuse(self, rank: int, what: str) -> None:
        """Go on without a box that sent what cannot be used.

        Args:
            rank: of the box.
            what: is wrong with it, as a `DataError` says it.
        """
        self.lose(rank, f"it sent {what.partition('. ')[0]}")

    def round(self, node: Node, number: int) -> float:
        """Run a round of a node and return its loss; who sent it what cannot be used is lost.

        Raises:
            Interrupted: the check said so.
        """
        generator = node.round(number)
        outbox = next(generator)
        while True:
            inbox = self.exchange(outbox, number)
            try:
                outbox = generator.send(inbox)
            except StopIteration as end:
                return float(end.value)
            finally:
                for rank, what in sorted(node.refused.items()):
                    self.refuse(rank, what)

    def exchange(self, outbox: Messages, number: int) -> dict[int, Message]:
        """Send a message to each neighbour and return one of each that answered.

        All leave before the first is waited for, so that no order of neighbours can block.
        """
        for rank, message in sorted(outbox.items()):
            if rank not in self.lost:
                self.send(rank, message, number)
        inbox: dict[int, Message] = {}
        for rank, message in sorted(outbox.items()):
            answer = self.receive(rank, number=number, kind=message.kind)
            if answer is not None:
                inbox[rank] = answer
        return inbox

    def send(self, rank: int, message: Message, number: int, cost: Bytes | None = None) -> None:
        """Send one message, and bill it."""
        self._ledger.add(self.rank, number, cost or Bytes.of(message))
        self._links[rank].send(message.to_bytes())

    def receive(self, rank: int, *, number: int, kind: int | tuple[int, ...]) -> Message | None:
        """Return the next message of a box, or None when it is lost.

        Args:
            rank: whose.
            number: of the round that it must belong to.
            kind: that it must be of, or several.
        """
        if rank in self.lost:
            return None
        link = self._links[rank]
        while True:
            self._pulse.tick()
            self._check()
            try:
                data = link.receive(_POLL)
                break
            except queue.Empty:
                continue
        if data is None:
            self.lose(rank, link.lost or "its connection closed")
            return None
        try:
            message = Message.from_bytes(data)
        except DataError as error:
            self.refuse(rank, str(error))
            return None
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if message.round != number or message.kind not in kinds:
            self.lose(
                rank,
                f"it sent a message of round {message.round}, kind {message.kind}, in round "
                f"{number}, kind {' or '.join(map(str, kinds))}",
            )
            return None
        return message

    def close(self) -> None:
        """Say goodbye to all, and give them a moment to do so."""
        for link in self._links.values():
            link.leave()
        began = time.monotonic()
        for link in self._links.values():
            link.close(began + (_LEAVE if link.lost is None else _LEAVE_LOST))

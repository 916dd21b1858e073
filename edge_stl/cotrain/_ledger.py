"""The ledger of bytes: one way of counting for every method.

Bytes are counted where they leave a node, once per receiver, split into values (weights,
gradients, scales), indices (which ones they are: index lists, masks) and headers (everything
else, the transport's framing included). A message to three neighbours counts three times.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Self

from edge_stl.cotrain._message import FRAME_BYTES, HEADER_BYTES, Message


@dataclass
class Bytes:
    """Bytes that left a node.

    Attributes:
        values: of weights, gradients, scales.
        indices: of index lists and masks.
        headers: of everything else.
        messages: how many messages.
    """

    values: int = 0
    indices: int = 0
    headers: int = 0
    messages: int = 0

    @property
    def total(self) -> int:
        """Return values, indices and headers together."""
        return self.values + self.indices + self.headers

    def __add__(self, other: "Bytes") -> "Bytes":
        """Return the sum of two accounts."""
        return Bytes(
            self.values + other.values,
            self.indices + other.indices,
            self.headers + other.headers,
            self.messages + other.messages,
        )

    @classmethod
    def of(cls, message: Message) -> Self:
        """Return what one message costs, with the frame that a transport puts before it."""
        headers = HEADER_BYTES + FRAME_BYTES
        return cls(len(message.values), len(message.indices), headers, 1)

    @classmethod
    def of_arrays(cls, *, values: int = 0, indices: int = 0, headers: int = 0) -> Self:
        """Return one message whose parts are counted by its engine."""
        return cls(values, indices, headers, 1)


@dataclass
class Ledger:
    """Who sent how much in which round.

    Attributes:
        sent: bytes per node, one account for each round that is over or under way.
    """

    sent: dict[int, list[Bytes]] = field(default_factory=dict)

    def add(self, node: int, number: int, amount: Bytes) -> None:
        """Enter what a node sent in a round, from 0."""
        rounds = self.sent.setdefault(node, [])
        rounds.extend(Bytes() for _ in range(number + 1 - len(rounds)))
        rounds[number] += amount

    def node(self, node: int) -> Bytes:
        """Return what a node has sent in all."""
        return _sum(self.sent.get(node, ()))

    @property
    def total(self) -> Bytes:
        """Return what all nodes have sent in all."""
        return _sum(self.node(node) for node in self.sent)

    def up_to(self, number: int) -> int:
        """Return the bytes of all nodes in the rounds before ``number``."""
        return sum(amount.total for rounds in self.sent.values() for amount in rounds[:number])

    def merge(self, other: "Ledger") -> None:
        """Take over the accounts of another node's ledger."""
        for node, rounds in other.sent.items():
            for number, amount in enumerate(rounds):
                self.add(node, number, amount)

    def to_json(self) -> dict[str, object]:
        """Return the totals, and those of each node."""
        return {
            "total": asdict(self.total) | {"bytes": self.total.total},
            "nodes": [
                {"node": node, **asdict(self.node(node)), "bytes": self.node(node).total}
                for node in sorted(self.sent)
            ],
        }


def _sum(amounts: Iterable[Bytes]) -> Bytes:
    return sum(amounts, Bytes())

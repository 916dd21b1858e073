"""A node of a decentralised method: it trains, says what it sends, and mixes what it hears.

A round is a generator: it yields what goes to each neighbour and is sent what came from each. So
the same node runs in one process with dozens of others, or alone under `torch.distributed`, and
does the same arithmetic in the same order. A neighbour that has gone is simply not among what
came, and one whose message cannot be used counts as gone: the node says so in `Node.refused`, and
whatever carries the messages lets no more of them through, in either direction.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from edge_stl.cotrain._local import LocalSettings, LocalSGD
from edge_stl.cotrain._message import Message
from edge_stl.cotrain._problem import Problem
from edge_stl.errors import DataError


T = TypeVar("T")

Messages = Mapping[int, Message]
"""A message to or from each neighbour, by its number."""
Round = Generator[Messages, Messages, float]
"""The exchanges of a round; it returns the mean training loss of the round."""


@dataclass(frozen=True)
class Seat:
    """Which node of the graph this is.

    Attributes:
        index: its number, from 0.
        neighbours: theirs, ascending.
        seed: of the run; what a node draws depends on this, its number and the round alone.
    """

    index: int
    neighbours: tuple[int, ...]
    seed: int = 0

    @property
    def degree(self) -> int:
        """Return how many neighbours it has."""
        return len(self.neighbours)


class Node(ABC):
    """One node.

    Args:
        seat: which one.
        problem: what it learns from.
        local: how it steps on its own images.

    Attributes:
        vector: its model ``(P,)`` float32.
        refused: what was wrong with the message of a neighbour, by its number; such a message was
            treated as if it had not come.
    """

    def __init__(self, seat: Seat, problem: Problem, local: LocalSettings) -> None:
        self.seat, self.problem = seat, problem
        self.vector: Tensor = problem.start()
        self.local = LocalSGD(problem, local)
        self.refused: dict[int, str] = {}

    @abstractmethod
    def round(self, number: int) -> Round:
        """Train, exchange, mix; ``number`` counts from 0."""

    def read(self, inbox: Messages, decode: Callable[[Message], T]) -> dict[int, T]:
        """Return what the message of each neighbour says, without those that cannot be used.

        Args:
            inbox: what came; who sent what cannot be used goes to `refused`.
            decode: reads one message and changes nothing; raises `DataError` where it cannot.
        """
        found = {}
        for node, message in inbox.items():
            try:
                found[node] = decode(message)
            except DataError as error:
                self.refused[node] = str(error)
        return found

    def state(self) -> dict[str, Tensor]:
        """Return everything that `restore` needs, as copies."""
        state = {"vector": self.vector.clone()}
        if self.local.buffer is not None:
            state["momentum"] = self.local.buffer.clone()
        return state

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`."""
        self.vector = state["vector"].clone()
        buffer = state.get("momentum")
        self.local.buffer = None if buffer is None else buffer.clone()

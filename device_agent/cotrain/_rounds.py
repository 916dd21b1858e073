"""The rounds of one box: run them, save them, stop between them, notice that one is alone."""

import time
from collections.abc import Callable, Mapping
from typing import Protocol

from torch import Tensor

from device_agent.cotrain._exchange import GlooExchange
from device_agent.cotrain._saved import Saved
from edge_stl.cotrain import Ledger, Node
from edge_stl.errors import EdgeStlError, Interrupted


class Engine(Protocol):
    """A method at one box, with its transport.

    Attributes:
        vector: the model ``(P,)`` float32.
    """

    @property
    def vector(self) -> Tensor:
        """Return the model ``(P,)`` float32, of a method that has one at every box."""

    def round(self, number: int) -> float:
        """Run a round and return the mean training loss."""

    def state(self) -> dict[str, Tensor]:
        """Return everything that `restore` needs, as copies."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`."""


class Gossip:
    """A node and its links."""

    def __init__(self, node: Node, exchange: GlooExchange) -> None:
        self._node, self._exchange = node, exchange
        self.state, self.restore = node.state, node.restore

    @property
    def vector(self) -> Tensor:
        """Return the node's model."""
        return self._node.vector

    def round(self, number: int) -> float:
        """Run a round of the node."""
        return self._exchange.round(self._node, number)


def run_rounds(
    engine: Engine,
    exchange: GlooExchange,
    *,
    start: int,
    rounds: int,
    saved: Saved,
    ledger: Ledger,
    after: Callable[[int, float], object],
) -> float:
    """Run the rounds of a box.

    Args:
        engine: the method.
        exchange: to all boxes.
        start: the first round, where a run goes on.
        rounds: how many in all.
        saved: checkpoints.
        ledger: what left this box.
        after: called after every round with how many are over and the loss.

    Returns:
        seconds.

    Raises:
        Interrupted: a stop was asked for, or every other box is lost; the round before is kept.
    """
    began = time.monotonic()
    states: list[dict[str, Tensor]] = []  # newest first
    for number in range(start, rounds):
        states = [engine.state(), *states[:1]]
        try:
            loss = engine.round(number)
            alone = len(exchange.alive) == 1
        except EdgeStlError as error:
            saved.stop(number, states, ledger, exchange.rank)
            if isinstance(error, Interrupted):
                raise _kept(str(error), number, rounds) from None
            raise
        if alone:
            saved.stop(number, states, ledger, exchange.rank)
            raise _kept("every other box is lost", number, rounds)
        after(number + 1, loss)
        saved.passed(number + 1, engine, ledger, exchange.rank)
    saved.stop(rounds, [engine.state(), *states[:1]], ledger, exchange.rank)
    return time.monotonic() - began


def _kept(what: str, number: int, rounds: int) -> Interrupted:
    return Interrupted(
        f"{what} after {number} of {rounds} rounds; all of it is kept. The same command on all "
        "boxes goes on there"
    )

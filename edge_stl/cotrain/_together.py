"""All nodes in one process, in lockstep: for tests and comparisons with dozens of nodes."""

from collections.abc import Callable, Collection, Mapping, Sequence

from edge_stl.cotrain._ledger import Bytes, Ledger
from edge_stl.cotrain._message import Message
from edge_stl.cotrain._node import Node


def run_together(
    nodes: Sequence[Node],
    *,
    rounds: int,
    ledger: Ledger,
    start: int = 0,
    gone: Callable[[int], Collection[int]] = lambda _number: (),
    after: Callable[[int, float], None] = lambda _number, _loss: None,
) -> None:
    """Run the rounds of all nodes.

    Every message becomes bytes and is read again, as on a wire; the ledger gets what left a node.
    When a node refuses a message (`Node.refused`) nothing goes between it and the sender any more.

    Args:
        nodes: node k at place k.
        rounds: how many in all.
        ledger: what is sent is entered here.
        start: the first round, where a run goes on.
        gone: nodes that are lost in a round and after.
        after: called after every round with its number and the mean loss.

    Raises:
        ValueError: the nodes do not agree on how many exchanges a round has.
    """
    for number in range(start, rounds):
        lost = frozenset(gone(number))
        running = {k: nodes[k].round(number) for k in range(len(nodes)) if k not in lost}
        outboxes: dict[int, Mapping[int, Message]] = {k: next(g) for k, g in running.items()}
        losses: list[float] = []
        while outboxes:
            inboxes = _deliver(nodes, outboxes, number, ledger)
            outboxes = {}
            for k, generator in running.items():
                try:
                    outboxes[k] = generator.send(inboxes[k])
                except StopIteration as end:
                    losses.append(end.value)
            if outboxes and len(outboxes) != len(running):
                raise ValueError("nodes with different numbers of exchanges in one round")
        after(number, sum(losses) / len(losses))


def _deliver(
    nodes: Sequence[Node],
    outboxes: Mapping[int, Mapping[int, Message]],
    number: int,
    ledger: Ledger,
) -> dict[int, dict[int, Message]]:
    inboxes: dict[int, dict[int, Message]] = {k: {} for k in outboxes}
    for sender, outbox in outboxes.items():
        for receiver, message in outbox.items():
            apart = receiver in nodes[sender].refused or sender in nodes[receiver].refused
            if receiver in inboxes and not apart:
                ledger.add(sender, number, Bytes.of(message))
                inboxes[receiver][sender] = Message.from_bytes(message.to_bytes())
    return inboxes

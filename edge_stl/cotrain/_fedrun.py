"""A server and its clients in one process: for tests and comparisons."""

from collections.abc import Callable, Collection, Sequence

from edge_stl.cotrain._fedclient import FedClient
from edge_stl.cotrain._fedserver import FedServer
from edge_stl.cotrain._fedwire import fed_bytes
from edge_stl.cotrain._ledger import Ledger


SERVER = -1
"""The server's number in the ledger: what it sent went down, what the clients sent went up."""


def run_server(
    server: FedServer,
    clients: Sequence[FedClient],
    *,
    ledger: Ledger,
    start: int = 0,
    gone: Callable[[int], Collection[int]] = lambda _number: (),
    after: Callable[[int, float], None] = lambda _number, _loss: None,
) -> None:
    """Run the rounds of a server.

    Args:
        server: with the settings of the run.
        clients: client k at place k.
        ledger: what is sent is entered here, the server's as node `SERVER`.
        start: the first round, where a run goes on.
        gone: clients that cannot be reached in a round.
        after: called after every round with its number and the mean loss, NaN when nobody trained.
    """
    for number in range(start, server.local.rounds):
        lost = frozenset(gone(number))
        replies = []
        orders = server.configure(number, [c.index for c in clients if c.index not in lost])
        for k, order in orders.items():
            ledger.add(SERVER, number, fed_bytes(order))
            reply = clients[k].answer(order)
            ledger.add(k, number, fed_bytes(reply))
            replies.append(reply)
        after(number, server.aggregate(number, replies))

"""The two programs that Flower runs: on the server and on every client."""

from typing import TYPE_CHECKING

from device_agent.flower._quiet import need_flower
from edge_stl.cotrain import FedClient, FedServer, Ledger
from edge_stl.errors import UsageError


if TYPE_CHECKING:
    from collections.abc import Callable

    from flwr.app import Context, Message
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp

_STATE = "edge-stl client"


def server_app(
    make: "Callable[[Context], FedServer]",
    *,
    done: "Callable[[Context, FedServer, Ledger], None]",
    fewest: int | None = None,
    patience: float = 120.0,
    timeout: float = 3600.0,
) -> "ServerApp":
    """Return a ServerApp that runs all rounds of a server.

    Args:
        make: the server of a run, from its configuration.
        done: called at the end, with the ledger of the bytes of every record; also when the run
            breaks off, with the model of the last round that was whole.
        fewest: clients that must be there before the first round; default all.
        patience: seconds to wait for them.
        timeout: seconds to wait for the answers of a round.

    Raises:
        UsageError: flwr is not installed.
    """
    need_flower()
    from flwr.serverapp import ServerApp

    app = ServerApp()

    @app.main()
    def main(grid: "Grid", context: "Context") -> None:
        from device_agent.flower._strategy import FedDIPStrategy, model_record

        server, ledger = make(context), Ledger()
        strategy = FedDIPStrategy(server, ledger, fewest=fewest, patience=patience)
        try:
            strategy.start(
                grid=grid,
                initial_arrays=model_record(server),
                num_rounds=server.local.rounds,
                timeout=timeout,
            )
        finally:
            done(context, server, ledger)

    return app


def client_app(make: "Callable[[Context, int], FedClient]") -> "ClientApp":
    """Return a ClientApp that answers orders.

    Flower makes the app anew for every message; the client's mask waits in the context.

    Args:
        make: the client of a node, from its configuration and its number (`partition-id`).

    Raises:
        UsageError: flwr is not installed.
    """
    need_flower()
    from flwr.app import ConfigRecord, Message, RecordDict
    from flwr.clientapp import ClientApp

    from device_agent.flower._parcel import pack, unpack
    from device_agent.flower._strategy import HELLO, INDEX

    app = ClientApp()

    @app.query()
    def hello(message: "Message", context: "Context") -> "Message":
        said = ConfigRecord({INDEX: client_index(context)})
        return Message(content=RecordDict({HELLO: said}), reply_to=message)

    @app.train()
    def train(message: "Message", context: "Context") -> "Message":
        client = make(context, client_index(context))
        _remember(client, context)
        answer = client.answer(unpack(message))
        _keep(client, context)
        return Message(content=pack(answer), reply_to=message)

    return app


def client_index(context: "Context") -> int:
    """Return which client a node is.

    Raises:
        UsageError: its configuration does not say.
    """
    index = context.node_config.get("partition-id")
    if not isinstance(index, int) or index < 0:
        raise UsageError(
            f"partition-id = {index!r}: expected the client's number, from 0. Start the SuperNode "
            "with --node-config 'partition-id=0'"
        )
    return index


def _remember(client: FedClient, context: "Context") -> None:
    import torch

    kept = context.state.array_records.get(_STATE)
    if kept is not None:
        client.restore({key: torch.from_numpy(kept[key].numpy().copy()) for key in kept})


def _keep(client: FedClient, context: "Context") -> None:
    from flwr.app import Array, ArrayRecord

    state = client.state()
    context.state[_STATE] = ArrayRecord({key: Array(state[key].numpy()) for key in state})

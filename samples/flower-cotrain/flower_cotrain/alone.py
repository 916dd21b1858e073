"""The same run without Flower: ``python -m flower_cotrain.alone`` must end with the same model."""

import sys
import tomllib
from pathlib import Path

from edge_stl.cotrain import Ledger, run_server
from flower_cotrain import task


def main() -> None:
    """Run; arguments like ``method=fedavg`` change what pyproject.toml says."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))
    options = project["tool"]["flwr"]["app"]["config"]
    for argument in sys.argv[1:]:
        key, _, text = argument.partition("=")
        options[key] = type(options[key])(text)
    server, ledger = task.server(options), Ledger()
    clients = [task.client(options, k) for k in range(server.clients)]
    run_server(server, clients, ledger=ledger)
    print("edge-stl:", task.report(options, server, ledger))


if __name__ == "__main__":
    main()

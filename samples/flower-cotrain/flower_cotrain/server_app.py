"""The program on the server."""

from device_agent.flower import server_app
from flower_cotrain import task


app = server_app(
    lambda context: task.server(context.run_config),
    done=lambda context, server, ledger: print(
        "edge-stl:", task.report(context.run_config, server, ledger), flush=True
    ),
)

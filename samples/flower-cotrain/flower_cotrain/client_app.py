"""The program on every client."""

from device_agent.flower import client_app
from flower_cotrain import task


app = client_app(lambda context, index: task.client(context.run_config, index))

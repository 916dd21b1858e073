"""FedAvg and FedDIP on Flower: a ServerApp, a ClientApp and a strategy that carry bytes.

All arithmetic is that of `edge_stl.cotrain.FedServer` and `FedClient`; Flower finds the clients,
brings them the orders and brings back the answers. So a run under Flower, simulated or deployed,
gives the bits of `edge_stl.cotrain.run_server`. Flower's reports to its makers are switched off.
"""

from device_agent.flower._apps import client_app as client_app, server_app as server_app
from device_agent.flower._quiet import QUIET as QUIET, need_flower as need_flower

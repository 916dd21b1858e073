"""Flower as it is started here: no report to anyone, nothing installed behind one's back."""

import os
from collections.abc import Mapping

from edge_stl.errors import UsageError


QUIET: Mapping[str, str] = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""What the environment of every Flower process says."""


def need_flower() -> None:
    """Make this process quiet, and see that flwr is there.

    Raises:
        UsageError: flwr is not installed.
    """
    os.environ.update(QUIET)  # before flwr is imported: it reads them then
    try:
        import flwr.app  # noqa: F401  (looked for, not used)
    except ImportError:
        raise UsageError(
            "co-training under Flower needs flwr: pip install 'edge-stl[cotrain]'"
        ) from None

"""The unattended service of a box: it trains when enough new images have come.

``edge-stl agent watch`` runs it, and ``edge-stl agent install-service`` writes the systemd unit
that does. Nothing here opens a network connection: the one socket is systemd's, in the file system.
"""

from edge_stl.service._hours import Hours, parse_hours
from edge_stl.service._notify import Notifier
from edge_stl.service._settings import Settings
from edge_stl.service._told import Log, Teller
from edge_stl.service._unit import Unit, unit_text
from edge_stl.service._watch import Summary, Watch


__all__ = [
    "Hours",
    "Log",
    "Notifier",
    "Settings",
    "Summary",
    "Teller",
    "Unit",
    "Watch",
    "parse_hours",
    "unit_text",
]

"""Telling systemd how the service is: sd_notify(3), without its library.

The one socket of edge-stl: a datagram to a unix socket whose address systemd gives in
NOTIFY_SOCKET. Where nobody gives one, no socket is made.
"""

import os
from collections.abc import Mapping
from contextlib import suppress


class Notifier:
    """Sends states to whoever started the service.

    Args:
        environment: NOTIFY_SOCKET, a path or an abstract name after ``@``; WATCHDOG_USEC with
            WATCHDOG_PID, which must be this process or missing.

    Attributes:
        watchdog_seconds: a sign of life is expected at least this often; None: none is.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        given = os.environ if environment is None else environment
        self._address = given.get("NOTIFY_SOCKET", "")
        if self._address[:1] not in ("/", "@"):  # other families (vsock) are not for a box
            self._address = ""
        microseconds = given.get("WATCHDOG_USEC", "")
        mine = given.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        wanted = mine and microseconds.isascii() and microseconds.isdecimal()
        self.watchdog_seconds = int(microseconds) / 1e6 if wanted and int(microseconds) else None

    def send(self, *states: str) -> None:
        """Send states like ``READY=1``; one that cannot be sent is lost, and nothing else is."""
        if not self._address:
            return
        import socket

        address = self._address
        if address.startswith("@"):
            address = "\0" + address[1:]
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.setblocking(False)
            end.sendto("\n".join(states).encode("utf-8", "replace"), address)

"""systemd is told what it understands, over its own socket, and nothing else is ever opened."""

import os
import socket
import uuid
from pathlib import Path

import pytest

from edge_stl.service import Notifier


def receive(end: socket.socket) -> str:
    end.settimeout(30)
    return end.recv(4096).decode()


@pytest.mark.parametrize("abstract", [False, True])
def test_states_arrive_at_a_path_and_at_an_abstract_name(tmp_path: Path, *, abstract: bool):
    name = f"@edge-stl-{uuid.uuid4()}" if abstract else str(tmp_path / "n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind("\0" + name[1:] if abstract else name)
        notifier = Notifier({"NOTIFY_SOCKET": name})
        notifier.send("READY=1", "STATUS=é\udcff")

        assert receive(end) == "READY=1\nSTATUS=é?"


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "relative/path", "192.0.2.1:80"])
def test_no_other_kind_of_address_makes_a_socket(monkeypatch: pytest.MonkeyPatch, address: str):
    def refuse(*_: object) -> None:
        raise AssertionError("a socket was made")

    monkeypatch.setattr(socket, "socket", refuse)
    Notifier({"NOTIFY_SOCKET": address}).send("READY=1")


def test_a_socket_that_is_gone_or_full_stops_nothing(tmp_path: Path):
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).send("READY=1")
    Notifier({"NOTIFY_SOCKET": "/" + "x" * 300}).send("READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "n"))
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "n")})
        for _ in range(5000):  # nobody reads: a socket that waits would wait for ever
            notifier.send("WATCHDOG=1" + 500 * "x")

        assert receive(end).startswith("WATCHDOG=1")


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "300000000"}, 300.0),
        ({"WATCHDOG_USEC": "300000000", "WATCHDOG_PID": str(os.getpid())}, 300.0),
        ({"WATCHDOG_USEC": "300000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "٣"}, None),
    ],
)
def test_the_watchdog_is_the_one_meant_for_this_process(
    given: dict[str, str], seconds: float | None
):
    assert Notifier(given).watchdog_seconds == seconds

"""The systemd unit: what the service may do, and as little else as it can work with.

Quoting follows systemd.syntax(7) and systemd.exec(5): words in double quotes with C escapes, ``%``
doubled, since it begins a specifier, and in commands ``$`` doubled, since it begins a variable.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_stl.errors import UsageError


HEADER = "# Written by: edge-stl agent install-service. The next one replaces it.\n"

_HOMES = ("/home", "/root", "/run/user")
_TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108  (where a path may lie, not where one is made)


@dataclass(frozen=True)
class Unit:
    """What a unit is made of; all paths absolute.

    Attributes:
        name: of the service; its state folder is ``/var/lib/<name>``.
        user: who runs it.
        arguments: of ``edge-stl``.
        reads: folders that it reads: the images, the plan's.
        writes: folders that it writes: outbox, work folder, that of the metrics file.
        gpu: whether it needs the devices of a GPU.
        memory_max: as systemd takes it, like ``1500M`` or ``75%``.
    """

    name: str
    user: str
    arguments: tuple[str, ...]
    reads: tuple[Path, ...]
    writes: tuple[Path, ...]
    gpu: bool = False
    memory_max: str = "75%"


def unit_text(unit: Unit, *, python: str = sys.executable) -> str:
    """Return the text of a unit file.

    Raises:
        UsageError: a path or option has a character that a unit file cannot hold.
    """
    program = Path(__file__).parents[2]
    places = [*unit.reads, *unit.writes, Path(python), Path(sys.prefix), program]
    for place in places:
        _plain(str(place))
    home = any(_below(place, _HOMES) for place in places)
    temporary = any(_below(place, _TEMPORARY) for place in places)
    command = " ".join([_word(python), *map(_argument, ["-m", "edge_stl", *unit.arguments])])
    if "$" in python:
        raise UsageError(
            f"{python}: holds '$', which systemd takes for a variable there; expected another "
            "path. Install edge-stl in a folder without it"
        )
    return f"""{HEADER}[Unit]
Description=edge-stl: trains on new images and fills its outbox
Documentation=https://www.freedesktop.org/software/systemd/man/systemd.service.html
RequiresMountsFor={_words(unit.reads + unit.writes)}
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
Environment={_word(f"PYTHONPATH={program}")} "TMPDIR=/var/lib/{unit.name}"
Environment=OMP_WAIT_POLICY=PASSIVE PYTHONDONTWRITEBYTECODE=1
WorkingDirectory=/
User={unit.user}
StateDirectory={unit.name}
StateDirectoryMode=0700
UMask=0022

# A stop writes a checkpoint and ends with 30; the agent is asked to by the service alone.
KillMode=mixed
TimeoutStopSec=90
SuccessExitStatus=30
Restart=on-failure
RestartSec=30
# Signs of life come from the loop itself. A first look at a million files takes a while.
WatchdogSec=300
TimeoutStartSec=900

# What the box is there for goes first. An agent that needs too much memory dies by itself, and the
# service starts it again.
Nice=10
CPUWeight=20
IOWeight=20
IOSchedulingClass=best-effort
IOSchedulingPriority=7
MemoryMax={_plain(unit.memory_max)}
OOMPolicy=continue
OOMScoreAdjust=500

# It reads the images and writes its own folders, and has no network but this socket to systemd.
ProtectSystem=strict
ReadOnlyPaths={_words(unit.reads)}
ReadWritePaths={_words(unit.writes)}
ProtectHome={"read-only" if home else "yes"}
PrivateTmp={"no" if temporary else "yes"}
PrivateNetwork=yes
RestrictAddressFamilies=AF_UNIX
PrivateDevices={"no" if unit.gpu else "yes"}
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
SystemCallArchitectures=native
LockPersonality=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RemoveIPC=yes
# Not MemoryDenyWriteExecute=yes: torch compiles its kernels while it runs, and ends without that.

[Install]
WantedBy=multi-user.target
"""


def _argument(text: str) -> str:
    return _word(text).replace("$", "$$")


def _words(paths: Sequence[Path]) -> str:
    unique = dict.fromkeys(str(path) for path in paths)
    return " ".join(_word(text) for text in unique)


def _word(text: str) -> str:
    escaped = _plain(text).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def _plain(text: str) -> str:
    """Refuse what would end a line of the unit, or cannot be text in it.

    Raises:
        UsageError: a control character, or bytes that are no UTF-8.
    """
    if not text.isprintable():  # newlines, control characters, surrogates of wrong bytes
        raise UsageError(
            f"{text!r}: cannot stand in a systemd unit; expected printable characters. Rename it"
        )
    return text


def _below(path: Path, roots: Sequence[str]) -> bool:
    # Both as it is written and where links lead: a home is often a link to another disk.
    return any(
        place.is_relative_to(root)
        for place in (path, Path(os.path.realpath(path)))
        for root in roots
    )

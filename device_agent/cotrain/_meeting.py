"""How the boxes of a group find each other: a store, what each says of itself, links.

The store is torchrun's own where torchrun started the box; else the first box of the group holds
it, bound to the group's private address alone. Training messages never go through it.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from device_agent.cotrain._address import own_address, resolved
from device_agent.cotrain._link import Link, Pulse, Wire
from edge_stl.errors import Interrupted, ResourceError, UsageError


if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

T = TypeVar("T")

START_SECONDS = 3600.0
"""So long a box waits for the others: the slowest one may decode its images first."""

_SAY_AFTER = 3.0
_POLL = 0.1
_LEAVE = 10.0
_MOST_BYTES = 1 << 16  # of what a box says of itself
_HOW = (
    "torchrun --nnodes N --node-rank K --master-addr ADDRESS --master-port PORT -m edge_stl cotrain"
    ' …, or write meet = "ADDRESS:PORT" of the first box into the group file'
)


@dataclass(frozen=True)
class Place:
    """Where the boxes meet, and which of them this is.

    Attributes:
        rank: of this box.
        world: how many there are.
        host: of the store.
        port: of the store.
        held: whether torchrun holds the store, so that every box is a client.
        attempt: of torchrun; what an earlier attempt left in its store is not looked at.
        where: who named the host, for sentences.
    """

    rank: int
    world: int
    host: str
    port: int
    held: bool
    attempt: str
    where: str


def place_of(boxes: Sequence[str], box: str, *, meet: str | None) -> Place:
    """Return where a box of a group meets the others.

    Args:
        boxes: in rank order.
        box: this one.
        meet: ``ADDRESS:PORT`` of the group file.

    Raises:
        UsageError: the box is not enrolled, or its rank is not its place; or nothing says where.
    """
    if box not in boxes:
        raise UsageError(
            f"--box {box}: is not enrolled in the group; its boxes are {', '.join(boxes)}. Add it "
            "to the group file on every box, or correct --box"
        )
    own = boxes.index(box)
    if "RANK" in os.environ:
        try:
            rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
            host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        except (KeyError, ValueError):
            raise UsageError(
                "RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT: not all set as torchrun sets them. "
                f"Start it with {_HOW}"
            ) from None
        if world != len(boxes):
            raise UsageError(
                f"WORLD_SIZE {world}: the group has {len(boxes)} boxes ({', '.join(boxes)}). Start "
                "one process on each of them"
            )
        if rank != own:
            raise UsageError(
                f"RANK {rank}: box {box} is number {own} of the group ({', '.join(boxes)}), from "
                f"0. Start it with --node-rank {own}"
            )
        held = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return Place(rank, world, host, port, held, attempt, f"MASTER_ADDR={host}")
    if meet is None:
        raise UsageError(f"cotrain: nothing says where the boxes meet. Start every box with {_HOW}")
    host, _, number = meet.rpartition(":")
    return Place(own, len(boxes), host.strip("[]"), int(number), False, "0", f"meet = {meet!r}")


class Meeting:
    """The boxes of a group, come together.

    Args:
        place: where, and which one this is.
        names: box ids in rank order.
        limit: seconds of silence after which a peer is lost.
        should_stop: asked while waiting.
        told: called with a sentence where it waits for long.
    """

    def __init__(
        self,
        place: Place,
        names: tuple[str, ...],
        *,
        limit: float,
        should_stop: Callable[[], bool],
        told: Callable[[str], object],
    ) -> None:
        self._place, self._names, self._limit = place, names, limit
        self._should_stop, self._told = should_stop, told
        # Before any socket is opened.
        self._host = resolved(place.host, place.port, where=place.where)
        self._own = own_address(self._host, place.port)
        self._store: Store | None = None

    def say(self, facts: dict[str, Any]) -> list[dict[str, Any]]:
        """Tell all others about this box, and return what each says, in rank order.

        Raises:
            UsageError: another process has this rank, or what a box says cannot be read.
            ResourceError: the meeting point or a box does not come.
            Interrupted: a stop was asked for.
        """
        own = json.dumps(facts, sort_keys=True)
        store = self._opened()
        try:
            return self._exchanged(store, own)
        except RuntimeError:
            raise ResourceError(
                f"{self._host}:{self._place.port}: the meeting point of the group went away. "
                f"See what {self._names[0]} says"
            ) from None

    def _exchanged(self, store: "Store", own: str) -> list[dict[str, Any]]:
        taken = store.compare_set(self._key("hello", self._place.rank), "", own)
        if taken != own.encode():
            raise UsageError(
                f"rank {self._place.rank}: another process has taken the place of "
                f"{self._names[self._place.rank]}. Start each box once"
            )
        self._wait_for("hello")
        said = []
        for rank, name in enumerate(self._names):
            said.append(_parsed(store.get(self._key("hello", rank)), name))
        store.set(self._key("seen", self._place.rank), "1")
        return said

    def leave(self) -> None:
        """Let the others read what was said, where this box holds the store; for a refusal."""
        end = time.monotonic() + _LEAVE
        keys = [self._key("seen", rank) for rank in range(self._place.world)]
        while self._store is not None and time.monotonic() < end:
            try:
                if self._store.check(keys):
                    return
            except RuntimeError:
                return
            time.sleep(_POLL)

    def links(self, *, largest: int, pulse: Pulse) -> dict[int, Link]:
        """Connect to every other box.

        Raises:
            ResourceError: one cannot be reached.
            Interrupted: a stop was asked for.
        """
        made: dict[int, Link] = {}
        for rank in range(self._place.world):
            if rank == self._place.rank:
                continue
            low, high = sorted((rank, self._place.rank))
            own, other = (0, 1) if self._place.rank == low else (1, 0)

            def connect(name: str = f"{low}-{high}", own: int = own) -> Wire:
                return self._wire(name, own)

            try:
                wire = self._patiently(connect, waits_for=self._names[rank])
            except RuntimeError:
                raise ResourceError(
                    f"{self._names[rank]}: no connection to it from {self._own}; expected one "
                    "within the private network. Look at its firewall and at GLOO_SOCKET_IFNAME"
                ) from None
            made[rank] = Link(wire, other, largest=largest, limit=self._limit, pulse=pulse)
        return made

    def _wire(self, name: str, own: int) -> Wire:
        from torch import distributed

        dist: Any = distributed  # torch exports these names without saying so to type checkers
        options = dist.ProcessGroupGloo._Options()  # noqa: SLF001
        # torch's only way to say which address gloo shall bind
        options._devices = [dist.ProcessGroupGloo.create_device(hostname=self._own)]  # noqa: SLF001
        options._timeout = timedelta(seconds=max(self._limit, 30.0))  # noqa: SLF001
        store = dist.PrefixStore(self._key("link", 0) + name, self._opened())
        wire: Wire = dist.ProcessGroupGloo(store, own, 2, options)
        return wire

    def _opened(self) -> "Store":
        if self._store is None:
            try:
                meeting = f"the meeting point {self._host}:{self._place.port}"
                self._store = self._patiently(self._open, waits_for=meeting)
            except RuntimeError:
                raise ResourceError(
                    f"{self._host}:{self._place.port}: the meeting point of the group does not "
                    f"answer; {self._names[0]} holds it. Start that box, and look at its firewall"
                ) from None
        return self._store

    def _open(self) -> "Store":
        from torch import distributed

        dist: Any = distributed
        place, timeout = self._place, timedelta(seconds=START_SECONDS)
        holds = place.rank == 0 and not place.held
        if not holds:
            met: Store = dist.TCPStore(
                self._host, place.port, is_master=False, wait_for_workers=False, timeout=timeout
            )
            return met
        # A socket of our own: torch's would listen on every interface.
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((self._host, place.port))
            listening.listen(128)
        except OSError as error:
            listening.close()
            raise ResourceError(
                f"{self._host}:{place.port}: cannot be listened on ({error.strerror}); expected an "
                "address of this box, the first of the group, and a free port. Correct it"
            ) from None
        held: Store = dist.TCPStore(
            self._host,
            place.port,
            is_master=True,
            wait_for_workers=False,
            timeout=timeout,
            master_listen_fd=listening.detach(),
        )
        return held

    def _key(self, what: str, rank: int) -> str:
        return f"edge-stl/{self._place.attempt}/{what}/{rank}"

    def _wait_for(self, what: str) -> None:
        store, began, said = self._opened(), time.monotonic(), False
        missing = set(range(self._place.world))
        while True:
            missing = {r for r in missing if not store.check([self._key(what, r)])}
            if not missing:
                return
            names = ", ".join(self._names[rank] for rank in sorted(missing))
            waited = time.monotonic() - began
            if waited > START_SECONDS:
                raise ResourceError(f"{names}: did not come within an hour. Start every box")
            if waited > _SAY_AFTER and not said:
                said = True
                self._told(f"waiting for {names}")
            self._stop_if_asked()
            time.sleep(_POLL)

    def _stop_if_asked(self) -> None:
        if self._should_stop():
            raise Interrupted("stopped while waiting for the other boxes. The same command goes on")

    def _patiently(self, work: Callable[[], T], *, waits_for: str) -> T:
        """Do what blocks inside torch, and still answer a request to stop."""
        results: list[T] = []
        errors: list[Exception] = []

        def run() -> None:
            try:
                results.append(work())
            except Exception as error:  # noqa: BLE001  (raised again where it is waited for)
                errors.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        began, said = time.monotonic(), False
        while thread.is_alive():
            self._stop_if_asked()
            thread.join(_POLL)
            if time.monotonic() - began > _SAY_AFTER and not said:
                said = True
                self._told(f"waiting for {waits_for}")
        if errors:
            raise errors[0]
        return results[0]


def _parsed(text: bytes, name: str) -> dict[str, Any]:
    try:
        document = json.loads(text) if len(text) <= _MOST_BYTES else None
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise UsageError(
            f"{name}: what it says of itself cannot be read; expected the same version of "
            "edge-stl. Install the same one on every box"
        )
    return document

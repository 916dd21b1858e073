"""Boxes that meet over gloo within one process, a thread each."""

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch.distributed import TCPStore

from device_agent.cotrain._exchange import GlooExchange
from device_agent.cotrain._link import Pulse
from device_agent.cotrain._meeting import Meeting, Place
from edge_stl.cotrain import Ledger


NAMES = ("cam01", "cam02", "cam03", "cam04", "cam05")
LARGEST = 1 << 20


class Hall:
    """A store on a port of its own, and who meets there.

    Args:
        world: how many boxes.
        limit: seconds of silence.
    """

    def __init__(self, world: int, *, limit: float = 20.0) -> None:
        self.world, self.limit = world, limit
        self.names = NAMES[:world]
        self.store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.told: list[str] = []
        self.ledgers = {rank: Ledger() for rank in range(world)}

    def place(self, rank: int, **changes: Any) -> Place:
        facts = {
            "rank": rank,
            "world": self.world,
            "host": "127.0.0.1",
            "port": self.store.port,
            "held": True,
            "attempt": "0",
            "where": "MASTER_ADDR=127.0.0.1",
        }
        return Place(**(facts | changes))

    def meeting(self, rank: int, **changes: Any) -> Meeting:
        return Meeting(
            self.place(rank, **changes),
            self.names,
            limit=self.limit,
            should_stop=lambda: False,
            told=self.told.append,
        )

    def exchange(self, rank: int, *, largest: int = LARGEST) -> GlooExchange:
        pulse = Pulse(self.limit)
        return GlooExchange(
            rank,
            self.meeting(rank).links(largest=largest, pulse=pulse),
            names=self.names,
            ledger=self.ledgers[rank],
            pulse=pulse,
            told=self.told.append,
        )


def listening() -> set[tuple[str, int]]:
    """Return the addresses, as the kernel writes them, and ports that this process listens on."""
    own = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            own.add(str(descriptor.readlink()))
    found = set()
    for table in ("/proc/self/net/tcp", "/proc/self/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            words = line.split()
            address, _, port = words[1].partition(":")
            if words[3] == "0A" and f"socket:[{words[9]}]" in own:
                found.add((address, int(port, 16)))
    return found


def together(world: int, work: Callable[[int], Any]) -> list[Any]:
    """Do something at every rank at the same time; an error of one of them is raised here."""
    results: list[Any] = [None] * world
    errors: list[BaseException] = []

    def run(rank: int) -> None:
        try:
            results[rank] = work(rank)
        except BaseException as error:  # noqa: BLE001  (raised again in the test's own thread)
            errors.append(error)

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive(), "a box hangs"
    if errors:
        raise errors[0]
    return results

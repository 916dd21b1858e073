"""Who reaches the ports of a group without being of it: noise, silence, and what ends gloo."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from device_agent.cotrain._exchange import GlooExchange
from device_agent.cotrain._link import Pulse
from edge_stl._parent import ALONE
from edge_stl.cotrain import Ledger, Message
from edge_stl.plan import new_plan, plan_toml
from tests.cotrain_engine.hall import LARGEST, Hall, listening, together


ROOT = Path(__file__).parents[2]
CLASSES = ["red", "green"]
NOISE = np.random.default_rng(0).bytes(50_000)
SAID = [b"", b"\0\0\0", bytes(50_000), b"\xff" * 50_000, NOISE, b"GET / HTTP/1.1\r\n\r\n"]


@pytest.fixture
def doors() -> Iterator[ExitStack]:
    """Connections of strangers, open until the test ends."""
    with ExitStack() as stack:
        yield stack


def _knock(doors: ExitStack, port: int) -> None:
    for said in SAID:
        line = doors.enter_context(closing(socket.create_connection(("127.0.0.1", port), 5)))
        try:
            line.sendall(said)
        except OSError:  # hung up on
            continue


def test_strangers_at_the_meeting_and_at_the_links_are_not_heard(doors: ExitStack):
    hall, others = Hall(2), listening()
    _knock(doors, hall.store.port)

    def box(rank: int) -> Any:
        pulse = Pulse(20)
        meeting = hall.meeting(rank)
        said = meeting.say({"box": hall.names[rank]})
        exchange = GlooExchange(
            rank,
            meeting.links(largest=LARGEST, pulse=pulse),
            names=hall.names,
            ledger=Ledger(),
            pulse=pulse,
        )
        got = []
        for number in range(6):
            if number == 2 and rank == 0:
                ports = listening() - others
                assert ports
                for _, port in ports:
                    _knock(doors, port)
            got.append(list(exchange.exchange({1 - rank: Message(number)}, number)))
        exchange.close()
        return said, got, exchange.lost

    ran = together(2, box)

    assert ran[0][0] == ran[1][0] == [{"box": "cam01"}, {"box": "cam02"}]
    assert [ran[0][1:], ran[1][1:]] == [([[1]] * 6, {}), ([[0]] * 6, {})]


def test_a_peer_that_ends_gloo_is_one_line_and_exit_code_20_and_the_rounds_are_kept(
    tmp_path: Path, pictures: Callable[..., Path]
):
    pictures(tmp_path / "photos", CLASSES, count=6, side=8)
    plan = new_plan(classes=CLASSES, resolution=8, levels=1, branches="single", network="cnn-s-gn")
    (tmp_path / "plan.toml").write_text(plan_toml(plan))
    (tmp_path / "group.toml").write_text(
        'format = 1\nname = "gate"\nbranch = "ca1"\nboxes = ["cam01", "cam02"]\nbatch = 4\n'
    )
    hall = Hall(2)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "RANK": "0",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(hall.store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    environment.pop(ALONE, None)
    command = "cotrain full plan.toml photos --group group.toml --box cam01 -o out --work work -q"
    with subprocess.Popen(
        [sys.executable, "-m", "edge_stl", *command.split(), "--threads", "1"],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        meeting = hall.meeting(1)
        store = meeting._opened()
        end = time.monotonic() + 150
        while not store.check(["edge-stl/0/hello/0"]):
            assert time.monotonic() < end
            assert process.poll() is None
            time.sleep(0.05)
        facts = json.loads(store.get("edge-stl/0/hello/0"))
        meeting.say(facts | {"box": "cam02"})
        wire = meeting._wire("0-1", 1)
        # Longer than the frame that is waited for: gloo calls abort() on that.
        long = torch.zeros(300, dtype=torch.uint8)
        sent = wire.send([long], 0, 0)
        with suppress(RuntimeError):  # the box is gone
            sent.wait(timedelta(seconds=60))
        _, said = process.communicate(timeout=150)

    assert process.returncode == 20
    (line,) = [line for line in said.splitlines() if line.startswith("edge-stl: ")]
    assert line.startswith("edge-stl: cotrain: the agent gave up (SIGABRT), ")
    assert "gloo does so too when what reaches its ports sends what no box sends" in line
    assert "Its last rounds are kept: the same command on all boxes goes on there" in line

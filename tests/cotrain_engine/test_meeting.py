"""How boxes meet: who may, at which addresses, and what they must agree on."""

import json
import socket
import threading
import time
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest

from device_agent.cotrain import _address, _meeting
from device_agent.cotrain._address import own_address, refuse_public, resolved
from device_agent.cotrain._link import Pulse
from device_agent.cotrain._meeting import Meeting, place_of
from device_agent.cotrain._start import agreed, start_text
from edge_stl.errors import Interrupted, ResourceError, UsageError
from tests.cotrain_engine.hall import LARGEST, Hall, listening, together


BOXES = ("cam01", "cam02")
TORCHRUN = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
}


@pytest.fixture
def torchrun(monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in (*TORCHRUN, "TORCHELASTIC_RESTART_COUNT", "GLOO_SOCKET_IFNAME"):
        monkeypatch.delenv(name, raising=False)

    def started(**changes: str) -> None:
        for name, value in (TORCHRUN | changes).items():
            monkeypatch.setenv(name, value)

    return started


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "2001:4860:4860::8888", "::ffff:8.8.8.8", "1.1.1.1", "224.0.0.1", "ff02::1"],
)
def test_a_public_address_is_refused(address: str):
    with pytest.raises(UsageError, match=r"MASTER_ADDR=x: .* is a public address"):
        refuse_public(address, where="MASTER_ADDR=x")


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])  # noqa: S104
def test_every_interface_at_once_is_refused(address: str):
    with pytest.raises(UsageError, match="means every interface; expected one private address"):
        refuse_public(address, where="meet")


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.8.0.1", "192.168.1.7", "172.16.0.9", "100.64.3.2", "fd00::1", "fe80::1%eth0"],
)
def test_private_addresses_are_taken(address: str):
    refuse_public(address, where="meet")


def test_a_name_with_one_public_address_is_refused(monkeypatch: pytest.MonkeyPatch):
    answers = [(socket.AF_INET, 1, 6, "", (a, 1)) for a in ("10.0.0.1", "9.9.9.9")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers)

    with pytest.raises(UsageError, match=r"9\.9\.9\.9 is a public address"):
        resolved("gate.example", 1, where="MASTER_ADDR=gate.example")


def test_a_name_that_is_unknown_is_refused():
    with pytest.raises(UsageError, match="is no address and no name that is known here"):
        resolved("no such name", 1, where="meet")


def test_the_address_that_gloo_binds_is_private_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    assert own_address("127.0.0.1", 29500) == "127.0.0.1"
    monkeypatch.setattr(
        socket.socket, "getsockname", lambda _self: ("81.2.69.142", 1), raising=False
    )

    with pytest.raises(UsageError, match=r"the address of this box towards 127\.0\.0\.1: 81\.2"):
        own_address("127.0.0.1", 29500)


def test_the_interface_that_is_named_is_looked_at(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    assert own_address("10.8.0.1", 29500) == "127.0.0.1"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nosuch0")

    with pytest.raises(UsageError, match="GLOO_SOCKET_IFNAME=nosuch0: no interface"):
        own_address("10.8.0.1", 29500)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    monkeypatch.setattr(_address, "_of_interface", lambda _name: "81.2.69.142")
    with pytest.raises(UsageError, match=r"GLOO_SOCKET_IFNAME=lo: 81\.2\.69\.142 is a public"):
        own_address("10.8.0.1", 29500)


def test_a_box_that_is_not_enrolled_is_refused(torchrun: Any):
    torchrun()

    with pytest.raises(UsageError, match=r"--box cam09: is not enrolled .* cam01, cam02"):
        place_of(BOXES, "cam09", meet=None)


def test_a_rank_that_is_not_the_place_of_the_box_is_refused(torchrun: Any):
    torchrun()

    with pytest.raises(UsageError, match="RANK 1: box cam01 is number 0 of the group"):
        place_of(BOXES, "cam01", meet=None)
    assert place_of(BOXES, "cam02", meet=None).rank == 1


def test_another_number_of_processes_than_boxes_is_refused(torchrun: Any):
    torchrun(WORLD_SIZE="3")

    with pytest.raises(UsageError, match=r"WORLD_SIZE 3: the group has 2 boxes"):
        place_of(BOXES, "cam02", meet=None)


def test_half_an_environment_says_how_to_start(torchrun: Any, monkeypatch: pytest.MonkeyPatch):
    torchrun()
    monkeypatch.delenv("MASTER_PORT")

    with pytest.raises(UsageError, match=r"not all set as torchrun sets them. .*--nnodes N"):
        place_of(BOXES, "cam02", meet=None)


@pytest.mark.usefixtures("torchrun")
def test_without_torchrun_and_without_meet_one_line_says_how_to_start():
    with pytest.raises(UsageError, match=r"Start every box with torchrun .* or write meet = "):
        place_of(BOXES, "cam02", meet=None)

    place = place_of(BOXES, "cam02", meet="10.8.0.1:29500")
    assert (place.rank, place.host, place.port, place.held) == (1, "10.8.0.1", 29500, False)
    assert place_of(BOXES, "cam01", meet="[fd00::1]:29500").host == "fd00::1"


def test_the_first_box_holds_the_meeting_on_its_private_address_alone():
    with closing(socket.socket()) as kept:  # keeps the port for us without listening on it
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(("127.0.0.1", 0))
        port = kept.getsockname()[1]
        hall = Hall(2)

        def box(rank: int) -> Any:
            meeting = hall.meeting(rank, held=False, port=port)
            said = meeting.say({"box": BOXES[rank]})
            links = meeting.links(largest=LARGEST, pulse=Pulse(20))
            listening = _listening(port) if rank == 0 else ""
            for link in links.values():
                link.leave()
                link.close(time.monotonic() + 5)
            return said, listening

        ran = together(2, box)

    assert ran[0][0] == ran[1][0] == [{"box": "cam01"}, {"box": "cam02"}]
    assert ran[0][1] == {"0100007F"}  # 127.0.0.1, as the kernel writes it


def _listening(port: int) -> set[str]:
    return {address for address, number in listening() if number == port}


def test_gloo_listens_on_the_own_address_alone():
    hall, before = Hall(2), listening()

    def box(rank: int) -> Any:
        meeting = hall.meeting(rank)
        meeting._own = f"127.0.0.{7 + rank}"
        links = meeting.links(largest=LARGEST, pulse=Pulse(20))
        ready.wait()
        found = {address for address, _ in listening() - before}
        ready.wait()
        for link in links.values():
            link.leave()
            link.close(time.monotonic() + 5)
        return found

    ready = threading.Barrier(2)

    # 127.0.0.7 and 127.0.0.8, as the kernel writes them
    assert together(2, box)[0] == {"0700007F", "0800007F"}


def test_who_refuses_lets_the_others_read_why(monkeypatch: pytest.MonkeyPatch):
    hall = Hall(2)
    first = hall.meeting(0)
    second = hall.meeting(1)
    second._opened().set("edge-stl/0/hello/1", "{}")
    first.say({})
    read = threading.Event()

    def reads() -> None:
        time.sleep(0.5)
        read.set()
        second._opened().set("edge-stl/0/seen/1", "1")

    reader = threading.Thread(target=reads)
    reader.start()
    first.leave()

    assert read.is_set()
    reader.join()
    monkeypatch.setattr(_meeting, "_LEAVE", 0.3)
    alone = hall.meeting(0, attempt="1")
    alone._opened()
    alone.leave()  # does not wait for ever for a box that has gone


def test_an_address_that_is_not_of_this_box_cannot_be_listened_on():
    hall = Hall(2)
    meeting = Meeting(
        hall.place(0, held=False, host="192.0.2.1", port=1),
        hall.names,
        limit=5,
        should_stop=lambda: False,
        told=print,
    )

    with pytest.raises(ResourceError, match=r"192\.0\.2\.1:1: cannot be listened on"):
        meeting.say({})


def test_the_same_rank_twice_is_refused():
    hall = Hall(2)
    store = hall.meeting(0)._opened()
    store.set("edge-stl/0/hello/0", "{}")
    store.set("edge-stl/0/hello/1", json.dumps({"box": "cam02", "x": 1}))

    with pytest.raises(UsageError, match="another process has taken the place of cam02"):
        hall.meeting(1).say({"box": "cam02"})


@pytest.mark.parametrize("call", ["compare_set", "check", "get", "set"])
def test_a_meeting_point_that_goes_away_is_one_line(call: str):
    def gone(*_: object) -> None:
        raise RuntimeError("Connection reset by peer")

    hall = Hall(1)
    meeting = hall.meeting(0)
    meeting._opened()
    store: Any = SimpleNamespace(
        compare_set=lambda _key, _before, own: own.encode(),
        check=lambda _keys: True,
        get=lambda _key: b"{}",
        set=lambda _key, _value: None,
    )
    setattr(store, call, gone)
    meeting._store = store

    with pytest.raises(
        ResourceError, match=r"the meeting point of the group went away\. See what c"
    ):
        meeting.say({})


def test_who_waits_says_for_whom_and_can_be_stopped(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_meeting, "_SAY_AFTER", 0.2)
    hall, stop = Hall(2), time.monotonic() + 1
    meeting = Meeting(
        hall.place(0),
        hall.names,
        limit=5,
        should_stop=lambda: time.monotonic() > stop,
        told=hall.told.append,
    )

    with pytest.raises(Interrupted, match="stopped while waiting for the other boxes"):
        meeting.say({"box": "cam01"})
    assert hall.told == ["waiting for cam02"]


@pytest.mark.parametrize("text", ["[1]", "{", '{"x": "' + "x" * 70_000 + '"}', "[" * 60_000])
def test_what_a_box_says_is_read_with_care(text: str):
    hall = Hall(2)
    hall.meeting(1)._opened().set("edge-stl/0/hello/1", text)

    with pytest.raises(UsageError, match="cam02: what it says of itself cannot be read"):
        hall.meeting(0).say({"box": "cam01"})


FACTS = {
    "box": "cam01",
    "version": "0.1.0",
    "plan": "a" * 64,
    "group": "b" * 64,
    "resolution": 32,
    "patience": 60.0,
    "rounds": [0, 8, 16],
}


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("plan", "c" * 64, r"cam02: has another plan \(cccccccccccc\) than cam01 \(aaaaaaaaaaaa\)"),
        ("group", "c" * 64, "cam02: has another group file, method or options"),
        ("version", "9", "cam02: has another edge-stl"),
        ("resolution", 64, r"cam02: has another native resolution \(64\) than cam01 \(32\)"),
        ("patience", 5.0, r"cam02: has another --peer-timeout \(5.0\) than cam01 \(60.0\)"),
        ("box", "cam07", "rank 1: box 'cam07' came; expected cam02"),
        ("box", None, "rank 1: box 'None' came; expected cam02"),
    ],
)
def test_a_box_that_does_something_else_is_refused_by_name(key: str, value: Any, said: str):
    other = FACTS | {"box": "cam02"} | {key: value}

    with pytest.raises(UsageError, match=said):
        agreed([FACTS, other], FACTS, BOXES, 0)


@pytest.mark.parametrize(
    ("rounds", "start"), [([0, 8, 12], 8), ([0, 16, 20], 16), ([0], 0), ([0, 5], 0), (["x"], 0)]
)
def test_all_go_on_from_the_newest_round_that_everybody_has(rounds: list[Any], start: int):
    other = FACTS | {"box": "cam02", "rounds": rounds}

    assert agreed([FACTS, other], FACTS, BOXES, 0) == start


@pytest.mark.parametrize(
    ("theirs", "start", "said"),
    [
        ([0, 8, 16], 16, "going on after round 16"),
        ([0, 8], 8, "going on after round 8: this box keeps what was after round 16, cam02 not"),
        ([0], 0, "beginning anew: this box keeps what was after round 16, cam02 not"),
        (None, 0, "beginning anew: this box keeps what was after round 16, cam02 not"),
    ],
)
def test_a_box_says_where_the_run_goes_on_and_who_keeps_less(theirs: Any, start: int, said: str):
    other = FACTS | {"box": "cam02", "rounds": theirs}

    assert start_text([FACTS, other], BOXES, start=start, kept=[0, 8, 16]) == said


def test_a_first_start_has_nothing_to_go_on_from():
    other = FACTS | {"box": "cam02"}

    assert start_text([FACTS | {"rounds": [0]}, other], BOXES, start=0, kept=[0]) == ""

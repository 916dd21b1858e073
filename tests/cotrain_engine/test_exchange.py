"""The transport of a round: the same bits as in one process, and what a peer may not send."""

import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
import torch

from device_agent.cotrain import _exchange
from device_agent.cotrain._link import PIECE_BYTES, Link, Pulse, _frame
from device_agent.cotrain._methods import METHODS, NODES, make_node, settings_class
from edge_stl.cotrain import (
    FRAME_BYTES,
    FullSharing,
    Graph,
    Ledger,
    LocalSettings,
    Message,
    Node,
    Seat,
    run_together,
)
from edge_stl.errors import Interrupted
from tests.cotrain.toy import not_finite, spoil, toy_nodes, toy_problem
from tests.cotrain_engine.hall import LARGEST, Hall, together


RING = Graph.make("ring", 5).neighbours
ROUNDS = 4


def _node(method: str, rank: int) -> Node:
    kind = settings_class(method)
    local = LocalSettings(rate=0.2, rounds=ROUNDS, steps=2, momentum=0.5)
    settings = None if kind is None else kind()
    return make_node(method, Seat(rank, RING[rank], 3), toy_problem(rank), local, settings)


@pytest.mark.parametrize("method", [m for m in METHODS if m in NODES])
def test_a_run_over_gloo_has_the_bits_and_the_bytes_of_a_run_in_one_process(method: str):
    hall = Hall(5)
    ours = [_node(method, rank) for rank in range(5)]  # not in the threads: they draw

    def box(rank: int) -> Any:
        node, exchange = ours[rank], hall.exchange(rank)
        losses = [exchange.round(node, number) for number in range(ROUNDS)]
        exchange.close()
        return node.vector, losses

    ran = together(5, box)
    ledger = Ledger()
    for own in hall.ledgers.values():
        ledger.merge(own)
    nodes, expected, losses = [_node(method, rank) for rank in range(5)], Ledger(), []
    run_together(nodes, rounds=ROUNDS, ledger=expected, after=lambda _, loss: losses.append(loss))

    assert all(torch.equal(ran[k][0], nodes[k].vector) for k in range(5))
    assert [sum(row) / 5 for row in zip(*(r[1] for r in ran), strict=True)] == losses
    assert {k: ledger.sent[k] for k in range(5)} == expected.sent
    # a busy machine is slow to come
    assert [line for line in hall.told if not line.startswith("waiting for ")] == []


@pytest.mark.parametrize("method", NODES)
def test_who_sends_what_cannot_be_used_is_lost_and_the_others_go_on_without_it(method: str):
    hall, ours = Hall(5), [_node(method, rank) for rank in range(5)]
    spoil(ours[2], not_finite, since=2)

    def box(rank: int) -> Any:
        exchange = hall.exchange(rank)
        for number in range(ROUNDS):
            exchange.round(ours[rank], number)
        ready.wait(100)  # nobody loses one that is through
        exchange.close()
        return exchange.lost

    ready = threading.Barrier(5)
    lost = together(5, box)
    nodes = [_node(method, rank) for rank in range(5)]
    spoil(nodes[2], not_finite, since=2)
    run_together(nodes, rounds=ROUNDS, ledger=Ledger())

    assert [sorted(each) for each in lost] == [[], [2], [1, 3], [2], []]
    told = [line for line in hall.told if line.startswith("cam03: ")]
    assert len(told) == 2
    for line in told:
        assert re.match(r"cam03: lost, it sent .*(finite|nan).*; going on without it$", line)
    assert all(torch.equal(ours[k].vector, nodes[k].vector) for k in range(5))


def test_a_box_that_leaves_is_told_once_by_name_and_the_others_go_on():
    hall = Hall(3)
    local = LocalSettings(rate=0.2, rounds=6)
    triangle = Graph.make("ring", 3).neighbours
    nodes = toy_nodes(FullSharing, triangle, local)

    def box(rank: int) -> Any:
        exchange = hall.exchange(rank)
        rounds = 2 if rank == 2 else 6
        for number in range(rounds):
            exchange.round(nodes[rank], number)
        if rank < 2:
            ready.wait()
        alive = exchange.alive
        if rank < 2:
            ready.wait()
        exchange.close()
        return alive

    ready = threading.Barrier(2)
    alive = together(3, box)

    assert alive[0] == alive[1] == [0, 1]
    assert sorted(hall.told) == ["cam03: lost, it left the run; going on without it"] * 2
    reference = toy_nodes(FullSharing, triangle, local)
    run_together(
        reference, rounds=6, ledger=Ledger(), gone=lambda number: (2,) if number >= 2 else ()
    )
    assert torch.equal(nodes[0].vector, reference[0].vector)


def test_a_long_message_arrives_whole():
    hall = Hall(2)
    data = bytes(range(256)) * (PIECE_BYTES // 128) + b"end"

    def box(rank: int) -> Any:
        exchange = hall.exchange(rank, largest=len(data) + 100)
        got = exchange.exchange({1 - rank: Message(0, values=data[rank:])}, 0)
        exchange.close()
        return got[1 - rank].values

    assert together(2, box) == [data[1:], data]


def _against(send: Callable[[Any], object], *, limit: float = 20.0) -> Any:
    """Return how the exchange of rank 0 sees a peer that does as it likes with its wire."""
    hall = Hall(2, limit=limit)

    def box(rank: int) -> Any:
        if rank == 0:
            exchange = hall.exchange(0)
            answer = exchange.exchange({1: Message(0, kind=1)}, 0)
            exchange.close()
            return answer, exchange.lost, exchange.alive
        wire = hall.meeting(1)._wire("0-1", 1)
        send(wire)
        return wire

    return together(2, box)[0]


def _sending(*frames: bytes) -> Callable[[Any], None]:
    def send(wire: Any) -> None:
        for data in frames:
            wire.send([torch.frombuffer(bytearray(data), dtype=torch.uint8)], 0, 0).wait()

    return send


def _framed(data: bytes) -> list[bytes]:
    return [_frame(len(data)).numpy().tobytes(), data]


@pytest.mark.parametrize("length", [1 << 62, LARGEST + 1, 5, -2, -(1 << 63)])
def test_a_length_that_no_message_has_is_refused_before_memory_is_taken(length: int):
    answer, lost, alive = _against(_sending(_frame(length).numpy().tobytes()))

    assert answer == {}
    assert alive == [0]
    assert f"it announced a message of {length} bytes" in lost[1]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (Message(7, kind=1).to_bytes(), "it sent a message of round 7, kind 1, in round 0, kind 1"),
        (Message(0, kind=2).to_bytes(), "it sent a message of round 0, kind 2, in round 0, kind 1"),
        (b"x" * 64, "it sent a message of 64 bytes: not one of this version"),
        (Message(0, kind=1, values=b"1234").to_bytes()[:-1], "its header says"),
    ],
)
def test_what_is_no_message_of_this_round_loses_its_sender(data: bytes, said: str):
    answer, lost, _ = _against(_sending(*_framed(data)))

    assert answer == {}
    assert said in lost[1]


def test_what_a_short_piece_leaves_out_is_zero_and_no_old_memory(monkeypatch: pytest.MonkeyPatch):
    full = torch.full
    monkeypatch.setattr(torch, "empty", lambda count, dtype: full((count,), 7, dtype=dtype))
    monkeypatch.setattr(_exchange, "_LEAVE", 0.3)
    data = Message(0, kind=1, values=b"\5" * 40).to_bytes()
    frame = _frame(len(data)).numpy().tobytes()

    answer, _, _ = _against(_sending(frame, data[:-30], _frame(-1).numpy().tobytes()))

    assert answer[1].values == b"\5" * 10 + bytes(30)


def test_a_flood_of_messages_is_refused():
    def flood(wire: Any) -> None:
        send = _sending(*_framed(Message(0, kind=1).to_bytes()))
        for _ in range(500):
            send(wire)

    hall = Hall(2)

    def box(rank: int) -> Any:
        if rank == 0:
            exchange = hall.exchange(0)
            end = time.monotonic() + 20
            while exchange.alive == [0, 1] and time.monotonic() < end:
                time.sleep(0.02)
            exchange.close()
            return exchange.lost
        with pytest.raises(RuntimeError, match=r"(?i)connection|closed|timeout|timed out"):
            flood(hall.meeting(1)._wire("0-1", 1))
        return None

    assert together(2, box)[0] == {1: "it sends more messages than were asked for"}


def test_silence_loses_a_peer_and_its_sign_of_life_does_not():
    _, silent, _ = _against(lambda _wire: time.sleep(3), limit=1.0)

    assert silent == {1: "nothing was heard of it for 1 s"}

    hall = Hall(2, limit=1.0)

    def box(rank: int) -> Any:
        exchange = hall.exchange(rank)
        end = time.monotonic() + (2.5 if rank == 1 else 0)
        while time.monotonic() < end:
            exchange._pulse.tick()
            time.sleep(0.05)
        answer = exchange.exchange({1 - rank: Message(0)}, 0)
        exchange.close()
        return list(answer)

    assert together(2, box) == [[1], [0]]
    assert [line for line in hall.told if not line.startswith("waiting for ")] == []


def _listens(wire: Any) -> None:
    wire.recv([torch.zeros(99, dtype=torch.uint8)], 0, 0).wait(timedelta(seconds=5))


def _talks(wire: Any) -> None:
    wire.send([_frame(0)], 0, 0).wait(timedelta(seconds=5))
    time.sleep(0.1)


@pytest.mark.parametrize("does", [_listens, _talks])
def test_a_peer_that_only_listens_or_only_talks_is_lost(does: Callable[[Any], None]):
    outlived: list[bool] = []

    def peer(wire: Any) -> None:
        end = time.monotonic() + 20
        with suppress(RuntimeError):  # hung up on
            while time.monotonic() < end:
                does(wire)
        outlived.append(time.monotonic() >= end)

    _, lost, _ = _against(peer, limit=1.0)

    assert lost == {1: "nothing was heard of it for 1 s"}
    assert outlived == [False]


def test_a_main_thread_that_hangs_gives_no_sign_of_life():
    hall = Hall(2, limit=0.8)

    def box(rank: int) -> Any:
        wire = hall.meeting(rank)._wire("0-1", rank)
        pulse = Pulse(0.8)
        link = Link(wire, 1 - rank, largest=LARGEST, limit=0.8, pulse=pulse)
        end = time.monotonic() + 4
        while time.monotonic() < end and link.lost is None:
            if rank == 0:
                pulse.tick()
            time.sleep(0.05)
        reason = link.lost
        link.leave()
        link.close(time.monotonic() + 1)
        return reason

    assert together(2, box)[0] == "nothing was heard of it for 0.8 s"


def test_idle_links_cost_a_frame_now_and_then_and_nothing_in_the_ledger():
    hall = Hall(2, limit=0.8)

    def box(rank: int) -> Any:
        exchange = hall.exchange(rank)
        for _ in range(30):
            exchange._pulse.tick()
            time.sleep(0.05)
        sent, alive = exchange._links[1 - rank].idle_bytes, exchange.alive
        ready.wait()
        exchange.close()
        return sent, alive

    ready = threading.Barrier(2)

    for sent, alive in together(2, box):
        assert sent >= 3 * FRAME_BYTES
        assert alive == [0, 1]
    assert hall.ledgers[0].total.total == 0


def test_who_waits_for_a_message_can_be_stopped():
    hall = Hall(2)

    def box(rank: int) -> Any:
        exchange = hall.exchange(rank)
        if rank == 0:

            def stop() -> None:
                raise Interrupted("stopped")

            exchange._check = stop
            with pytest.raises(Interrupted, match="stopped"):
                exchange.receive(1, number=0, kind=0)
        else:
            assert exchange.receive(0, number=0, kind=0) is None  # the other leaves
        exchange.close()

    together(2, box)


def test_a_link_that_is_closed_early_keeps_what_came_before():
    hall = Hall(2)

    def box(rank: int) -> Any:
        exchange = hall.exchange(rank)
        if rank == 1:
            exchange.send(0, Message(0), 0)
            exchange.close()
            return None
        link = exchange._links[1]
        while link.lost is None:
            time.sleep(0.02)
        got = exchange.receive(1, number=0, kind=0)
        exchange.close()
        return got

    assert together(2, box)[0] == Message(0)

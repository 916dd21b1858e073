"""What server and client send each other, and what they refuse."""

import math
import struct
from collections.abc import Callable
from contextlib import suppress
from functools import cache

import pytest
import torch
from hypothesis import given, settings as hypothesis_settings, strategies as st

from edge_stl.cotrain import FedClient, FedDIPSettings, FedServer, Message, pack_floats
from edge_stl.cotrain._fedwire import ANSWER, ORDER
from edge_stl.cotrain._masks import Prunable
from edge_stl.errors import DataError
from tests.cotrain.test_feddip import federation
from tests.cotrain.toy import toy_problem


DIP = FedDIPSettings(sparsity=0.8, every=2)


def _ready(number: int = 3) -> tuple[FedServer, list[FedClient], dict[int, bytes]]:
    """Return a server and clients in the middle of a run, and the orders of a round."""
    server, boxes = federation(DIP)
    for k in range(number):
        orders = server.configure(k)
        server.aggregate(k, [boxes[i].answer(order) for i, order in orders.items()])
    return server, boxes, server.configure(number)


def _changed(data: bytes, **changes: object) -> bytes:
    message = Message.from_bytes(data)
    fields = {
        name: getattr(message, name)
        for name in ("round", "kind", "degree", "flag", "indices", "values")
    }
    return Message(**fields | changes).to_bytes()  # type: ignore[arg-type]


def _values(data: bytes) -> bytes:
    return Message.from_bytes(data).values


def _ending(data: bytes, number: float) -> bytes:
    """Return a message whose last number is another."""
    return _changed(data, values=_values(data)[:-4] + pack_floats(torch.tensor([number])))


def _patched(data: bytes, place: int, new: bytes) -> bytes:
    """Return a message with other bytes in its head."""
    values = _values(data)
    return _changed(data, values=values[:place] + new + values[place + len(new) :])


def test_an_honest_answer_is_taken():
    server, boxes, orders = _ready()

    assert server.aggregate(3, [boxes[k].answer(orders[k]) for k in orders]) > 0
    assert not server.refused


WRONG_ANSWERS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut": (lambda d: d[:-4], "its header says"),
    "no message": (lambda _: b"hello", "not one of this version"),
    "more numbers than the mask keeps": (
        lambda d: _changed(d, values=_values(d) + bytes(4)),
        "expected .* numbers",
    ),
    "fewer numbers": (lambda d: _changed(d, values=_values(d)[:-4]), "expected .* numbers"),
    "NaN": (lambda d: _ending(d, math.nan), "not finite"),
    "infinity": (lambda d: _ending(d, math.inf), "not finite"),
    "no head": (
        lambda d: _changed(d, values=b"123"),
        "expected kind 17 or 18 and at least 20 bytes",
    ),
    "an order": (lambda d: _changed(d, kind=ORDER), "expected kind 17 or 18"),
    "another round": (lambda d: _changed(d, round=2), "expected round 3"),
    "indices": (lambda d: _changed(d, indices=b"1"), "1 bytes of indices"),
    "dense": (lambda d: _changed(d, flag=0), "with all weights; expected those of the mask"),
    "another client": (
        lambda d: _patched(d, 0, struct.pack("<I", 7)),
        "an answer of client 7 to round 3; expected one of each of",
    ),
    "no images": (lambda d: _patched(d, 4, bytes(8)), "0 images"),
    "NaN as loss": (lambda d: _patched(d, 12, struct.pack("<d", math.nan)), "loss nan"),
}


@pytest.mark.parametrize("name", WRONG_ANSWERS)
def test_an_answer_that_does_not_fit_is_refused_and_the_others_count(name: str):
    change, said = WRONG_ANSWERS[name]
    server, boxes, orders = _ready()
    answers = {k: boxes[k].answer(orders[k]) for k in orders}
    bad = change(answers[1])
    alone, _, _ = _ready()
    with pytest.raises(DataError, match=rf"\A[^\n]*{said}[^\n]*\Z"):
        alone.aggregate(3, [bad])

    server.aggregate(3, [answers[0], bad, answers[2]])
    without, _, _ = _ready()
    without.aggregate(3, [answers[2], answers[0]])

    assert len(server.refused) == 1
    assert torch.equal(server.vector, without.vector)


def test_a_second_answer_of_a_client_is_refused():
    server, boxes, orders = _ready()
    answer = boxes[0].answer(orders[0])
    server.aggregate(3, [answer, answer])

    assert "a second answer of client 0" in server.refused[0]


def test_a_client_that_was_not_asked_is_refused():
    server, boxes, _ = _ready()
    orders = server.configure(3, present=[0, 1])
    server.aggregate(3, [boxes[0].answer(orders[0]), boxes[2].answer(orders[1])])

    assert "an answer of client 2 to round 3; expected one of each of [0, 1]" in server.refused[0]


WRONG_ORDERS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut": (lambda d: d[:-1], "its header says"),
    "a longer mask": (
        lambda d: _changed(d, indices=Message.from_bytes(d).indices + b"\0"),
        "a mask of 7 bytes; expected 6 for 48 weights",
    ),
    "another mask": (
        lambda d: _changed(d, indices=bytes(6)),
        "a mask that keeps 0 weights; its header says 24",
    ),
    "more numbers": (lambda d: _changed(d, values=_values(d) + bytes(4)), "numbers"),
    "NaN": (lambda d: _ending(d, math.nan), "not finite"),
    "an answer": (lambda d: _changed(d, kind=ANSWER), "expected kind 16"),
    "no head": (lambda d: _changed(d, values=_values(d)[:20]), "at least 40 bytes"),
    "no rate": (lambda d: _patched(d, 0, struct.pack("<d", 0.0)), "with rate 0"),
    "NaN as rate": (lambda d: _patched(d, 0, struct.pack("<d", math.nan)), "rate nan"),
    "a reward": (lambda d: _patched(d, 8, struct.pack("<d", -1.0)), "penalty -1"),
}


@pytest.mark.parametrize("name", WRONG_ORDERS)
def test_an_order_that_does_not_fit_is_refused(name: str):
    change, said = WRONG_ORDERS[name]
    _, boxes, orders = _ready(1)  # the order with the whole first mask

    with pytest.raises(DataError, match=rf"\A[^\n]*{said}[^\n]*\Z"):
        boxes[1].answer(change(orders[1]))


def test_what_was_removed_must_fit_the_mask_that_the_client_has():
    _, boxes, orders = _ready(3)
    indices = Message.from_bytes(orders[1]).indices
    assert 0 < len(indices) < 6

    with pytest.raises(DataError, match="a mask of"):
        boxes[1].answer(_changed(orders[1], indices=indices + b"\0"))


def test_a_mask_of_another_run_is_not_taken_for_the_one_that_was_meant():
    server, boxes, orders = _ready(4)
    other, _, _ = _ready(4)
    assert boxes[0].held is not None
    state = boxes[0].state()
    where = Prunable(toy_problem().shapes).where
    state["mask"][where] = state["mask"][where].flip(0)  # as many, others
    boxes[0].restore(state)
    server.aggregate(4, [boxes[k].answer(orders[k]) for k in orders])
    fresh = federation(DIP)[1]
    for k, box in enumerate(_ready(4)[1]):
        fresh[k].restore(box.state())
    other.aggregate(4, [fresh[k].answer(orders[k]) for k in (1, 2)])

    assert torch.equal(server.vector, other.vector)


@cache
def _damaged_in() -> tuple[FedServer, list[FedClient], dict[int, bytes], bytes]:
    """Return what is damaged, made once: no damage may do harm, so none can spoil the next."""
    server, boxes, orders = _ready(1)
    return server, boxes, orders, boxes[1].answer(orders[1])


@hypothesis_settings(max_examples=40, deadline=None)
@given(st.data())
def test_damaged_bytes_are_refused_or_finite(data: st.DataObject):
    server, boxes, orders, answer = _damaged_in()
    for raw, take in (
        (orders[0], boxes[0].answer),
        (answer, lambda x: server.aggregate(1, [x])),
    ):
        place = data.draw(st.integers(0, len(raw) - 1))
        damaged = bytearray(raw)
        damaged[place] ^= data.draw(st.integers(1, 255))
        with suppress(DataError):  # any other exception fails the test
            take(bytes(damaged))
        assert torch.isfinite(server.vector).all()

"""The end of a run: mean, temperature and scores without an image leaving, and a lost writer."""

import threading
from typing import Any

import numpy as np
import pytest
import torch

from device_agent.cotrain._end import (
    _DONE,
    _SCORES,
    End,
    Ended,
    largest_message,
    mean_model,
    pack_scores,
    read_last,
    unpack_scores,
)
from device_agent.cotrain._scores import TEMPERATURES, Scores
from device_agent.cotrain._sent import SENT_BYTES, pack_sent, unpack_own, unpack_sent
from edge_stl.branch import fit_temperature
from edge_stl.branch._calibrate import class_mean_log_loss
from edge_stl.cotrain import HEADER_BYTES, Bytes, Message
from edge_stl.errors import DataError, Interrupted
from edge_stl.fusion import Member, member_probabilities
from edge_stl.testing import assert_parity
from tests.cotrain_engine.hall import Hall, together


K = 4
TRAIN = (30, 20, 10, 0)


def _logits(count: int, *, seed: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    logits = 3 * rng.standard_normal((count, K)).astype(np.float32)
    logits[np.arange(count), labels] += 2
    return logits, labels


def _scores(*seeds: int, floor: int = 0) -> Scores:
    parts = [Scores.of(*_logits(40, seed=seed), TRAIN, floor=floor) for seed in seeds]
    total = parts[0]
    for part in parts[1:]:
        total += part
    return total


def test_sums_of_two_boxes_say_what_all_their_images_in_one_place_say():
    logits, labels = (
        np.concatenate(p) for p in zip(_logits(40, seed=1), _logits(40, seed=2), strict=True)
    )
    together_ = _scores(1, 2)
    place = together_.best(TRAIN)
    exact = fit_temperature(logits, labels, TRAIN)
    member = Member("b", "", TRAIN, float(TEMPERATURES[place]), 0.0)
    p = member_probabilities(logits, member)

    assert TEMPERATURES[place] == pytest.approx(exact, rel=0.06)
    assert together_.log_loss(place, TRAIN) == pytest.approx(
        class_mean_log_loss(p, labels, member.seen), rel=1e-5
    )
    assert together_.accuracy(place, floor=0) == round(float((p.argmax(1) == labels).mean()), 6)


def test_the_grid_has_the_temperature_of_one_who_has_no_images():
    none = Scores.of(np.zeros((0, K), np.float32), np.zeros(0, np.int64), TRAIN, floor=0)

    assert TEMPERATURES[none.best(TRAIN)] == pytest.approx(1)
    assert none.log_loss(none.best(TRAIN), TRAIN) == pytest.approx(np.log(3), rel=1e-5)
    assert none.accuracy(60, floor=0) is None


def test_with_a_floor_no_count_below_it_is_told():
    told = _scores(1, floor=25)
    plain = _scores(1)

    assert set(told.counts) <= {0, 25} | set(plain.counts[plain.counts > 25])
    # the means of the classes are the same, so is the temperature
    there = told.counts > 0
    assert_parity(
        told.losses[:, there] / told.counts[there],
        plain.losses[:, there] / plain.counts[there],
        kind="float64",
    )
    assert told.accuracy(60, floor=25) == round(plain.right[60] / 40, 2)
    few = Scores.of(*_logits(5, seed=1), TRAIN, floor=25)
    assert few.accuracy(60, floor=25) is None


def test_scores_survive_the_wire_and_wrong_ones_are_refused():
    scores = _scores(1)
    data = pack_scores(scores)
    back = unpack_scores(data, K)

    assert back.losses.tobytes() == scores.losses.tobytes()
    assert (back.right.tolist(), back.judged) == (scores.right.tolist(), 40)
    with pytest.raises(DataError, match="expected those of 5 classes"):
        unpack_scores(data, K + 1)
    flat = np.frombuffer(data, "<f8").copy()
    for place, value in ((0, np.nan), (3, -1.0), (3, 1e300)):
        wrong = flat.copy()
        wrong[place] = value
        with pytest.raises(DataError, match="negative, too large or not finite"):
            unpack_scores(wrong.tobytes(), K)
    flat[-1] = 0
    with pytest.raises(DataError, match="more right answers than images"):
        unpack_scores(flat.tobytes(), K)


def test_the_mean_of_equal_models_is_exactly_that_model():
    model = torch.rand(1001)

    assert torch.equal(mean_model([model] * 3), model)


def test_the_largest_message_holds_every_one_of_the_end():
    assert largest_message(10, K, copies=2) > HEADER_BYTES + len(pack_scores(_scores(1))) + 8 * K
    assert largest_message(10**6, K, copies=5) - largest_message(10**6, K, copies=2) == 12 * 10**6


def _end(hall: Hall, rank: int, exchange: Any, write: Any, hub: str | None = None) -> End:
    logits, labels = _logits(20, seed=rank)
    return End(
        exchange,
        rounds=5,
        boxes=hall.world,
        sent=lambda: hall.ledgers[rank].node(rank),
        classes=K,
        floor=0,
        answer=lambda _mean: logits,
        held_back=labels,
        write=write,
        hub=hub,
    )


def test_when_the_writer_is_lost_the_next_box_writes():
    hall, seen = Hall(3), []
    left = threading.Event()

    def box(rank: int) -> Any:
        exchange = hall.exchange(rank)

        def write(mean: Any, counts: Any, scores: Any, members: Any) -> dict[str, Any]:
            if rank == 0:  # dies with the models in its hands
                exchange.close()
                left.set()
                raise KeyboardInterrupt
            seen.append((mean, counts, scores.judged, members))
            return {"sha256": "x"}

        try:
            ended = _end(hall, rank, exchange, write).run(torch.full((9,), float(rank)), TRAIN)
        except KeyboardInterrupt:
            return None
        exchange.close()
        return ended

    ran = together(3, box)

    assert left.is_set()
    assert ran[1] == ran[2]
    assert (ran[1].writer, ran[1].members, ran[1].facts) == (1, (1, 2), {"sha256": "x"})
    ((mean, counts, judged, members),) = seen
    assert torch.equal(mean, torch.full((9,), 1.5))
    assert counts.train == tuple(2 * n for n in TRAIN)
    assert (judged, members) == (40, (1, 2))
    assert hall.told.count("cam01: lost, it left the run; going on without it") == 2


def test_a_writer_that_tells_nonsense_is_lost_and_the_next_box_writes():
    for told in (b"", pack_sent({}, 3) + b"["):
        hall = Hall(3)

        def box(rank: int, hall: Any = hall, told: bytes = told) -> Any:
            exchange = hall.exchange(rank)
            if rank == 0:
                send = exchange.send

                def nonsense(to: int, message: Any, number: int, cost: Any = None) -> None:
                    if message.kind == _DONE:
                        message = Message(number, _DONE, indices=told)
                    send(to, message, number, cost)

                exchange.send = nonsense  # type: ignore[method-assign]
            try:
                return _end(hall, rank, exchange, lambda *_: {"sha256": "x"}).run(
                    torch.ones(9), TRAIN
                )
            finally:
                exchange.close()

        assert [ended.writer for ended in together(3, box)] == [0, 1, 1]
        assert sum("what it says of the branch file cannot be read" in x for x in hall.told) == 2


def test_every_box_knows_what_has_left_every_other_one():
    hall, all_of_them = Hall(3), threading.Barrier(3)

    def box(rank: int) -> Ended:
        exchange = hall.exchange(rank)
        exchange.exchange({other: Message(0) for other in range(3) if other != rank}, 0)
        ended = _end(hall, rank, exchange, lambda *_: {"sha256": "x"}).run(torch.ones(9), TRAIN)
        all_of_them.wait(60)  # a goodbye is awaited
        exchange.close()
        return ended

    ran = together(3, box)

    # two messages of the round; a mean and the last word to both, or model and scores to one
    assert [hall.ledgers[rank].node(rank).messages for rank in range(3)] == [6, 4, 4]
    for ended in ran:
        assert ended.sent == tuple(hall.ledgers[rank].node(rank) for rank in range(3))


def test_what_left_a_box_that_is_lost_with_its_scores_is_not_known():
    hall, both = Hall(3), threading.Barrier(2)

    def box(rank: int) -> Any:
        exchange = hall.exchange(rank)
        if rank == 1:
            send = exchange.send

            def leave(to: int, message: Any, number: int, cost: Any = None) -> None:
                if message.kind == _SCORES:
                    raise KeyboardInterrupt
                send(to, message, number, cost)

            exchange.send = leave  # type: ignore[method-assign]
        try:
            ended = _end(hall, rank, exchange, lambda *_: {}).run(torch.ones(9), TRAIN)
            both.wait(60)  # a goodbye is awaited
        except KeyboardInterrupt:
            return None
        else:
            return ended
        finally:
            exchange.close()

    first, _, last = together(3, box)

    assert first.sent == last.sent
    assert [amount is None for amount in first.sent] == [False, True, False]
    assert first.members == (0, 1, 2)
    assert first.sent[0] == hall.ledgers[0].node(0)


def test_byte_counts_survive_the_wire_in_as_many_bytes_for_every_box_and_wrong_ones_are_refused():
    sent = {0: Bytes(1, 2, 3, 4), 2: Bytes(10**15, 0, 0, 10**9)}
    data = pack_sent(sent, 4)

    assert len(data) == 4 * SENT_BYTES == len(pack_sent({}, 4))
    assert unpack_sent(data, 4) == (sent[0], None, sent[2], None)
    assert unpack_own(pack_sent({0: sent[2]}, 1)) == sent[2]
    with pytest.raises(DataError, match="byte counts of its own that it does not know"):
        unpack_own(pack_sent({}, 1))
    for boxes in (3, 5):
        with pytest.raises(DataError, match=f"of 128 bytes; expected 32 for each of {boxes} boxes"):
            unpack_sent(data, boxes)
    for place, value in ((0, -1), (5, 0), (2, -2), (8, 10**15 + 1), (8, 2**63 - 1)):
        wrong = np.frombuffer(data, "<i8").copy()
        wrong[place] = value
        with pytest.raises(DataError, match="byte counts that are negative or too large"):
            unpack_sent(wrong.tobytes(), 4)


def test_byte_counts_that_cannot_be_lose_their_sender():
    hall, both = Hall(2), threading.Barrier(2)

    def box(rank: int) -> Any:
        exchange = hall.exchange(rank)
        if rank == 1:
            send = exchange.send

            def wrong(to: int, message: Any, number: int, cost: Any = None) -> None:
                if message.kind == _SCORES:
                    facts = pack_sent({}, 2)
                    message = Message(number, _SCORES, indices=facts, values=message.values)
                send(to, message, number, cost)

            exchange.send = wrong  # type: ignore[method-assign]
        try:
            return _end(hall, rank, exchange, lambda *_: {}).run(torch.ones(9), TRAIN)
        except Interrupted:
            return None
        finally:
            both.wait(60)  # neither leaves before the other has noticed
            exchange.close()

    first, _ = together(2, box)

    assert first.sent == (hall.ledgers[0].node(0), None)
    said = "cam02: lost, it sent byte counts of 64 bytes; expected 32 for each of 1 boxes"
    assert any(said in line for line in hall.told), hall.told


def test_a_last_word_is_read_whole_or_not_at_all():
    sent = {0: Bytes(1, 2, 3, 4), 2: Bytes(5, 6, 7, 8)}
    table, text = pack_sent(sent, 3), b'{"members": [0, 2], "facts": {"sha256": "x"}}'

    assert read_last(table + text, 1, 3) == Ended(
        1, (0, 2), {"sha256": "x"}, (sent[0], None, sent[2])
    )
    for said in (b"{", b"[]", b'{"members": 1, "facts": {}}', b"[" * 9999):
        with pytest.raises(DataError, match="a last word that cannot be read"):
            read_last(table + said, 1, 3)
    for members in (b"[3]", b"[-1]", b'["a"]', b"[[]]", b"[0.0]"):
        with pytest.raises(DataError, match="members that are no boxes of the group"):
            read_last(table + b'{"facts": {}, "members": ' + members + b"}", 1, 3)
    with pytest.raises(DataError, match="byte counts of 95 bytes"):
        read_last(table[1:], 1, 3)
    with pytest.raises(DataError, match="byte counts that are negative or too large"):
        read_last(table[1:] + text, 1, 3)


def test_a_server_that_is_lost_at_the_end_takes_its_model_with_it():
    hall = Hall(3)

    def box(rank: int) -> Any:
        exchange = hall.exchange(rank)
        if rank == 0:
            exchange.close()
            return None
        try:
            _end(hall, rank, exchange, None, hub="cam01").run(torch.zeros(9), TRAIN)
        except Interrupted as stopped:
            return str(stopped)
        finally:
            both.wait(60)  # neither leaves before the other has noticed
            exchange.close()

    both = threading.Barrier(2)

    said = "cam01, which holds the model, is lost before the branch file was written"
    assert all(said in stopped for stopped in together(3, box)[1:])


def test_a_model_of_another_size_or_counts_that_cannot_be_lose_their_sender():
    for vector, train, said in (
        (torch.zeros(8), TRAIN, "values of 32 bytes"),
        (torch.full((9,), torch.nan), TRAIN, "values that are not finite"),
        (torch.zeros(9), (0, 0, 0, 0), "image counts that are negative, too large or all 0"),
        (torch.zeros(9), (1, 2), "image counts of 16 bytes"),
    ):
        hall, both = Hall(2), threading.Barrier(2)

        def box(
            rank: int, hall: Any = hall, both: Any = both, vector: Any = vector, train: Any = train
        ) -> Any:
            exchange = hall.exchange(rank)
            own = (torch.ones(9), TRAIN) if rank == 0 else (vector, train)
            try:
                return _end(hall, rank, exchange, lambda *_: {}).run(*own)
            except Interrupted:
                return None
            finally:
                both.wait(60)  # neither leaves before the other has noticed
                exchange.close()

        ran = together(2, box)

        assert ran[0].members == (0,)
        assert any(said in line for line in hall.told), hall.told

"""Numbers go up, whatever crashes, is damaged, or happens at the same time."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from edge_stl.durable import previous_of
from edge_stl.errors import IntegrityError, ResourceError
from edge_stl.trust import Numbers
from edge_stl.trust._statement import LARGEST_COUNTER


A, B = "a" * 64, "b" * 64


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "counter.record"


def test_each_file_has_a_higher_number_and_the_same_file_keeps_its_own(path: Path):
    numbers = Numbers(path)
    assert [numbers.take("x", A), numbers.take("x", A), numbers.take("x", B)] == [1, 1, 2]
    assert numbers.take("y", A) == 3
    assert Numbers(path).take("x", B) == 2
    # going back to an old file is a new decision of the box
    assert numbers.take("x", A) == 4


def test_no_number_stands_for_two_files(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.fsync", lambda _: None)
    rng = np.random.default_rng(7)
    numbers, given_to, highest = Numbers(path), dict[int, tuple[str, str]](), 0
    for subject, letter in zip(rng.choice([*"xyz"], 60), rng.choice([*"abcd"], 60), strict=True):
        number = numbers.take(str(subject), str(letter) * 64)
        assert given_to.setdefault(number, (subject, letter)) == (subject, letter)
        highest = max(highest, number)
    assert sorted(given_to) == list(range(1, highest + 1))


def test_above_lifts_every_number_after_it(path: Path):
    numbers = Numbers(path)
    assert numbers.take("x", A, above=17) == 18
    assert numbers.take("x", A, above=17) == 18
    assert numbers.take("x", A, above=18) == 19
    assert numbers.take("y", B) == 20


def test_the_last_number_is_the_last(path: Path):
    numbers = Numbers(path)
    assert numbers.take("x", A, above=LARGEST_COUNTER - 1) == LARGEST_COUNTER
    with pytest.raises(IntegrityError, match="are used up"):
        numbers.take("x", B)
    assert numbers.take("x", A) == LARGEST_COUNTER


def test_the_number_is_on_the_disk_before_it_is_told(path: Path, monkeypatch: pytest.MonkeyPatch):
    """A crash at any call that writes: the number after it is new, or of the same file."""
    numbers = Numbers(path)
    numbers.take("x", A)
    told = []
    for kill_at in range(12):
        calls = 0

        def crash(original, *arguments: object, **options: object):  # noqa: ANN001, ANN202
            nonlocal calls
            calls += 1
            if calls > kill_at:  # noqa: B023  (used up before the next round)
                raise KeyboardInterrupt
            return original(*arguments, **options)

        with monkeypatch.context() as patch:
            for name in ("fsync", "replace", "write"):
                original = getattr(os, name)
                patch.setattr(os, name, lambda *a, o=original, **k: crash(o, *a, **k))
            try:
                told.append(numbers.take("x", f"{kill_at:064x}"))
            except KeyboardInterrupt:
                continue
    assert told
    assert sorted(set(told)) == told
    after = numbers.take("x", B)
    assert after > max(told)


def test_a_damaged_record_skips_what_may_have_been_used(path: Path):
    """Damaged again and again: a number that was told is never told for another file."""
    numbers = Numbers(path)
    told = [numbers.take("x", f"{n:064x}") for n in range(3)]
    for n in range(3, 9):
        path.write_bytes(b"damaged")
        told.append(numbers.take("x", f"{n:064x}"))
    assert sorted(set(told)) == told


def test_a_record_of_which_nothing_is_left_is_said_with_the_way_out(path: Path):
    numbers = Numbers(path)
    numbers.take("x", A)
    numbers.take("x", B)
    path.write_bytes(b"damaged")
    previous_of(path).write_bytes(b"damaged")
    for ask in (numbers.check, lambda: numbers.take("x", A)):
        with pytest.raises(
            IntegrityError, match=r"the numbers given so far are lost; .* --above N"
        ):
            ask()
    assert numbers.take("x", A, above=2) == 3
    assert numbers.take("x", B) == 4


def test_what_another_version_wrote_is_not_guessed_at(path: Path):
    from edge_stl.durable import write_record

    write_record(path, b'{"format":2,"counter":7,"last":{}}')
    with pytest.raises(IntegrityError, match="the numbers given so far are lost"):
        Numbers(path).take("x", A)


def test_two_at_a_time_get_two_numbers(path: Path):
    with ThreadPoolExecutor(4) as pool:
        told = list(pool.map(lambda n: Numbers(path).take("x", f"{n:064x}"), range(24)))
    assert sorted(told) == list(range(1, 25))


def test_a_lock_that_cannot_be_made_is_one_line(path: Path):
    Path(f"{path}.lock").symlink_to("elsewhere")
    with pytest.raises(ResourceError, match=r"counter\.record\.lock: cannot be used"):
        Numbers(path).take("x", A)

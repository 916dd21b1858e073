"""The checkpoints of a box: rounds that all have in common, whatever their clocks."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from device_agent.cotrain import _saved
from device_agent.cotrain._saved import Saved
from edge_stl.cotrain import Bytes, Ledger


class _Engine:
    def __init__(self, number: int) -> None:
        self._number = number

    def state(self) -> dict[str, Tensor]:
        return {"vector": torch.full((3,), float(self._number))}


def _run(folder: Path, rounds: int, *, seconds: float, pace: float, clock: list[float]) -> Saved:
    clock[0] = 0.0
    saved = Saved(folder, "key", told=print, seconds=seconds)
    saved.went_on(0)
    ledger = Ledger()
    for number in range(rounds):
        clock[0] += pace
        ledger.add(1, number, Bytes(values=number))
        saved.passed(number + 1, _Engine(number + 1), ledger, 1)
    return Saved(folder, "key", told=print)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(_saved.time, "monotonic", lambda: now[0])
    return now


def test_state_and_bytes_of_a_kept_round_come_back(tmp_path: Path, clock: list[float]):
    kept = _run(tmp_path, 11, seconds=2.0, pace=1.0, clock=clock)

    assert kept.rounds == [0, 6, 8, 10]
    found = kept.load(8)
    assert found is not None
    state, ledger = found
    assert state["vector"].tolist() == [8.0] * 3
    assert ledger.node(0) == Bytes(values=sum(range(8)))
    assert kept.load(7) is None
    assert Saved(tmp_path, "another key", told=print).rounds == [0]


def test_the_moment_of_a_stop_is_kept_beside_them(tmp_path: Path, clock: list[float]):
    kept = _run(tmp_path, 11, seconds=2.0, pace=1.0, clock=clock)
    kept.stop(11, [{"vector": torch.zeros(3)}] * 2, Ledger(), 1)

    assert Saved(tmp_path, "key", told=print).rounds == [0, 6, 8, 10, 11]
    kept.stop(14, [{"vector": torch.zeros(3)}] * 2, Ledger(), 1)
    assert Saved(tmp_path, "key", told=print).rounds == [0, 6, 8, 10, 13, 14]


def test_a_damaged_checkpoint_is_none(tmp_path: Path, clock: list[float]):
    _run(tmp_path, 11, seconds=2.0, pace=1.0, clock=clock)
    for path in tmp_path.glob("0/*"):
        path.write_bytes(path.read_bytes()[:-5])
    told: list[str] = []

    assert len(Saved(tmp_path, "key", told=told.append).rounds) == 3


@pytest.mark.slow
@settings(max_examples=6, deadline=None)
@given(
    slow=st.floats(1.0, 1.5),
    pace=st.floats(0.3, 3.0),
    first=st.integers(30, 60),
    ahead=st.integers(0, 2),
)
def test_boxes_whose_clocks_differ_have_a_recent_round_in_common(
    tmp_path_factory: pytest.TempPathFactory, slow: float, pace: float, first: int, ahead: int
):
    clock = [0.0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_saved.time, "monotonic", lambda: clock[0])
        one, other = (
            _run(tmp_path_factory.mktemp("box"), rounds, seconds=4.0, pace=each, clock=clock)
            for rounds, each in ((first, pace), (first + ahead, pace * slow))
        )
    newest = max(set(one.rounds) & set(other.rounds))

    assert first - newest < 2 * 2 * 4.0 / pace + 2
    assert newest > 0

"""What a box keeps of a run of its group: a few rounds, so that all boxes find one in common.

The boxes stop at different moments, and only a round that every one of them has can be gone on
from. Rounds pass at the same pace everywhere, so each box saves at the multiples of the power of
two whose rounds take about as long as the distance asked for; clocks that differ a little choose
neighbouring powers, of which one divides the other. The last three multiples are kept, and beside
them the moment of a stop, and the round before it: a neighbour that had the last message already
is a round ahead.
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from device_agent import checkpoint
from edge_stl.cotrain import Bytes, Ledger
from edge_stl.durable import make_folder


if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

SAVE_SECONDS = 30.0
_SLOTS = 3
_STOP, _BEFORE = "stop", "before"
_PREFIX = "state."


class Stateful(Protocol):
    """What has a state."""

    def state(self) -> "dict[str, Tensor]":
        """Return it, as copies."""


class Saved:
    """The checkpoints of one box in one group.

    Args:
        folder: of the branch and group, inside the work folder.
        key: `device_agent.checkpoint.resume_key` of the run.
        told: called with a sentence where one is damaged.
        seconds: distance of the checkpoints.

    Attributes:
        rounds: of the checkpoints found, ascending, with 0, which needs none.
    """

    def __init__(
        self,
        folder: Path,
        key: str,
        *,
        told: "Callable[[str], object]",
        seconds: float = SAVE_SECONDS,
    ) -> None:
        self._folder, self._key, self._told, self._seconds = folder, key, told, seconds
        self._found: dict[int, str] = {}
        self._next = 0
        self._began = time.monotonic()
        self._done = 0
        for name in self._names:
            left = self._load(name)
            if left is not None:
                self._found[int(left["round"])] = name
        self.rounds = sorted({0, *self._found})

    @property
    def _names(self) -> list[str]:
        return [*(str(slot) for slot in range(_SLOTS)), _BEFORE, _STOP]

    def load(self, number: int) -> "tuple[dict[str, Tensor], Ledger] | None":
        """Return state and ledger after so many rounds; None where nothing is kept of it."""
        name = self._found.get(number)
        left = None if name is None else self._load(name)
        if left is None:
            return None
        state = {k.removeprefix(_PREFIX): v for k, v in left.items() if k.startswith(_PREFIX)}
        return state, _ledger_of(left["sent"].tolist())

    def went_on(self, number: int) -> None:
        """Forget, for the order of slots, what lies after the round that all went on from."""
        newest = self._found.get(number, _STOP)
        self._next = int(newest) + 1 if newest.isdecimal() else 0
        self._began, self._done = time.monotonic(), 0

    def passed(self, number: int, engine: "Stateful", ledger: Ledger, rank: int) -> None:
        """Note that ``number`` rounds are over, and save where that is due."""
        self._done += 1
        each = max((time.monotonic() - self._began) / self._done, 1e-9)
        distance = 1
        while distance * each < self._seconds:
            distance *= 2
        if number % distance == 0:
            self._save(str(self._next % _SLOTS), number, engine.state(), ledger, rank)
            self._next += 1

    def stop(
        self,
        number: int,
        states: "Sequence[Mapping[str, Tensor]]",
        ledger: Ledger,
        rank: int,
    ) -> None:
        """Save the moment of a stop.

        Args:
            number: rounds that are over.
            states: after them, and, where there is one, after the round before.
            ledger: of this run.
            rank: of this box.
        """
        for name, back, state in zip((_STOP, _BEFORE), (0, 1), states, strict=False):
            self._save(name, number - back, state, ledger, rank)

    def _save(
        self, name: str, number: int, state: "Mapping[str, Tensor]", ledger: Ledger, rank: int
    ) -> None:
        import torch  # an optional extra

        # Without the round that is under way: it is done again.
        rows = [[b.values, b.indices, b.headers, b.messages] for b in ledger.sent.get(rank, ())]
        tensors = {f"{_PREFIX}{key}": tensor.contiguous() for key, tensor in state.items()}
        tensors["round"] = torch.tensor(number)
        tensors["sent"] = torch.tensor(rows[:number], dtype=torch.int64).reshape(-1, 4)
        folder = self._folder / name
        make_folder(folder, mode=0o700, option="--work")
        checkpoint.save(folder, self._key, checkpoint.Checkpoint(tensors, 0.0, {}))

    def _load(self, name: str) -> "dict[str, Tensor] | None":
        left = checkpoint.load(self._folder / name, self._key, told=self._told)
        return None if left is None else left.tensors


def _ledger_of(rows: list[list[int]]) -> Ledger:
    return Ledger({0: [Bytes(*row) for row in rows]}) if rows else Ledger()

"""How much memory a branch will need, measured before it is trained.

A trainer that is thrown away takes steps on 2, 4, 8, … images up to the batch, calibrates and
makes a branch file; after each the peak of this process is read. A size is tried only if the line
through the two before it says that it fits, so the rehearsal itself stays within the limit where
that is possible. What was not tried is read off that line.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from device_agent._budget import Watch
from device_agent._memory import forget_peak, give_back, keep_heap, peak_rss, rss
from device_agent._types import Reporter
from edge_stl.errors import Interrupted, ResourceError


if TYPE_CHECKING:
    from edge_stl.branch import Trainer

SURROUNDING = "images at a time"
"""Its name among the surroundings of a checkpoint."""

_SHARE, _SPARE = 0.02, 6e6
"""Runs took up to 5 MB more or less than their rehearsal: heaps are not filled twice alike."""

_GROWN = 2.5
"""A heap that may grow holds up to 1.9 times as much beside what was there before."""

_STATES = 4
"""Copies of a checkpoint's bytes while it is written: tensors, file, its digest's, the old one."""

_ROUND = 10e6


@dataclass(frozen=True)
class Rehearsed:
    """What fits.

    Attributes:
        micro_batch: images at the same time; None for all of a batch.
        peak: bytes that the run is expected to need at most.
    """

    micro_batch: int | None
    peak: float


def fit_into_memory(
    trainer: "Trainer",
    earlier: Mapping[str, str],
    new: Callable[[], "Trainer"],
    finish: Callable[["Trainer"], object],
    *,
    watch: Watch,
    reporter: Reporter,
) -> dict[str, str]:
    """Choose how many images a trainer takes at the same time, so that it stays in the budget.

    Args:
        trainer: at its beginning, or where a checkpoint left it.
        earlier: surroundings of that checkpoint.
        new: makes a trainer to be thrown away.
        finish: makes a branch file of it.
        watch: has the limit.
        reporter: is told what is chosen.

    Returns:
        what the surroundings say of it: nothing where all images of a batch go at the same time.

    Raises:
        ResourceError: not even one image at a time fits.
        Interrupted: asked to stop.
    """
    if trainer.finished:
        # Its file has the same bytes each time it is made.
        told = earlier.get(SURROUNDING, "")
        trainer.micro_batch = int(told) if re.fullmatch("[1-9][0-9]{0,6}", told) else None
    elif watch.budget.memory is not None:
        limit = watch.budget.memory
        chosen = rehearse(new, finish, limit=limit, reporter=reporter, should_stop=watch)
        trainer.micro_batch = chosen.micro_batch
        give_back()
    return {} if trainer.micro_batch is None else {SURROUNDING: str(trainer.micro_batch)}


def rehearse(
    new: Callable[[], "Trainer"],
    finish: Callable[["Trainer"], object],
    *,
    limit: int,
    reporter: Reporter,
    should_stop: Callable[[], bool],
) -> Rehearsed:
    """Return the largest number of images at a time with which a branch fits into memory.

    Args:
        new: makes a trainer to be thrown away.
        finish: makes a branch file of it.
        limit: bytes that may be resident.
        reporter: is told where not the whole batch fits.
        should_stop: asked between two measurements.

    Raises:
        ResourceError: not even one image at a time fits, or the peak cannot be measured here; the
            sentence has the number that would do.
        Interrupted: ``should_stop`` said so; nothing has been done.
    """
    keep_heap(small=True)
    trainer = new()
    scale = _Scale(trainer, limit, should_stop)
    batch, most = trainer.largest_batch, trainer.largest_evaluation
    trainer.micro_batch = 1
    # First what stays: libraries are loaded, threads started, moments made.
    trainer.rehearse(2)
    floor = max(scale.peak(lambda: finish(trainer)), scale.saving())

    step = scale.climb(lambda n: scale.step(n, micro=None), batch)
    peak = max(floor, step, scale.climb(scale.answers, most))
    if scale.fits(scale.base + _GROWN * (peak - scale.base)):
        keep_heap(small=False)  # there is room to be quick
        return Rehearsed(None, scale.base + _GROWN * (peak - scale.base))
    if scale.fits(peak):
        return Rehearsed(None, peak)
    least = max(floor, scale.climb(lambda n: scale.step(n, micro=1), batch, sure=batch // 2))
    if not scale.fits(least):
        enough = math.ceil((least + 2 * _SPARE) / (1 - _SHARE) / _ROUND) * _ROUND
        part = "one image at a time" if trainer.divides else "its own network"
        raise ResourceError(
            f"branch {trainer.branch.name}: needs about {enough / 1e6:.0f} MB with {part}; "
            f"expected at most {limit / 1e6:.0f} (--max-memory). Use --max-memory "
            f"{enough / 1e6:.0f}M, a smaller network or fewer threads"
        )
    tried = [(1, least)]
    for micro in _doubled(2, max(batch, most)):
        if len(tried) > 1 and not scale.fits(_line(tried, micro)):
            break
        needs = max(floor, scale.step(batch, micro=micro), scale.answers(micro))
        if not scale.fits(needs):
            break
        tried.append((micro, needs))
    chosen, peak = tried[-1]
    reporter.note(
        f"{trainer.branch.name}: {chosen} {'image' if chosen == 1 else 'images'} at a time, to "
        f"stay within {limit / 1e6:.0f} MB; a step is still that of the whole batch of {batch}"
    )
    return Rehearsed(chosen, peak)


class _Scale:
    """Weighs what a trainer does.

    Attributes:
        base: bytes that were resident before.
    """

    def __init__(self, trainer: "Trainer", limit: int, should_stop: Callable[[], bool]) -> None:
        self._trainer, self._limit, self._should_stop = trainer, limit, should_stop
        self.base = rss()

    def peak(self, work: Callable[[], object]) -> float:
        """Return the largest resident memory, in bytes, while something is done."""
        if self._should_stop():
            raise Interrupted(
                f"stopped before branch {self._trainer.branch.name} was trained. The same command "
                "goes on there"
            )
        give_back()
        if not forget_peak():
            raise ResourceError(
                "--max-memory: this system does not tell how much memory a step takes; expected "
                "Linux with /proc/self/clear_refs. Leave it out"
            )
        work()
        return peak_rss()

    def step(self, images: int, *, micro: int | None) -> float:
        """Return the peak of a training step."""
        self._trainer.micro_batch = micro
        return self.peak(lambda: self._trainer.rehearse(images))

    def answers(self, images: int) -> float:
        """Return the peak of answering on so many images at a time."""
        self._trainer.micro_batch = images
        return self.peak(self._trainer.rehearse_answers)

    def saving(self) -> float:
        """Return the peak of writing a checkpoint."""
        tensors = self._trainer.state().values()
        return rss() + (_STATES - 1) * sum(t.numel() * t.element_size() for t in tensors)

    def fits(self, peak: float) -> bool:
        """Return whether a peak stays within the limit, with some room."""
        return peak <= self._limit * (1 - _SHARE) - _SPARE

    def climb(self, weigh: Callable[[int], float], most: int, *, sure: int = 0) -> float:
        """Return the peak at a size, measured or, where that would not fit, read off a line.

        Args:
            weigh: measures a size.
            most: the size.
            sure: sizes up to this are measured in any case.
        """
        tried: list[tuple[int, float]] = []
        for size in _doubled(2, most):
            if len(tried) > 1 and size > sure and not self.fits(_line(tried, size)):
                break
            tried.append((size, weigh(size)))
        size, peak = tried[-1]
        return peak if size == most else max(peak, _line(tried, most))


def _doubled(first: int, last: int) -> Iterator[int]:
    """Yield a size and its doubles up to a last one, and that."""
    size = first
    while size < last:
        yield size
        size *= 2
    yield last


def _line(tried: list[tuple[int, float]], size: int) -> float:
    """Return the value at a size of the line through the last two points."""
    (a, low), (b, high) = tried[-2:]
    return high + (high - low) / (b - a) * (size - b)

"""The training steps of a branch, with a checkpoint every now and then."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from device_agent._budget import Watch
from device_agent._types import Reporter
from edge_stl.errors import Interrupted


if TYPE_CHECKING:
    from edge_stl.branch import Trainer

CHECKPOINT_SECONDS = 20.0


def take_steps(
    trainer: "Trainer",
    save: Callable[[], object],
    reporter: Reporter,
    watch: Watch,
) -> None:
    """Train to the end, with a checkpoint every now and then, and one more when asked to stop."""
    name = trainer.branch.name
    last_save = time.monotonic()
    while not trainer.finished:
        loss = trainer.step()
        reporter.training(name, trainer.steps_done, trainer.steps_total, trainer.epoch, loss)
        watch.between_steps(name, save)
        if watch():
            save()
            raise Interrupted(
                f"stopped in branch {name} after {trainer.steps_done} of {trainer.steps_total} "
                "steps; all of it is kept. The same command goes on there"
            )
        if time.monotonic() - last_save > CHECKPOINT_SECONDS:
            save()
            last_save = time.monotonic()

"""The training steps of a branch, with a checkpoint every now and then."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from device_agent._budget import Watch
from device_agent._save_clock import SaveClock
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
    clock = SaveClock(CHECKPOINT_SECONDS)
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
        if clock.due():
            save()
            clock.saved()


def answer_validation(
    trainer: "Trainer", save: Callable[[], object], should_stop: Callable[[], bool]
) -> None:
    """Answer the validation images, with a checkpoint every now and then, as for the steps."""
    clock = SaveClock(CHECKPOINT_SECONDS)
    while trainer.answered[0] < trainer.answered[1]:
        if should_stop():
            save()
            raise Interrupted(
                f"stopped in branch {trainer.branch.name} after {trainer.answered[0]} of "
                f"{trainer.answered[1]} validation images; all of it is kept. The same command "
                "goes on there"
            )
        trainer.answer_some()
        if clock.due():
            save()
            clock.saved()

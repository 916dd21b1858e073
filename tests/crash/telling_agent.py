"""The agent as it is, which also tells every training step: ``python telling_agent.py STEPS …``.

A line in the file STEPS for each: the branch, the steps done, and when, in seconds of the
monotonic clock. EDGE_STL_TEST_SECONDS is the time between two checkpoints, to try in seconds what
takes minutes.
"""

import os
import sys
import time

from device_agent import _cache_build, _steps
from edge_stl.branch import Trainer
from edge_stl.cli import main


def tell(steps: str) -> None:
    descriptor = os.open(steps, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    step = Trainer.step

    def told(self: Trainer) -> float:
        loss = step(self)
        line = f"{self.branch.name} {self.steps_done} {time.monotonic()}\n"
        os.write(descriptor, line.encode())
        return loss

    Trainer.step = told  # type: ignore[method-assign]


if __name__ == "__main__":
    if "EDGE_STL_TEST_SECONDS" in os.environ:
        seconds = float(os.environ["EDGE_STL_TEST_SECONDS"])
        _steps.CHECKPOINT_SECONDS = _cache_build._SAVE_EVERY = seconds
    tell(sys.argv[1])
    sys.exit(main(sys.argv[2:]))

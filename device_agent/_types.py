"""What a job is asked, what it gives back, and who is told how far it is."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from device_agent._budget import Budget
from edge_stl.images import Identities, LeftOutFiles
from edge_stl.plan import Plan


class Reporter(Protocol):
    """Who is told how far the job is."""

    def decoding(self, done: int, total: int) -> None:
        """Tell that ``done`` of ``total`` steps of reading the images are done."""

    def training(self, branch: str, done: int, total: int, epoch: int, loss: float) -> None:
        """Tell that ``done`` of ``total`` training steps of a branch are done."""

    def note(self, text: str) -> None:
        """Tell something a person should know."""


class Silent:
    """A reporter that says nothing."""

    def decoding(self, done: int, total: int) -> None:
        """Say nothing."""

    def training(self, branch: str, done: int, total: int, epoch: int, loss: float) -> None:
        """Say nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""


@dataclass(frozen=True)
class JobFile:
    """One branch file that was written; the row of ``train --json``."""

    branch: str
    box: str
    file: str
    sha256: str
    images: int
    classes_seen: int
    native_resolution: int
    validation: dict[str, float | None]
    parameters: int
    epochs: int
    seconds: float
    peak_rss_mb: float
    resumed: bool
    left_out: dict[str, int] = field(default_factory=dict)
    signature: dict[str, str | int] | None = None


class JobFiles(list[JobFile]):
    """The rows of a run, and what stays on the box beside them.

    Attributes:
        left_out_files: The files that ``left_out`` counts; never in a branch file.
    """

    left_out_files = LeftOutFiles()


@dataclass(frozen=True)
class Job:
    """What one run of the agent is to do.

    Attributes:
        plan: the plan.
        images: folder of class folders, or with ``labels.csv``.
        out: receives ``<branch>.<box>.onnx`` and nothing else.
        work: the box's work folder.
        box: the box id.
        branch: ``auto``, ``all`` or the name of a branch.
        settings: changes to the plan's training settings, like ``{"epochs": 3}``.
        threads: threads of torch.
        fresh: forget what an earlier run left.
        key: file of the private key that signs the branch files; none leaves them unsigned.
        budget: what it may use.
        only: take these images alone; None takes all.
    """

    plan: Plan
    images: Path
    out: Path
    work: Path
    box: str
    branch: str = "auto"
    settings: dict[str, object] = field(default_factory=dict)
    threads: int = 1
    fresh: bool = False
    key: Path | None = None
    budget: Budget = field(default_factory=Budget)
    only: Identities | None = field(default=None, compare=False)

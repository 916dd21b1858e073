"""What a training run is given and what it leaves."""

from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edge_stl.bands import Sharpness
from edge_stl.plan import Plan


@dataclass(frozen=True)
class Settings:
    """How a branch is trained; the plan's ``[training]`` unless a command says otherwise."""

    epochs: int
    seed: int
    batch_size: int | None
    learning_rate: float
    weight_decay: float
    label_smoothing: float
    device: str = "cpu"

    @classmethod
    def from_plan(cls, plan: Plan, **changes: Any) -> Self:
        """Return the plan's settings with some of them changed."""
        names = {f.name for f in fields(cls)} - {"device"}
        chosen = cls(**{name: getattr(plan.training, name) for name in names})
        return replace(chosen, **changes)


@dataclass(frozen=True)
class Trained:
    """A finished branch.

    Attributes:
        parameters: float32 tensors for the exporter, batch norm folded.
        train_counts: training images per class ``(K,)``, as published.
        validation_counts: validation images per class ``(K,)``, as published.
        temperature: fitted on the validation images.
        accuracy: on the validation images, 0..1; None when there is none.
        log_loss: L of the fusion, in nats.
        graph: torch's ONNX model of a network of the user's own; None for a preset.
        sharpness: of all images of the box, before augmentation; None where they are too few.
    """

    parameters: dict[str, NDArray[np.float32]]
    train_counts: tuple[int, ...]
    validation_counts: tuple[int, ...]
    temperature: float
    accuracy: float | None
    log_loss: float
    sharpness: Sharpness | None = None
    graph: bytes | None = None

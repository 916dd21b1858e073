"""A trained branch as a branch file: manifest, test vector, checked bytes."""

import importlib.metadata
import platform
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from edge_stl import __version__
from exporter.branch import export_branch
from exporter.manifest import (
    Camera,
    Images,
    Manifest,
    TestVector,
    TrainingRecord,
    Validation,
    vector_input,
)
from exporter.own_export import export_own


if TYPE_CHECKING:
    from edge_stl.branch import Trained, Trainer

_VECTOR_SEED = 20240713


@dataclass(frozen=True)
class FinishedBranch:
    """A branch that can leave its box.

    Attributes:
        trained: numbers and scores.
        manifest: what the file says of itself.
        data: bytes of the file, checked by ONNX's full checker and onnxruntime.
    """

    trained: "Trained"
    manifest: Manifest
    data: bytes

    @property
    def file_name(self) -> str:
        """Return ``branch.box.onnx``."""
        return f"{self.manifest.id}.onnx"


def finish_branch(trainer: "Trainer", *, box: str, threads: int) -> FinishedBranch:
    """Calibrate a trained branch and make its file.

    Args:
        trainer: with all its steps done.
        box: the box id.
        threads: of torch, for the record.

    Raises:
        CheckError: the file would not do elsewhere what the network does here.
    """
    plan, branch = trainer.plan, trainer.branch
    trained = trainer.finish()
    manifest = Manifest(
        format=1,
        builder=1,
        plan_digest=plan.digest,
        branch=branch.name,
        box=box,
        network=branch.network,
        native_resolution=trainer.native_resolution,
        images=Images(train=trained.train_counts, validation=trained.validation_counts),
        validation=Validation(accuracy=trained.accuracy, log_loss=trained.log_loss),
        temperature=trained.temperature,
        training=TrainingRecord(
            threads=threads, **asdict(trainer.settings) | {"batch_size": trainer.batch_size}
        ),
        versions=versions(),
        test_vector=vector_of(trainer),
        camera=Camera.of(trained.sharpness) if trained.sharpness else None,
    )
    data = (
        export_branch(manifest, plan, trained.parameters)
        if trained.graph is None
        else export_own(manifest, plan, trained.graph)
    )
    return FinishedBranch(trained, manifest, data)


def versions() -> dict[str, str]:
    """Return the versions of what made a branch file, by name."""
    return {
        "edge_stl": __version__,
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
        "numpy": importlib.metadata.version("numpy"),
        "pywavelets": importlib.metadata.version("PyWavelets"),
    }


def vector_of(trainer: "Trainer") -> TestVector:
    """Return a seeded input and what the network of a trainer, as it is now, says to it."""
    import torch  # an optional extra

    plan, branch = trainer.plan, trainer.branch
    inputs = vector_input(
        _VECTOR_SEED, channels=plan.band_channels(branch), size=plan.band_size(branch)
    )
    logits = trainer.logits(torch.from_numpy(inputs))
    return TestVector(
        seed=_VECTOR_SEED,
        logits=tuple(tuple(float(f"{v:.6g}") for v in row) for row in logits),
    )

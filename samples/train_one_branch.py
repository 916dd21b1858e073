"""Train one branch on numpy arrays, step by step, and write its branch file.

    python samples/train_one_branch.py

This is what the agent does around its folders, checkpoints and progress bars. Stop after any step
with ``trainer.state()`` and go on with ``trainer.restore(state)``.
"""

import importlib.metadata
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from edge_stl import __version__
from edge_stl.branch import Settings, Trainer
from edge_stl.plan import new_plan
from exporter.branch import export_branch
from exporter.manifest import (
    Images,
    Manifest,
    TestVector,
    TrainingRecord,
    Validation,
    vector_input,
)


OUT = Path("runs/samples")
SIDE, COUNT = 16, 200

# Two classes that the approximation cannot tell apart, but the details can: stripes down, across.
rng = np.random.default_rng(0)
labels = np.arange(COUNT) % 2
stripes = np.tile(np.array([60, 140]), SIDE // 2)
images = np.where(labels[:, None, None] == 0, stripes[None, :, None], stripes[None, None, :])
images = np.clip(images + rng.normal(0, 60, images.shape), 0, 255).astype(np.uint8)[..., None]

plan = new_plan(
    classes=["across", "down"], resolution=SIDE, channels=1, levels=1, epochs=4, network="cnn-xs"
)
branch = plan.branch("d1")
torch.set_num_threads(1)
trainer = Trainer(
    images, labels, plan=plan, branch_name=branch.name, settings=Settings.from_plan(plan)
)
while not trainer.finished:
    loss = trainer.step()
    if trainer.steps_done % 10 == 0:
        print(f"step {trainer.steps_done:3} of {trainer.steps_total}: loss {loss:.3f}")
trained = trainer.finish()
print(f"validation accuracy {trained.accuracy:.0%}, log-loss {trained.log_loss:.3f}")

seed = 7
noise = vector_input(seed, channels=plan.band_channels(branch), size=plan.band_size(branch))
record = asdict(trainer.settings) | {"batch_size": trainer.batch_size}
manifest = Manifest(
    format=1,
    builder=1,
    plan_digest=plan.digest,
    branch=branch.name,
    box="my-desk",
    network=branch.network,
    native_resolution=SIDE,
    images=Images(train=trained.train_counts, validation=trained.validation_counts),
    validation=Validation(accuracy=trained.accuracy, log_loss=trained.log_loss),
    temperature=trained.temperature,
    training=TrainingRecord(threads=1, **record),
    versions={"edge_stl": __version__, "torch": importlib.metadata.version("torch")},
    test_vector=TestVector(
        seed=seed,
        logits=tuple(tuple(map(float, row)) for row in trainer.logits(torch.from_numpy(noise))),
    ),
)
OUT.mkdir(parents=True, exist_ok=True)
path = OUT / f"{manifest.id}.onnx"
path.write_bytes(export_branch(manifest, plan, trained.parameters))
print(f"{path}: {path.stat().st_size:,} bytes")

"""Train one branch on numpy arrays, step by step, and write its branch file.

    python samples/train_one_branch.py

This is what the agent does around its folders, checkpoints and progress bars. Stop after any step
with ``trainer.state()`` and go on with ``trainer.restore(state)``.
"""

from pathlib import Path

import numpy as np
import torch

from device_agent.branch_file import finish_branch
from edge_stl.branch import Settings, Trainer
from edge_stl.plan import new_plan


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
finished = finish_branch(trainer, box="my-desk", threads=1)
accuracy, loss = finished.trained.accuracy, finished.trained.log_loss
print(f"validation accuracy {accuracy:.0%}, log-loss {loss:.3f}")

OUT.mkdir(parents=True, exist_ok=True)
path = OUT / finished.file_name
path.write_bytes(finished.data)
print(f"{path}: {path.stat().st_size:,} bytes")

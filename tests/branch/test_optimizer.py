"""The optimizer is torch's, without what torch's compiler would cost a box."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edge_stl.branch import Settings
from edge_stl.branch._optimizer import adamw
from edge_stl.plan import new_plan


ROOT = Path(__file__).parents[2]
SETTINGS = Settings.from_plan(
    new_plan(classes=["a", "b"], resolution=8, levels=1, network="cnn-xs", epochs=1)
)
TRAINING = """
import sys
import numpy as np
from edge_stl.branch import Settings, Trainer
from edge_stl.plan import new_plan
plan = new_plan(classes=["a", "b"], resolution=8, levels=1, network="cnn-xs", epochs=1)
images = np.zeros((20, 8, 8, 3), np.uint8), np.arange(20) % 2
trainer = Trainer(*images, plan=plan, branch_name="d1", settings=Settings.from_plan(plan))
trainer.step()
trainer.restore(trainer.state())
trainer.step()
print("torch" in sys.modules, "torch._dynamo" in sys.modules, "sympy" in sys.modules)
"""


def steps(optimizer: torch.optim.Optimizer, module: nn.Module) -> list[np.ndarray]:
    """Take three steps, the last after the state went out and in again."""
    for k in range(3):
        optimizer.zero_grad(set_to_none=True)
        inputs = torch.arange(12.0).reshape(3, 4).sin() + k
        module(inputs).square().mean().backward()
        optimizer.load_state_dict(optimizer.state_dict())
        for group in optimizer.param_groups:
            group["lr"] *= 0.9
        optimizer.step()
    return [p.detach().numpy().copy() for p in module.parameters()]


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))


def test_steps_are_those_of_torch_s_own_adamw_bit_by_bit():
    ours, theirs = network(), network()
    made = adamw(ours, SETTINGS)
    groups = [
        {"params": [theirs[0].weight, theirs[2].weight], "weight_decay": SETTINGS.weight_decay},
        {"params": [theirs[0].bias, theirs[2].bias], "weight_decay": 0.0},
    ]
    other = torch.optim.AdamW(groups, lr=SETTINGS.learning_rate, fused=True)
    start = [p.detach().numpy().copy() for p in ours.parameters()]

    found, expected = steps(made, ours), steps(other, theirs)

    for before, a, b in zip(start, found, expected, strict=True):
        assert a.tobytes() == b.tobytes()
        assert (a != before).any()
    assert made.param_groups[0]["weight_decay"] == SETTINGS.weight_decay > 0


def test_training_does_not_load_torch_s_compiler():
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{TRAINING}"],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip

    assert (done.stdout, done.stderr) == ("True False False\n", "")

import numpy as np
import torch
from hypothesis import example, given, settings, strategies as st

from edge_stl.branch import Settings, Trainer, fit_temperature
from edge_stl.branch._calibrate import class_mean_log_loss
from edge_stl.fusion import Member, member_probabilities
from edge_stl.plan import new_plan


def loss_at(t: float, logits: np.ndarray, labels: np.ndarray, counts: tuple[int, ...]) -> float:
    who = Member("", "", counts, t, 0.0)
    return class_mean_log_loss(member_probabilities(logits, who), labels, who.seen)


@example(seed=27384, noise=5.0, sharpness=3.0)
@settings(max_examples=50)
@given(st.integers(0, 10**6), st.floats(0.1, 6), st.floats(0.5, 5))
def test_no_temperature_is_better_even_where_probabilities_are_cut_off(
    seed: int, noise: float, sharpness: float
):
    rng = np.random.default_rng(seed)
    counts = (30, 10, 0, 20)
    labels = rng.choice([0, 1, 3], 40)
    logits = sharpness * (np.eye(4)[labels] * 2 + noise * rng.normal(size=(40, 4)))

    fitted = fit_temperature(logits, labels, counts)

    best = min(loss_at(t, logits, labels, counts) for t in np.geomspace(0.05, 20, 200))
    assert loss_at(fitted, logits, labels, counts) <= best + 1e-6


def test_a_state_is_a_copy_that_later_steps_leave_alone():
    plan = new_plan(classes=["a", "b"], resolution=8, levels=1, network="mlp-s")
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3)).astype(np.uint8)
    job = Trainer(
        images, np.arange(40) % 2, plan=plan, branch_name="a1", settings=Settings.from_plan(plan)
    )
    job.step()
    state = job.state()
    before = {name: tensor.clone() for name, tensor in state.items()}

    job.step()

    assert all(torch.equal(state[name], before[name]) for name in before)

"""One branch in training: it learns, and ends in the same bytes however often it was stopped."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from edge_stl.branch import Settings, Trained, Trainer
from edge_stl.branch._optimizer import batch_size, one_cycle
from edge_stl.errors import CheckError, DataError
from edge_stl.plan import Plan, new_plan, plan_from_document
from edge_stl.testing import assert_parity


Images = tuple[np.ndarray, np.ndarray]


def make_plan(*, network: str = "cnn-xs", more: dict[str, Any] | None = None, **o: Any) -> Plan:
    options: dict[str, Any] = {
        "classes": ["dark", "bright", "third"],
        "resolution": 8,
        "levels": 1,
        "branches": "all",
        "network": network,
        "epochs": 3,
    }
    document = new_plan(**(options | o)).to_document()
    for table, changes in (more or {}).items():
        document[table] = document.get(table, {}) | changes
    return plan_from_document(document, where="test")


def easy(count: int = 60, *, side: int = 8, seed: int = 0) -> Images:
    """Return noise around 90 and 160, one class each."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    levels = np.array([90, 160])[labels][:, None, None, None]
    pixels = np.clip(levels + rng.normal(0, 20, (count, side, side, 3)), 0, 255)
    return pixels.astype(np.uint8), labels.astype(np.int64)


def trainer(plan: Plan, data: Images, *, name: str = "all", **changes: Any) -> Trainer:
    settings = Settings.from_plan(plan, **changes)
    return Trainer(*data, plan=plan, branch_name=name, settings=settings)


def run(job: Trainer, *, steps: int | None = None) -> list[float]:
    losses = []
    while not job.finished and (steps is None or len(losses) < steps):
        losses.append(job.step())
    return losses


def assert_same_branch(actual: Trained, expected: Trained) -> None:
    assert list(actual.parameters) == list(expected.parameters)
    for name, tensor in expected.parameters.items():
        assert actual.parameters[name].tobytes() == tensor.tobytes(), name
    for field in ("train_counts", "validation_counts", "temperature", "accuracy", "log_loss"):
        assert getattr(actual, field) == getattr(expected, field)


@pytest.mark.parametrize("network", ["cnn-xs", "mlp-s", "res-s", "mobile-s"])
def test_the_same_seed_gives_the_same_bytes(network: str):
    plan = make_plan(network=network)
    first, second = trainer(plan, easy()), trainer(plan, easy())

    assert run(first) == run(second)
    assert_same_branch(second.finish(), first.finish())


def test_another_seed_gives_other_numbers():
    plan = make_plan()
    first, second = trainer(plan, easy()), trainer(plan, easy(), seed=1)
    run(first)
    run(second)

    assert (
        first.finish().parameters["1.weight"].tobytes()
        != second.finish().parameters["1.weight"].tobytes()
    )


def test_what_else_draws_random_numbers_changes_nothing_and_is_not_disturbed():
    plan = make_plan()
    quiet, busy = trainer(plan, easy()), trainer(plan, easy())
    torch.manual_seed(7)
    undisturbed = torch.rand(3)

    expected = run(quiet)
    torch.manual_seed(7)
    busy.step()

    assert torch.equal(torch.rand(3), undisturbed)
    assert run(busy) == expected[1:]


@pytest.mark.parametrize("network", ["cnn-xs", "mlp-s", "res-s", "mobile-s"])
@pytest.mark.parametrize("stops", [(1,), (4,), (2, 5)])  # inside an epoch, at its end, both
def test_a_run_that_was_stopped_ends_in_the_same_bytes(network: str, stops: tuple[int, ...]):
    plan = make_plan(network=network)
    whole = trainer(plan, easy(), batch_size=16)
    losses = run(whole)

    job, resumed = trainer(plan, easy(), batch_size=16), []
    for stop in stops:
        resumed += run(job, steps=stop - job.steps_done)
        tensors = {k: v.clone() for k, v in job.state().items()}
        job = trainer(plan, easy(), batch_size=16)
        job.restore(tensors)
        assert job.steps_done == stop
    resumed += run(job)

    assert resumed == losses
    assert_same_branch(job.finish(), whole.finish())


def test_a_state_of_another_branch_is_refused():
    tensors = trainer(make_plan(network="mlp-s"), easy()).state()

    with pytest.raises(ValueError, match="not a state of this branch"):
        trainer(make_plan(), easy()).restore(tensors)


def test_a_state_of_other_shapes_is_refused():
    tensors = trainer(make_plan(), easy()).state()
    tensors["module.1.weight"] = tensors["module.1.weight"][:1]

    with pytest.raises(ValueError, match="not a state of this branch"):
        trainer(make_plan(), easy()).restore(tensors)


@pytest.mark.parametrize("network", ["cnn-xs", "res-s", "mobile-s"])
def test_a_branch_learns_what_is_easy(network: str):
    plan = make_plan(network=network, epochs=6, shift=0.1)
    job = trainer(plan, easy(), batch_size=8)

    losses = run(job)
    trained = job.finish()

    assert np.mean(losses[-5:]) < 0.1 < np.mean(losses[:3])
    assert trained.accuracy == 1
    assert trained.log_loss < 0.1


def test_shuffled_labels_stay_at_chance_on_held_out_images():
    pixels, labels = easy(200)
    shuffled = np.random.default_rng(3).permutation(labels)
    plan = make_plan(epochs=4, more={"training": {"validation": 0.5}})
    job = trainer(plan, (pixels, shuffled))

    run(job)
    trained = job.finish()

    assert sum(trained.validation_counts) == 100
    assert trained.accuracy == pytest.approx(0.5, abs=0.15)
    assert trained.log_loss == pytest.approx(math.log(2), abs=0.05)


def test_a_class_without_training_images_takes_no_part():
    job = trainer(make_plan(), easy())

    run(job)
    trained = job.finish()

    assert trained.train_counts == (27, 27, 0)
    assert trained.validation_counts == (3, 3, 0)
    assert job.logits(torch.zeros(1, 12, 4, 4)).shape == (1, 3)


def test_published_counts_are_floored_where_a_class_was_seen():
    plan = make_plan(more={"privacy": {"min_count": 10}})
    pixels, labels = easy(40)
    few = labels.copy()
    few[:4] = 2  # two of each: too few to hold one back

    trained = trainer(plan, (pixels, few)).finish()

    assert trained.train_counts == (16, 16, 10)
    assert trained.validation_counts == (10, 10, 0)


def test_the_floor_leaves_unseen_classes_at_zero():
    trained = trainer(make_plan(more={"privacy": {"min_count": 50}}), easy()).finish()

    assert trained.train_counts == (50, 50, 0)
    assert trained.validation_counts == (50, 50, 0)


def test_without_validation_images_a_branch_claims_nothing():
    trained = trainer(make_plan(more={"training": {"validation": 0.0}}), easy()).finish()

    assert trained.accuracy is None
    assert trained.temperature == 1
    assert trained.log_loss == pytest.approx(math.log(2), abs=1e-6)
    assert trained.validation_counts == (0, 0, 0)


def test_a_class_too_small_to_hold_back_counts_as_chance():
    pixels, labels = easy(64)
    labels[:4] = 2
    job = trainer(make_plan(network="mlp-s", epochs=6), (pixels, labels), batch_size=8)

    run(job)
    trained = job.finish()

    assert trained.validation_counts == (3, 3, 0)
    assert trained.log_loss == pytest.approx(math.log(3) / 3, abs=0.01)


def test_the_same_module_with_the_folded_numbers_gave_the_validation_scores():
    """The published loss is that of the fusion's formula on the module's own logits."""
    pixels, labels = easy(80)
    plan = make_plan(epochs=1)
    job = trainer(plan, (pixels, labels))
    run(job)
    trained = job.finish()
    held = job.minibatches.validation

    z = (
        job.logits(job.minibatches.bands(pixels[held]))[:, :2].astype(np.float64)
        / trained.temperature
    )
    z -= np.log((np.array(trained.train_counts[:2]) + 1) / (sum(trained.train_counts) + 2))
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)

    own = -np.log(p[np.arange(len(held)), labels[held]])
    per_class = [own[labels[held] == c].mean() for c in (0, 1)]
    assert trained.log_loss == pytest.approx(np.mean(per_class), rel=1e-5)
    assert trained.accuracy == pytest.approx((p.argmax(axis=1) == labels[held]).mean())


def test_a_diverging_training_is_stopped_with_its_reason():
    job = trainer(make_plan(), easy(), learning_rate=1e30)

    with pytest.raises(
        CheckError, match=r"branch all: the loss is .* at step .*; training diverged"
    ):
        run(job)


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_images_are_refused(count: int):
    with pytest.raises(DataError, match=f"branch all: {count} training images; at least 2"):
        trainer(make_plan(), easy(count))


def test_no_batch_has_a_single_image():
    plan = make_plan(more={"training": {"validation": 0.0}})
    job = trainer(plan, easy(17), batch_size=16)

    losses = run(job)

    assert job.steps_total == len(losses) == 2 * plan.training.epochs
    assert all(math.isfinite(loss) for loss in losses)
    assert [len(batch) for batch in job.minibatches.order] == [9, 8]


def test_every_image_is_seen_once_an_epoch_in_another_order():
    job = trainer(make_plan(), easy(), batch_size=16)
    orders = []
    while not job.finished:
        epoch = job.epoch
        while job.epoch == epoch:
            job.step()
        orders.append(np.concatenate(job.minibatches.order))

    assert len(orders) == 3
    for order in orders:
        assert sorted(order) == sorted(job.minibatches.train)
    assert not np.array_equal(orders[0], orders[1])


def test_every_epoch_changes_the_images_its_own_way_whoever_asks():
    jobs = trainer(make_plan(shift=0.3), easy()), trainer(make_plan(shift=0.3), easy())
    rows: list[list[np.ndarray]] = [[], []]
    for job, epochs, seen in zip(jobs, ([0, 1], [1]), rows, strict=True):
        for epoch in epochs:
            job.minibatches.enter(epoch)
            assert job.minibatches.draws is not None
            seen.append(job.minibatches.draws.rows)

    assert not np.array_equal(rows[0][0], rows[0][1])
    assert np.array_equal(rows[0][1], rows[1][0])


def test_a_coarse_box_trains_the_branch_on_its_own_pixels():
    plan = make_plan(branches="detail", resolution=16, levels=2)
    job = trainer(plan, easy(side=8), name="d2")

    run(job, steps=2)

    assert job.minibatches.bands(easy(2)[0]).shape == (2, 9, 4, 4)


def test_pixels_are_in_0_to_1_before_analysis():
    plan = make_plan(branches="single")
    job = trainer(plan, easy(), name="ca1")

    assert_parity(
        job.minibatches.bands(np.full((1, 8, 8, 3), 255, np.uint8)),
        np.ones((1, 3, 4, 4)),
        kind="float32",
    )


def test_settings_are_the_plan_s_unless_changed():
    plan = make_plan(more={"training": {"learning_rate": 0.5, "seed": 4}})

    settings = Settings.from_plan(plan, epochs=9)

    assert settings == Settings(
        epochs=9,
        seed=4,
        batch_size=None,
        learning_rate=0.5,
        weight_decay=0.01,
        label_smoothing=0.0,
        device="cpu",
    )


@pytest.mark.parametrize(
    ("images", "size"),
    [(2, 16), (5_000, 16), (5_001, 32), (20_000, 32), (20_001, 64), (10**6, 64)],
)
def test_where_the_plan_leaves_it_open_small_sets_get_small_batches(images: int, size: int):
    assert batch_size(images) == size


def test_the_batch_size_is_the_plan_s_where_it_has_one():
    assert trainer(make_plan(), easy()).batch_size == 16
    plan = make_plan(more={"training": {"batch_size": 7}})
    assert trainer(plan, easy()).batch_size == 7
    assert trainer(plan, easy()).steps_total == math.ceil(54 / 7) * 3


def test_only_weights_decay():
    job = trainer(make_plan(), easy(), weight_decay=0.3)

    for group in job._optimizer.param_groups:
        assert all((p.ndim > 1) == (group["weight_decay"] == 0.3) for p in group["params"])
    assert {g["weight_decay"] for g in job._optimizer.param_groups} == {0.0, 0.3}


@pytest.mark.parametrize("total", [1, 2, 3, 40, 1000])
def test_the_rate_rises_for_a_quarter_and_falls_to_nearly_zero(total: int):
    rates = np.array([one_cycle(step, total) for step in range(total + 1)])
    peak = int(rates.argmax())

    assert rates[0] == pytest.approx(0.04)
    assert rates.min() > 0
    assert rates.max() <= 1
    assert peak == math.ceil(max(1, total / 4)) or total < 4
    assert (np.diff(rates[: peak + 1]) > 0).all()
    assert (np.diff(rates[peak:]) < 0).all()
    if total > 1:
        assert rates[-1] == pytest.approx(1e-4)

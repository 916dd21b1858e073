"""A plan's branches as one network and back: the same answers, the same branch files."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from device_agent.branch_file import FinishedBranch, finish_branch
from edge_stl.bands import bank
from edge_stl.branch import Settings, Trainer, branch_modules, build_module, whole_network
from edge_stl.fusion import fuse
from edge_stl.layers import Analysis
from edge_stl.plan import Plan, new_plan
from edge_stl.predict import Ensemble
from edge_stl.testing import assert_parity
from exporter.merge import merge_paths
from exporter.options import Options


CLASSES = ["left", "mid", "right"]
SIDE = 12
PLANS: dict[str, dict[str, Any]] = {
    "dct:2": {"transform": "dct:2"},
    "haar": {"transform": "haar", "levels": 1},
    "stl-dct:2": {"transform": "stl-dct:2"},
    "stl-dft:2": {"transform": "stl-dft:2", "network": "mlp-s"},
}
Each = pytest.mark.parametrize("name", PLANS)


@functools.cache
def plan_of(name: str) -> Plan:
    common: dict[str, Any] = {"network": "cnn-xs", "branches": "single", "epochs": 2}
    options = {"classes": CLASSES, "resolution": SIDE, "channels": 1} | common | PLANS[name]
    return new_plan(**options)


@functools.cache
def images() -> tuple[np.ndarray, np.ndarray]:
    """Return bars in noise, ``(N, SIDE, SIDE, 1)`` uint8, and their classes."""
    rng = np.random.default_rng(0)
    labels = np.arange(36) % 3
    pixels = rng.integers(0, 90, (36, SIDE, SIDE, 1))
    for image, label in zip(pixels, labels, strict=True):
        image[:, 4 * label : 4 * label + 4] += 120
    return pixels.astype(np.uint8), labels.astype(np.int64)


def untrained(plan: Plan, **changes: Any) -> dict[str, Trainer]:
    settings = Settings.from_plan(plan, **changes)
    return {
        branch.name: Trainer(*images(), plan=plan, branch_name=branch.name, settings=settings)
        for branch in plan.branches
    }


@functools.cache
def trained(name: str) -> dict[str, Trainer]:
    trainers = untrained(plan_of(name))
    for trainer in trainers.values():
        while not trainer.finished:
            trainer.step()
    return trainers


def finished(trainer: Trainer) -> FinishedBranch:
    return finish_branch(trainer, box="cam01", threads=1)


def inputs(plan: Plan) -> Tensor:
    """Return what the whole network takes: ``(N, branches, C * bands, h, w)``."""
    names = tuple(band for branch in plan.branches for band in branch.bands)
    unit = torch.from_numpy(images()[0]).permute(0, 3, 1, 2).float() / 255
    bands = Analysis(bank(plan.bank, bands=names), resolution=SIDE)(unit)
    return bands.unflatten(1, (len(plan.branches), -1))


@Each
def test_trained_branches_taken_whole_and_apart_again_give_the_very_same_files(name: str):
    plan, trainers = plan_of(name), trained(name)
    modules = {branch: trainer.module for branch, trainer in trainers.items()}

    again = branch_modules(whole_network(modules, plan), plan)

    assert list(again) == [branch.name for branch in plan.branches]
    for branch, trainer in untrained(plan).items():
        assert finished(trainer).data != finished(trainers[branch]).data
        trainer.adopt(again[branch])
        assert trainer.finished
        assert finished(trainer).data == finished(trainers[branch]).data


@Each
def test_the_whole_network_answers_like_its_branches(name: str):
    plan, trainers = plan_of(name), trained(name)
    whole = whole_network({b: t.module.eval() for b, t in trainers.items()}, plan)
    x = inputs(plan)

    with torch.inference_mode():
        logits = whole(x)

    apart = [trainer.logits(x[:, k]) for k, trainer in enumerate(trainers.values())]
    assert logits.shape == (36, len(plan.branches), 3)
    assert_parity(logits, np.stack(apart, axis=1), kind="float32")


def test_a_network_trained_whole_becomes_an_ensemble_that_answers_like_its_branches(
    tmp_path: Path,
):
    """One optimizer and the sum of the branches' losses, instead of one Trainer per branch."""
    plan = plan_of("dct:2")
    trainers = untrained(plan)
    whole = whole_network({branch: t.module for branch, t in trainers.items()}, plan).train()
    optimizer = torch.optim.AdamW(whole.parameters(), lr=0.003)
    x, labels = inputs(plan), torch.from_numpy(images()[1])
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        logits = whole(x)
        each = [nn.functional.cross_entropy(logits[:, k], labels) for k in range(logits.shape[1])]
        loss = torch.stack(each).sum()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]

    of_torch, members = {}, {}
    modules = branch_modules(whole.eval(), plan)
    for k, (branch, trainer) in enumerate(trainers.items()):
        trainer.adopt(modules[branch])
        done = finished(trainer)
        (tmp_path / done.file_name).write_bytes(done.data)
        of_torch[done.manifest.id] = modules[branch](x[:, k]).detach().numpy()
        members[done.manifest.id] = done.manifest.member()
    merged = merge_paths(sorted(tmp_path.glob("*.onnx")), options=Options())
    (tmp_path / "e.onnx").write_bytes(merged.model)

    order = [file.manifest.id for file in merged.files]
    logits = [of_torch[i] for i in order]
    expected, rows = fuse(logits, [members[i] for i in order], merged.weights, scale=merged.scale)
    got, got_rows = Ensemble(tmp_path / "e.onnx", threads=1).predict(images()[0])
    assert_parity(got, expected, kind="probabilities")
    assert_parity(got_rows, rows, kind="probabilities")


def test_the_whole_is_a_copy_of_its_branches():
    plan = plan_of("dct:2")
    trainer = next(iter(trained("dct:2").values()))
    before = {key: tensor.clone() for key, tensor in trainer.module.state_dict().items()}
    whole = whole_network({b: t.module for b, t in trained("dct:2").items()}, plan)

    for tensor in whole.state_dict().values():
        tensor.zero_()

    for key, tensor in trainer.module.state_dict().items():
        assert torch.equal(tensor, before[key])


def test_a_trainer_adopts_a_copy():
    trainer = next(iter(untrained(plan_of("dct:2")).values()))
    module = next(iter(trained("dct:2").values())).module
    other = {key: tensor.clone() for key, tensor in module.state_dict().items()}

    trainer.adopt(module)
    for tensor in trainer.module.state_dict().values():
        tensor.zero_()

    for key, tensor in module.state_dict().items():
        assert torch.equal(tensor, other[key])


def test_an_adopted_state_is_stored_and_restored_as_a_finished_one():
    first, second = (next(iter(untrained(plan_of("dct:2")).values())) for _ in range(2))
    first.step()  # has moments of its own, which belong to numbers that go
    first.adopt(next(iter(trained("dct:2").values())).module)

    second.restore(first.state())

    assert second.finished
    assert not any(key.startswith("optimizer.") for key in first.state())
    assert finished(second).data == finished(first).data


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda m: m.append(nn.Linear(2, 2)), r"\.weight is none of its tensors"),
        (lambda m: m.__delitem__(-1), r"\d+\.weight is missing"),
        (lambda m: m.double(), r"0\.running_mean is \(1,\) torch.float64; expected \(1,\) torch"),
        (
            lambda m: m.__setitem__(1, nn.Conv2d(1, 5, 3)),
            r"1\.weight is \(5, 1, 3, 3\) torch.float32; expected \(\d+, 1, 3, 3\) torch.float32",
        ),
    ],
    ids=["more", "less", "double", "wider"],
)
def test_a_module_of_another_structure_is_not_adopted(change: Any, sentence: str):
    plan = plan_of("dct:2")
    branch, trainer = next(iter(untrained(plan).items()))
    spec = plan.branch(branch)
    module = build_module(plan.layers(spec), channels=1, size=plan.band_size(spec))
    change(module)
    before = finished(trainer).data

    with pytest.raises(
        ValueError, match=f"branch dct00: not a module of this branch: .*{sentence}"
    ):
        trainer.adopt(module)

    assert finished(trainer).data == before
    assert not trainer.finished
    others = untrained(plan)
    modules = {name: t.module for name, t in others.items()} | {branch: module}
    with pytest.raises(ValueError, match=f"whole_network: branch dct00: .*{sentence}"):
        whole_network(modules, plan)


@pytest.mark.parametrize("extra", [True, False])
def test_a_module_too_many_or_too_few_is_refused(extra: bool):
    plan = plan_of("dct:2")
    modules = {b: t.module for b, t in trained("dct:2").items()}
    if extra:
        modules["other"] = modules["dct00"]
    else:
        del modules["dct11"]

    with pytest.raises(
        ValueError, match=r"whole_network: modules dct00, .*; expected one of every"
    ):
        whole_network(modules, plan)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"transform": "haar", "levels": 2}, "branch ch1 is cnn-xs on 1 bands of 6 x 6; expected"),
        ({"transform": "haar", "levels": 1, "branches": "detail"}, "branch d1 is .* on 3 bands"),
    ],
)
def test_branches_of_different_geometry_are_no_one_network(options: dict[str, Any], sentence: str):
    common: dict[str, Any] = {"network": "cnn-xs", "branches": "single", "channels": 1}
    plan = new_plan(classes=CLASSES, resolution=SIDE, **(common | options))
    whole = whole_network({b: t.module for b, t in trained("dct:2").items()}, plan_of("dct:2"))

    with pytest.raises(ValueError, match=f"plan: {sentence}"):
        whole_network({}, plan)
    with pytest.raises(ValueError, match=f"plan: {sentence}"):
        branch_modules(whole, plan)


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        ("res-s", "branch dct00 is res-s, which has a Residual; expected a network of Conv, Dense"),
        ("mobile-s", "branch dct00 is mobile-s, which has a DepthwiseConv; expected a network of"),
        ("cnn-s-gn", "branch dct00 is cnn-s-gn, which has a GroupNorm; expected a network of Conv"),
    ],
)
def test_networks_without_a_spectral_form_are_refused(network: str, sentence: str):
    plan = new_plan(
        classes=CLASSES,
        resolution=SIDE,
        channels=1,
        transform="dct:2",
        branches="single",
        network=network,
    )
    whole = whole_network({b: t.module for b, t in trained("dct:2").items()}, plan_of("dct:2"))

    with pytest.raises(ValueError, match=f"plan: {sentence}"):
        whole_network({}, plan)
    with pytest.raises(ValueError, match=f"plan: {sentence}"):
        branch_modules(whole, plan)


def test_a_network_of_another_plan_is_refused():
    whole = whole_network({b: t.module for b, t in trained("dct:2").items()}, plan_of("dct:2"))
    more = new_plan(
        classes=CLASSES,
        resolution=SIDE,
        channels=1,
        transform="stl-dct:3",
        network="cnn-xs",
        branches="single",
    )

    with pytest.raises(ValueError, match="a network of 4 branches; expected 9, those of the plan"):
        branch_modules(whole, more)
    with pytest.raises(ValueError, match=r"branch_modules: branch f00: 2\.weight is"):
        branch_modules(whole, plan_of("stl-dft:2"))

"""The whole way on real images, in one process, to compare torch, numpy and onnxruntime.

Needs the image packs (``EDGE_STL_DATA`` or ``../shared/data``); skipped, saying so, without them.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks._data import default_data
from device_agent.branch_file import finish_branch
from edge_stl.bands import bank
from edge_stl.branch import Settings, Trainer
from edge_stl.fusion import fuse
from edge_stl.images import decode, fit_square, scan
from edge_stl.plan import Plan, new_plan
from edge_stl.predict import Ensemble
from edge_stl.testing import assert_parity
from exporter.merge import Merged, merge_paths
from exporter.options import Options


PACK = default_data() / "roadside64.npz"

pytestmark = pytest.mark.skipif(
    not PACK.is_file(), reason=f"no roadside64 pack in {PACK.parent.name}; set EDGE_STL_DATA"
)


@dataclass
class Trained:
    plan: Plan
    trainers: list[Trainer]
    natives: list[int]
    merged: Merged
    ensemble: Ensemble
    test: NDArray[np.uint8]
    labels: NDArray[np.int64]


def _pixels(folder: Path, plan: Plan) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images = scan(folder, plan.classes)
    caps = {"max_pixels": 10**6, "max_bytes": 10**6}
    pixels = [decode(images.path(i), channels=3, **caps) for i in range(len(images))]
    return np.stack(pixels), images.labels


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Three boxes at 16, 32 and 64 px, a little training each, one ensemble file."""
    torch.set_num_threads(1)  # two threads on a busy machine wait for each other
    folder = tmp_path_factory.mktemp("roadside")
    unpack = PACK.with_name("unpack.py")
    command = [sys.executable, str(unpack), "roadside64", str(folder / "images"), "--limit", "150"]
    subprocess.run(command, check=True, capture_output=True)
    classes = sorted(p.name for p in (folder / "images" / "train").iterdir())
    plan = new_plan(classes=classes, resolution=64, network="cnn-xs", epochs=8)
    train, labels = _pixels(folder / "images" / "train", plan)
    test, test_labels = _pixels(folder / "images" / "test", plan)
    trainers, natives, paths = [], [16, 32, 64], []
    for index, native in enumerate(natives):
        own = np.arange(index, len(train), 3)
        images = np.stack([fit_square(train[i], native, "crop") for i in own])
        branch = plan.own(native)[0]
        trainer = Trainer(
            images, labels[own], plan=plan, branch_name=branch.name,
            settings=Settings.from_plan(plan),
        )  # fmt: skip
        while not trainer.finished:
            trainer.step()
        finished = finish_branch(trainer, box=f"box{index}", threads=1)
        path = folder / finished.file_name
        path.write_bytes(finished.data)
        trainers.append(trainer)
        paths.append(path)
    merged = merge_paths(paths, options=Options())
    (folder / "ensemble.onnx").write_bytes(merged.model)
    ensemble = Ensemble(folder / "ensemble.onnx", threads=1)
    return Trained(plan, trainers, natives, merged, ensemble, test, test_labels)


def _torch_logits(fleet: Trained, index: int) -> NDArray[np.float32]:
    """Return the torch branch's logits on what its box would have seen, unrounded."""
    plan, native = fleet.plan, fleet.natives[index]
    branch = plan.own(native)[0]
    factor = 64 // native
    planes = fleet.test.astype(np.float64).transpose(0, 3, 1, 2) / 255
    small = planes.reshape(len(planes), 3, native, factor, native, factor).mean(axis=(3, 5))
    filters = bank(plan.bank, native_level=plan.native_level(native), bands=branch.bands)
    split = filters.analyze(small)
    bands = np.concatenate([split[name] for name in branch.bands], axis=1).astype(np.float32)
    return np.concatenate(
        [fleet.trainers[index].logits(torch.from_numpy(part)) for part in np.array_split(bands, 8)]
    )


def test_ensemble_in_onnxruntime_equals_torch_branches_and_the_oracle_on_every_test_image(
    fleet: Trained,
) -> None:
    logits = [_torch_logits(fleet, i) for i in range(3)]
    order = [f.manifest.native_resolution for f in fleet.merged.files]
    logits = [logits[fleet.natives.index(native)] for native in order]
    members = [f.manifest.member() for f in fleet.merged.files]
    expected, expected_each = fuse(logits, members, fleet.merged.weights, scale=fleet.merged.scale)
    probabilities, each = fleet.ensemble.run(fleet.test)
    assert len(probabilities) == 1500
    assert_parity(probabilities, expected, kind="probabilities")
    assert_parity(each, expected_each, kind="probabilities")


def test_parity_would_notice_branches_that_were_exchanged(fleet: Trained) -> None:
    _, each = fleet.ensemble.run(fleet.test[:50])
    with pytest.raises(AssertionError, match="differ by"):
        assert_parity(each[:, 0], each[:, 1], kind="probabilities")


def test_a_little_training_on_real_images_beats_chance_and_the_ensemble_beats_every_box(
    fleet: Trained,
) -> None:
    probabilities, each = fleet.ensemble.run(fleet.test)
    ensemble = (probabilities.argmax(axis=1) == fleet.labels).mean()
    alone = [(each[:, i].argmax(axis=1) == fleet.labels).mean() for i in range(3)]
    assert min(alone) > 0.2
    assert ensemble > max(alone)

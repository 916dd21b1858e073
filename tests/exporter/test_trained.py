"""Really trained branches: torch, the branch file and the ensemble say the same."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edge_stl.bands import bank
from edge_stl.branch import Settings, Trainer
from edge_stl.fusion import fuse
from edge_stl.layers import Analysis
from edge_stl.plan import new_plan
from edge_stl.predict import Ensemble
from edge_stl.testing import assert_parity
from exporter._session import run
from exporter.branch import export_branch
from exporter.manifest import Images, TestVector, Validation, vector_input
from exporter.merge import merge_paths
from exporter.options import Options


@pytest.mark.slow
@pytest.mark.parametrize(("transform", "network"), [("haar", "cnn-xs"), ("db2", "mlp-s")])
def test_torch_branch_file_and_ensemble_agree_on_every_image(
    transform: str, network: str, manifest_for: Any, tmp_path: Path
):
    """Bars in noise, boxes at every native resolution, the last box without a class."""
    plan = new_plan(
        classes=["left", "mid", "right"],
        resolution=16,
        channels=1,
        transform=transform,
        network=network,
        branches="context",
        flip=False,
    )
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    images = rng.integers(0, 90, (60, 16, 16, 1))
    for image, label in zip(images, labels, strict=True):
        image[:, 5 * label : 5 * label + 5] += 120
    pixels = images.astype(np.uint8)
    unit = pixels.transpose(0, 3, 1, 2).astype(np.float64) / 255
    paths, of_torch, members = [], [], []
    for i, r in enumerate(plan.resolutions):
        k = 16 // r
        own = pixels.reshape(60, r, k, r, k, 1).mean(axis=(2, 4)).round().astype(np.uint8)
        keep = labels < 2 if i == 2 else labels >= 0
        for branch in plan.own(r):
            settings = Settings.from_plan(plan, epochs=2)
            trainer = Trainer(
                own[keep], labels[keep], plan=plan, branch_name=branch.name, settings=settings
            )
            while not trainer.finished:
                trainer.step()
            trained = trainer.finish()
            geometry = {"channels": plan.band_channels(branch), "size": plan.band_size(branch)}
            vector = trainer.logits(torch.from_numpy(vector_input(5, **geometry)))
            manifest = manifest_for(
                plan,
                branch.name,
                box=f"box{i}",
                resolution=r,
                images=Images(train=trained.train_counts, validation=trained.validation_counts),
                validation=Validation(accuracy=trained.accuracy, log_loss=trained.log_loss),
                temperature=trained.temperature,
                test_vector=TestVector(seed=5, logits=tuple(map(tuple, vector.tolist()))),
            )
            data = export_branch(manifest, plan, trained.parameters)
            paths.append(tmp_path / f"{manifest.id}.onnx")
            paths[-1].write_bytes(data)
            filters = bank(plan.bank, native_level=plan.native_level(r), bands=branch.bands)
            area = unit.reshape(60, 1, r, k, r, k).mean(axis=(3, 5)).astype(np.float32)
            bands = Analysis(filters, resolution=r)(torch.from_numpy(area))
            of_torch.append(trainer.logits(bands))
            members.append(manifest.member())
            (of_file,) = run(data, {"bands": bands.numpy()})
            assert_parity(of_file, of_torch[-1], kind="float32")
    assert members[-1].counts[2] == 0
    merged = merge_paths(paths, options=Options())
    assert [f.manifest.id for f in merged.files] == [p.stem for p in paths][::-1]
    weights = merged.weights[::-1]
    expected, rows = fuse(of_torch, members, weights, scale=merged.scale)
    (tmp_path / "e.onnx").write_bytes(merged.model)
    got, got_rows = Ensemble(tmp_path / "e.onnx", threads=1).predict(pixels)
    assert_parity(got, expected, kind="probabilities")
    assert_parity(got_rows[:, ::-1], rows, kind="probabilities")

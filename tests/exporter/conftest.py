"""Boxes that know something without any training, and the images they know something of.

The first layer weighs an image by where the bar of every class stands, right, turned round, or at
random.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edge_stl.plan import Plan, new_plan, plan_from_document
from exporter._session import run
from exporter.branch import build_branch, export_branch
from exporter.manifest import vector_input


CLASSES = ["bus", "car", "van"]
PRIOR = {"bus": 0.5, "car": 0.2, "van": 0.3}


def plan_of() -> Plan:
    plan = new_plan(
        classes=CLASSES, resolution=16, channels=1, levels=1, branches="single", network="mlp-s"
    )
    return plan_from_document(plan.to_document() | {"fusion": {"prior": PRIOR}}, where="test")


def photos(folder: Path, *, count: int, seed: int, name: str = "{:03}.png") -> Path:
    """Write class folders: class c is a bar at its own place that hardly shows in the noise."""
    rng = np.random.default_rng(seed)
    for c, label in enumerate(CLASSES):
        (folder / label).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 200, (16, 16))
            pixels[:, 5 * c : 5 * c + 5] += 12
            Image.fromarray(pixels.astype(np.uint8)).save(folder / label / name.format(i))
    return folder


def places() -> NDArray[np.float64]:
    """Return where ``cA1`` of every class is brighter, ``(K, 64)``."""
    full = np.zeros((len(CLASSES), 16, 16))
    for c in range(len(CLASSES)):
        full[c, :, 5 * c : 5 * c + 5] = 1
    return full.reshape(len(CLASSES), 8, 2, 8, 2).mean(axis=(2, 4)).reshape(len(CLASSES), 64)


@pytest.fixture(scope="session")
def bar_photos() -> Callable[..., Path]:
    """As `photos`."""
    return photos


@pytest.fixture(scope="session")
def bar_plan() -> Plan:
    """As `plan_of`."""
    return plan_of()


@pytest.fixture(scope="session")
def bar_box(manifest_for: Callable[..., Any]) -> Callable[..., Path]:
    """Write a branch file of a box that is right, turned round, or knows nothing."""
    plan = plan_of()

    def one(path: Path, box: str, skill: str, *, seed: int, **facts: Any) -> Path:
        known = {"right": 1.0, "wrong": -1.0, "random": 0.0}[skill] * places()
        noise = 0.5 * np.random.default_rng(seed).normal(size=known.shape)
        noise -= noise.mean(axis=1, keepdims=True)  # no class is preferred whatever the image
        first = np.zeros((64, 64))
        first[:3] = 4 * (known + noise)
        last = np.zeros((3, 64))
        last[:, :3] = np.eye(3)
        parameters = {
            "0.scale": np.ones((1, 1, 1)),
            "0.shift": np.zeros((1, 1, 1)),
            "2.weight": first,
            "2.bias": np.full(64, 100.0),  # keeps the rectifiers open
            "5.weight": np.eye(64),
            "5.bias": np.zeros(64),
            "8.weight": last,
            "8.bias": np.zeros(3),
        }
        parameters = {k: np.asarray(v, np.float32) for k, v in parameters.items()}
        facts = {"box": box, "resolution": 16, **facts}
        draft = build_branch(manifest_for(plan, "ca1", **facts), plan, parameters)
        (logits,) = run(draft, {"bands": vector_input(5, channels=1, size=8)})
        manifest = manifest_for(plan, "ca1", logits=logits, **facts)
        path.write_bytes(export_branch(manifest, plan, parameters))
        return path

    return one

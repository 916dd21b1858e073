"""What is learned: which way the stripes of a made-up picture run. Put your own `Problem` here."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edge_stl.cotrain import (
    Batch,
    FedClient,
    FedDIPSettings,
    FedServer,
    Ledger,
    LocalSettings,
    ModuleProblem,
)
from edge_stl.durable import make_folder, write_durably


Options = Mapping[str, bool | float | int | str]
"""The table [tool.flwr.app.config] of pyproject.toml, with what `flwr run -c` changes."""
SIDE, CLASSES, IMAGES = 12, 4, 400


def network(seed: int) -> nn.Sequential:
    """Return a small convolutional network; the same seed gives the same numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.GroupNorm(2, 8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(8 * (SIDE // 2) ** 2, CLASSES),
        )


def pictures(rng: np.random.Generator, count: int) -> Batch:
    """Return pictures ``(count, 1, SIDE, SIDE)`` and which way their stripes run ``(count,)``."""
    labels = rng.integers(CLASSES, size=count)
    angle = labels[:, None, None] * np.pi / CLASSES
    y, x = np.mgrid[:SIDE, :SIDE]
    phase = rng.uniform(0, 2 * np.pi, (count, 1, 1))
    wave = np.sin(1.3 * (x * np.cos(angle) + y * np.sin(angle)) + phase)
    noisy = wave + 0.7 * rng.standard_normal((count, SIDE, SIDE))
    return torch.from_numpy(noisy[:, None].astype(np.float32)), torch.from_numpy(labels)


def problem(options: Options, index: int) -> ModuleProblem:
    """Return the problem of a client, with pictures of its own."""
    seed = int(options["seed"])
    inputs, targets = pictures(np.random.default_rng([seed, index]), IMAGES)

    def batch(step: int) -> Batch:
        chosen = np.random.default_rng([seed, index, step]).permutation(IMAGES)[:16]
        return inputs[torch.from_numpy(chosen)], targets[torch.from_numpy(chosen)]

    return ModuleProblem(network(seed), batch)


def local(options: Options) -> LocalSettings:
    """Return how a client steps."""
    return LocalSettings(
        float(options["rate"]),
        int(options["rounds"]),
        steps=int(options["steps"]),
        weight_decay=5e-4,
    )


def server(options: Options) -> FedServer:
    """Return the server of a run."""
    first = problem(options, 0)
    settings = FedDIPSettings.fedavg()
    if options["method"] == "feddip":
        settings = FedDIPSettings(
            sparsity=float(options["sparsity"]),
            every=int(options["every"]),
            penalty=float(options["penalty"]),
        )
    return FedServer(
        first.start(),
        first.shapes,
        local(options),
        settings,
        clients=int(options["clients"]),
        seed=int(options["seed"]),
    )


def client(options: Options, index: int) -> FedClient:
    """Return a client."""
    torch.set_num_threads(1)  # each process computes as the others do
    images = IMAGES - 100 * (index % 2)
    return FedClient(
        index, problem(options, index), local(options), images=images, seed=int(options["seed"])
    )


def report(options: Options, of: FedServer, ledger: Ledger) -> str:
    """Leave model and ledger in the folder ``out``; return a line about them."""
    fresh = pictures(np.random.default_rng([int(options["seed"]), 99]), 1000)
    module = network(0)
    ModuleProblem(module, lambda _: fresh).load(of.vector)
    with torch.inference_mode():
        right = float((module(fresh[0]).argmax(1) == fresh[1]).float().mean())
    digest = hashlib.sha256(of.vector.numpy().tobytes()).hexdigest()
    out = Path(str(options["out"]))
    make_folder(out)
    write_durably(out / "model.f32", of.vector.numpy().astype("<f4").tobytes())
    document = {"sha256": digest, "accuracy": right, "zeros": of.sparsity, **ledger.to_json()}
    write_durably(out / "ledger.json", json.dumps(document, indent=1).encode())
    return (
        f"accuracy {right:.3f}, {100 * of.sparsity:.0f} % zeros, "
        f"{ledger.total.total} bytes, model {digest[:16]}"
    )

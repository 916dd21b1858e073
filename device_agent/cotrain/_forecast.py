"""How many bytes a run of a group will send, told beforehand: nothing is trained, no box asked.

Messages are made of made-up numbers by the code that makes the real ones, and counted by the same
ledger. What is drawn anew each round counts with its mean. A list of indices is taken for a random
one: real ones lie closer together and cost a little less.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from device_agent.cotrain._end import pack_scores
from device_agent.cotrain._group import Run
from device_agent.cotrain._methods import STARS
from device_agent.cotrain._problem import refuse_batch_norm
from device_agent.cotrain._scores import TEMPERATURES, Scores
from device_agent.cotrain._sent import SENT_BYTES
from device_agent.cotrain._star import HUB, FedAvgSettings
from edge_stl.cotrain import (
    Bytes,
    ChocoSettings,
    FedDIPSettings,
    FedServer,
    Flat,
    JwinsSettings,
    LocalSettings,
    Message,
    NGCSettings,
    PCASettings,
    RandomSettings,
    Sparse,
    Wavelet,
    fed_bytes,
    pack_floats,
    pack_signs,
)
from edge_stl.cotrain._fedwire import Answer, write_answer
from edge_stl.cotrain._pca import PCACompressor
from edge_stl.cotrain._random import pack_sample
from edge_stl.cotrain._replicas import together
from edge_stl.plan import Branch, Plan


_FACTS = 220  # bytes that the writer says of the file at the end, nearly


def forecast_document(run: Run, plan: Plan) -> dict[str, Any]:
    """Return the document of ``cotrain --dry-run --json``.

    Raises:
        UsageError: the branch has batch norm, or a network of the user's own.
    """
    branch = plan.branch(run.group.branch)
    refuse_batch_norm(plan, branch)
    shapes = parameter_shapes(plan, branch)
    boxes = forecast(run, shapes, classes=len(plan.classes))
    others = len(boxes) - 1
    star = [others, *([1] * others)]
    degrees = star if run.method in STARS else [len(row) for row in run.graph.neighbours]
    return {
        "method": run.method,
        "group": run.group.name,
        "branch": branch.name,
        "graph": run.graph_name,
        "rounds": run.group.rounds,
        "parameters": Flat(shapes).size,
        "boxes": [
            {"box": name, "neighbours": degree, **asdict(sent), "bytes": sent.total}
            for name, degree, sent in zip(run.group.boxes, degrees, boxes, strict=True)
        ],
        "bytes_total": sum(sent.total for sent in boxes),
    }


def forecast(run: Run, shapes: tuple[torch.Size, ...], *, classes: int) -> list[Bytes]:
    """Return what each box of a group will send, in rank order, the end included.

    Args:
        run: of the group.
        shapes: of the parameters.
        classes: of the plan.
    """
    group, settings = run.group, run.settings
    workers, steps = len(group.boxes), group.rounds * group.steps
    if isinstance(settings, PCASettings):
        boxes = pca_bytes(settings, shapes, workers=workers, steps=steps)
    elif isinstance(settings, FedAvgSettings | FedDIPSettings):
        full = settings if isinstance(settings, FedDIPSettings) else settings.full()
        boxes = federated_bytes(full, shapes, workers=workers, rounds=group.rounds)
    else:
        boxes = _gossip(run, shapes)
    end = _end(run, Flat(shapes).size, classes)
    return [box + last for box, last in zip(boxes, end, strict=True)]


def parameter_shapes(plan: Plan, branch: Branch) -> tuple[torch.Size, ...]:
    """Return the shapes of the parameters of a branch, as its boxes train them."""
    from edge_stl.branch import build_module

    module = build_module(
        plan.layers(branch), channels=plan.band_channels(branch), size=plan.band_size(branch)
    )
    return tuple(p.shape for p in module.parameters())


def _gossip(run: Run, shapes: tuple[torch.Size, ...]) -> list[Bytes]:
    """Return what goes to the neighbours: in every round, or with NGC for every minibatch."""
    group, settings = run.group, run.settings
    vector = torch.zeros(Flat(shapes).size)
    model, times = _cost(pack_floats(vector)), group.rounds
    if isinstance(settings, RandomSettings):
        model = Bytes.of(pack_sample(vector, 0, settings.share, 0, degree=1))
        model.values = round(4 * settings.share * len(vector))
    elif isinstance(settings, ChocoSettings):
        model = _some(len(vector), settings.share, cap=1.0)
    elif isinstance(settings, NGCSettings):
        times *= group.steps
        if settings.alpha and run.method == "compngc":
            model += _cost(pack_signs(vector, Flat(shapes)))
        elif settings.alpha:
            model += _cost(pack_floats(vector))
    elif isinstance(settings, JwinsSettings):
        shares = settings.shares
        length = Wavelet(len(vector), settings.wavelet, settings.level, settings.mode).length
        parts = [_some(length, share, cap=settings.metadata_cap) for share in shares]
        chances = settings.probabilities or [1 / len(shares)] * len(shares)
        # A thousand rounds, so that whole bytes are precise enough.
        mean = sum((_times(b, 1000 * c) for b, c in zip(parts, chances, strict=True)), Bytes())
        return [_times(mean, len(row) * times / 1000) for row in run.graph.neighbours]
    return [_times(model, len(row) * times) for row in run.graph.neighbours]


def _some(size: int, share: float, *, cap: float) -> Bytes:
    """Return the cost of a share of so many numbers, with their indices below the cap."""
    vector = torch.zeros(size)
    chosen = None
    if share < cap:
        drawn = np.random.default_rng(0).permutation(size)[: round(share * size)]
        chosen = torch.from_numpy(np.sort(drawn))
    return Bytes.of(Sparse.of(vector, chosen).message(0, degree=1))


def pca_bytes(
    settings: PCASettings, shapes: Sequence[torch.Size], *, workers: int, steps: int
) -> list[Bytes]:
    """Return what each worker sends in all steps; of each phase one is made.

    Where ``energy`` chooses the rank it is that of random gradients, which is too high.
    """
    generator = torch.Generator().manual_seed(0)
    gradients = {str(k): torch.randn(s, generator=generator) for k, s in enumerate(shapes)}
    compressor = PCACompressor({k: g.shape for k, g in gradients.items()}, settings)
    costs: dict[str, tuple[Bytes, Bytes]] = {}
    boxes = [Bytes() for _ in range(workers)]
    for _ in range(steps):
        if compressor.phase not in costs:
            costs[compressor.phase] = _step(compressor, gradients, workers)
        hub, other = costs[compressor.phase]
        compressor.advance()
        boxes[HUB] += hub
        boxes[1] += other
    return [boxes[HUB], *([boxes[1]] * (workers - 1))]


def _step(
    compressor: PCACompressor, gradients: dict[str, Tensor], workers: int
) -> tuple[Bytes, Bytes]:
    """Return what the first box sends in a step, and what every other one does."""
    running, hub, other = compressor.compress(gradients), Bytes(), Bytes()
    collective = next(running)
    while True:
        result = together([collective] * workers)
        hub += _times(_cost(pack_floats(result.reshape(-1))), workers - 1)
        if collective.kind != "broadcast":
            other += _cost(pack_floats(collective.tensor))
        try:
            collective = running.send(result)
        except StopIteration:
            return hub, other


def federated_bytes(
    settings: FedDIPSettings, shapes: tuple[torch.Size, ...], *, workers: int, rounds: int
) -> list[Bytes]:
    """Return what the server's box and each other one sends in all rounds.

    Where only some boxes train in a round, each counts as asked as often as the others, and always
    with the mask before the newest.
    """
    local = LocalSettings(rate=1.0, rounds=rounds)
    vector = torch.from_numpy(
        np.random.default_rng(0).standard_normal(Flat(shapes).size, dtype=np.float32)
    )
    server = FedServer(vector, shapes, local, replace(settings, fraction=1.0), clients=1)
    down, up = Bytes(), Bytes()
    order = answer = Bytes()
    for number in range(rounds):
        # Rounds between two masks cost the same; the first that knows the newest one is made.
        if number < 2 or any(settings.draws_mask(n) for n in range(number - 2, number + 1)):  # noqa: PLR2004
            order, answer = _round(server, number)
        down, up = down + order, up + answer
    asked = max(1, int(settings.fraction * workers + 1e-9)) / workers
    told = _times(_cost(b""), (1 - asked) * (workers - 1) * rounds)
    hub = _times(down, asked * (workers - 1)) + told
    return [hub, *([_times(up, asked)] * (workers - 1))]


def _round(server: FedServer, number: int) -> tuple[Bytes, Bytes]:
    order = server.configure(number)[0]
    mask = None
    if server.held is not None and not server.settings.looks_at_removed(number):
        mask = server.held.mask
    answer = write_answer(Answer(0, 1, 0.0, server.vector), number, mask)
    server.aggregate(number, [answer])
    return fed_bytes(order), fed_bytes(answer)


def _end(run: Run, parameters: int, classes: int) -> list[Bytes]:
    """Return the cost of the last mean, the scores and what is said of the file."""
    others = len(run.group.boxes) - 1
    counts = Bytes(headers=8 * classes)
    model = _cost(bytes(4 * parameters)) + counts
    grid = np.zeros((len(TEMPERATURES), classes))
    scores = _cost(
        pack_scores(Scores(grid, grid.sum(axis=1), np.zeros(classes, np.int64), judged=0))
    )
    said = Bytes(headers=_FACTS + SENT_BYTES * (others + 1))
    writer = _times(model + _cost(b"") + said, others)
    scores += Bytes(headers=SENT_BYTES)
    own = _cost(b"") + counts if run.method in ("fedavg", "feddip") else model
    return [writer, *([own + scores] * others)]


def _cost(values: bytes) -> Bytes:
    return Bytes.of(Message(0, values=values))


def _times(amount: Bytes, factor: float) -> Bytes:
    return Bytes(
        round(amount.values * factor),
        round(amount.indices * factor),
        round(amount.headers * factor),
        round(amount.messages * factor),
    )

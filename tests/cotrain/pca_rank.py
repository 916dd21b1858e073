"""One rank of DistributedDataParallel over gloo: runs what `test_pca_hook` asks, writes numbers.

python -m tests.cotrain.pca_rank RANK RANKS FOLDER
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from edge_stl.cotrain import Batch, PCASettings
from edge_stl.cotrain.pca_hook import PCAState, pca_hook


STEPS, RATE, MOMENTUM, SMALL = 5, 0.05, 0.9, 0.002
PAIR = 2
FORMS = {
    "power": PCASettings(rank=1, start=2, min_rate=1),
    "shared": PCASettings(form="shared", rank=2, start=2, min_rate=1, refresh=2),
    "gather": PCASettings(form="gather", rank=1, start=0, min_rate=1),
    "energy": PCASettings(energy=0.7, start=1, min_rate=1, refresh=2),
}
FULL = {
    "full power": PCASettings(rank=99, start=0, min_rate=0),
    "full gather": PCASettings(form="gather", rank=99, start=0, min_rate=0),
}


def module() -> nn.Sequential:
    """Return a small network with convolutions, dense layers and biases."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = [nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten()]
        return nn.Sequential(*body, nn.Linear(32, 12), nn.Tanh(), nn.Linear(12, 4))


def batch(rank: int, step: int) -> Batch:
    """Return the images of a rank in a step."""
    generator = torch.Generator().manual_seed(1000 * rank + step)
    return torch.randn(6, 2, 6, 6, generator=generator), torch.randint(4, (6,), generator=generator)


class Trainer:
    """A network under DistributedDataParallel with a hook."""

    def __init__(self, rank: int, settings: PCASettings | None, *, bucket_mb: float) -> None:
        self.rank, self.buckets = rank, 0
        self.model = DistributedDataParallel(module(), bucket_cap_mb=bucket_mb)  # type: ignore[arg-type]
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=RATE, momentum=MOMENTUM)
        self.state = PCAState(self.model, settings) if settings else None
        if self.state is None:
            self.model.register_comm_hook(None, allreduce_hook)
        else:
            self.model.register_comm_hook(self, Trainer.hook)

    def hook(self, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        self.buckets = max(self.buckets, bucket.index() + 1)
        assert self.state is not None
        return pca_hook(self.state, bucket)

    def run(self, steps: range, *, unsynced: bool = False) -> None:
        for step in steps:
            self.optimizer.zero_grad()
            if unsynced:
                self._backward(step + 500, self.model.no_sync())
            self._backward(step, nullcontext())
            self.optimizer.step()

    def _backward(self, step: int, context: Any) -> None:
        with context:
            inputs, targets = batch(self.rank, step)
            nn.functional.cross_entropy(self.model(inputs), targets).backward()

    @property
    def vector(self) -> Tensor:
        return torch.cat([p.detach().reshape(-1) for p in self.model.parameters()])


@contextmanager
def spied(spent: list[int]) -> Iterator[None]:
    """Write down the bytes that are handed to collectives."""
    real = {name: getattr(dist, name) for name in ("all_reduce", "all_gather", "broadcast")}

    def count(call: Callable[..., Any], place: int) -> Callable[..., Any]:
        def counted(*args: Any, **named: Any) -> Any:
            spent.append(args[place].numel() * args[place].element_size())
            return call(*args, **named)

        return counted

    for name, call in real.items():
        setattr(dist, name, count(call, int(name == "all_gather")))
    try:
        yield
    finally:
        for name, call in real.items():
            setattr(dist, name, call)


def gap(tensor: Tensor) -> float:
    """Return how far the ranks are apart in a tensor."""
    least, most = tensor.clone(), tensor.clone()
    dist.all_reduce(least, op=dist.ReduceOp.MIN)
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    return float((most - least).abs().max())


def main(rank: int, ranks: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    where = f"file://{folder / 'meeting'}"
    limit = timedelta(seconds=300)
    dist.init_process_group("gloo", init_method=where, rank=rank, world_size=ranks, timeout=limit)
    found: dict[str, Any] = {}
    plain = Trainer(rank, None, bucket_mb=25)
    plain.run(range(STEPS))
    found["plain"] = plain.vector
    for name, settings in (FORMS | FULL).items():
        trainer, spent = Trainer(rank, settings, bucket_mb=SMALL), []
        with spied(spent):
            trainer.run(range(STEPS))
        state = trainer.state
        assert state is not None
        found[name] = trainer.vector
        found[f"{name}: gap"] = gap(trainer.vector)
        bases = [t.reshape(-1) for k, t in state.state_dict().items() if k.startswith("basis")]
        found[f"{name}: basis gap"] = gap(torch.cat(bases)) if bases else 0.0
        found[f"{name}: buckets"] = trainer.buckets
        found[f"{name}: spied"] = sum(spent)
        found[f"{name}: steps"] = state.step
        for phase, traffic in state.traffic.items():
            found |= {f"{name}: {phase} {key}": n for key, n in asdict(traffic).items()}
    if ranks == PAIR:
        found |= _more(rank)
    np.savez(folder / f"rank{rank}.npz", **{k: np.asarray(v) for k, v in found.items()})
    dist.barrier()
    dist.destroy_process_group()


def _more(rank: int) -> dict[str, Any]:
    """Return what two ranks show as well as four."""
    found: dict[str, Any] = {}
    one_bucket = Trainer(rank, FORMS["power"], bucket_mb=25)
    one_bucket.run(range(STEPS))
    found["power in one bucket"], found["one bucket"] = one_bucket.vector, one_bucket.buckets
    unsynced = Trainer(rank, FULL["full power"], bucket_mb=SMALL)
    unsynced.run(range(STEPS), unsynced=True)
    assert unsynced.state is not None
    found["full unsynced"], found["unsynced steps"] = unsynced.vector, unsynced.state.step
    summed = Trainer(rank, None, bucket_mb=25)
    summed.run(range(STEPS), unsynced=True)
    found["plain unsynced"] = summed.vector
    found["power resumed"] = _resumed(rank)
    return found


def _resumed(rank: int) -> Tensor:
    first = Trainer(rank, FORMS["power"], bucket_mb=SMALL)
    first.run(range(3))
    second = Trainer(rank, FORMS["power"], bucket_mb=SMALL)
    second.model.load_state_dict(first.model.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    assert first.state is not None
    assert second.state is not None
    second.state.load_state_dict(first.state.state_dict())
    second.run(range(3, STEPS))
    return second.vector


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))

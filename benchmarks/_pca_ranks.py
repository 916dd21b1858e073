"""What the benchmark of PCA compression takes from torch: its engine, and its PowerSGD hook."""

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.multiprocessing.spawn import start_processes
from torch.nn.parallel import DistributedDataParallel

from edge_stl.cotrain import Flat, LocalSettings, LocalSGD, PCASettings, Problem
from edge_stl.cotrain.pca_hook import PCAState, pca_hook


class PowerSGD:
    """Torch's own PowerSGD hook among workers of one process.

    One thread per worker runs the hook as it is; only the all-reduce below it is a meeting of the
    threads instead of a network.

    Args:
        workers: how many.
        shapes: of the parameters, one bucket of all.
        rank: of every layer.
        start: first compressed step.
    """

    def __init__(
        self, workers: int, shapes: Sequence[torch.Size], *, rank: int, start: int
    ) -> None:
        self._flat, self._parts = Flat(tuple(shapes)), [torch.empty(0)] * workers
        self._barrier = threading.Barrier(workers)
        self.payload = 0
        group: Any = SimpleNamespace(size=lambda: workers)
        self._states = [
            powerSGD_hook.PowerSGDState(
                group, matrix_approximation_rank=rank, start_powerSGD_iter=start
            )
            for _ in range(workers)
        ]

    def mean(self, gradients: Sequence[Tensor]) -> Tensor:
        """Return the mean gradient ``(P,)`` that comes out; those given are overwritten."""
        here = threading.local()

        def all_reduce(tensor: Tensor, **_named: Any) -> Any:
            if here.worker == 0:
                self.payload += tensor.numel() * tensor.element_size()
            self._parts[here.worker] = tensor
            self._barrier.wait()
            total = torch.stack(self._parts).sum(0)
            self._barrier.wait()
            tensor.copy_(total)
            future: torch.futures.Future[list[Tensor]] = torch.futures.Future()
            future.set_result([tensor])
            return SimpleNamespace(get_future=lambda: future)

        def work(worker: int) -> None:
            here.worker = worker
            buffer = gradients[worker]
            bucket: Any = SimpleNamespace(
                buffer=lambda: buffer,
                index=lambda: 0,
                gradients=lambda: self._flat.views(buffer),
                is_last=lambda: True,
            )
            powerSGD_hook.powerSGD_hook(self._states[worker], bucket).wait()

        threads = [threading.Thread(target=work, args=(k,)) for k in range(len(gradients))]
        meeting: Any = SimpleNamespace(all_reduce=all_reduce)
        hooks: tuple[Any, ...] = (powerSGD_hook, default_hooks)
        for hook in hooks:
            hook.dist = meeting
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            for hook in hooks:
                hook.dist = dist
        return gradients[0]


def train_power_sgd(
    problems: Sequence[Problem], local: LocalSettings, *, rank: int, start: int
) -> tuple[Tensor, int]:
    """Train as `Replicas` does; return the weights ``(P,)`` and the bytes of a worker."""
    vector, steps = problems[0].start(), LocalSGD(problems[0], local)
    hook = PowerSGD(len(problems), problems[0].shapes, rank=rank, start=start)
    for step in range(local.rounds):
        gradients = [p.gradient(vector, p.batch(step))[0] for p in problems]
        steps.apply(vector, hook.mean(gradients), step)
    return vector, hook.payload


def count_bytes(
    module: nn.Module, methods: Mapping[str, PCASettings | int], *, ranks: int, folder: Path
) -> dict[str, list[int]]:
    """Return the bytes that a rank hands to torch's collectives, by method and step.

    Eight steps under DistributedDataParallel over gloo, the first three of them plain.

    Args:
        module: the network, of images of 3 x 32 x 32.
        methods: settings of our hook; a whole number: the rank of torch's PowerSGD hook.
        ranks: how many processes.
        folder: where they meet.
    """
    meeting = (folder / f"meeting-{ranks}").resolve()  # what comes after file:// is absolute
    meeting.unlink(missing_ok=True)
    counts = torch.zeros(len(methods), 8, dtype=torch.int64)
    counts.share_memory_()  # type: ignore[no-untyped-call]
    given = ranks, str(meeting), module, list(methods.values()), counts
    start_processes(_rank, args=given, nprocs=ranks)  # type: ignore[no-untyped-call]
    return {m: [int(c) for c in row] for m, row in zip(methods, counts, strict=True)}


def _rank(
    rank: int,
    ranks: int,
    meeting: str,
    module: nn.Module,
    methods: Sequence[PCASettings | int],
    counts: Tensor,
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=ranks)
    spent: Counter[str] = Counter()
    _spy(spent)
    for row, settings in zip(counts, methods, strict=True):
        # Torch's hook starts collectives from callbacks: over gloo, two buckets get mixed up.
        model = DistributedDataParallel(module, bucket_cap_mb=100)
        if isinstance(settings, int):
            state = powerSGD_hook.PowerSGDState(
                None, matrix_approximation_rank=settings, start_powerSGD_iter=3
            )
            model.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
        elif settings.form == "none":
            model.register_comm_hook(None, default_hooks.allreduce_hook)
        else:
            model.register_comm_hook(PCAState(model, settings), pca_hook)
        for step in range(len(row)):
            spent.clear()
            model(torch.randn(2, 3, 32, 32)).square().mean().backward()
            if rank == 0:
                row[step] = spent.total()
    dist.barrier()
    dist.destroy_process_group()


def _spy(spent: Counter[str]) -> None:
    """Count what is handed to the collectives of torch."""

    def counted(name: str, place: int, call: Any, *args: Any, **named: Any) -> Any:
        spent[name] += args[place].numel() * args[place].element_size()
        return call(*args, **named)

    for name, place in (("all_reduce", 0), ("all_gather", 1), ("broadcast", 0)):
        setattr(dist, name, partial(counted, name, place, getattr(dist, name)))

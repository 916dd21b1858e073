"""PCA gradient compression as a communication hook of DistributedDataParallel.

For any PyTorch program; nothing else of this project is needed:

    model = DistributedDataParallel(network)
    model.register_comm_hook(PCAState(model, PCASettings.for_steps(10_000)), pca_hook)

The hook is registered once, before the first backward pass, with the same settings at all ranks.
It works with gloo and NCCL, with any number of buckets, and leaves a backward pass under
``no_sync()`` alone. Clip or unscale gradients after the backward pass, as always.
"""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from edge_stl.cotrain._collective import Collective, Traffic
from edge_stl.cotrain._pca import Gradients, PCACompressor, Phase
from edge_stl.cotrain._pca_settings import PCASettings
from edge_stl.errors import UsageError


class PCAState:
    """State of the hook at one rank.

    It is kept by parameter, not by bucket: DistributedDataParallel rebuilds its buckets after the
    first step.

    Args:
        model: the network, wrapped in DistributedDataParallel or not.
        settings: how gradients are compressed; the same at all ranks.
        process_group: whose ranks average; None: all.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: PCASettings | None = None,
        *,
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        inner = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
        named = {n: p for n, p in inner.named_parameters() if p.requires_grad}
        self._parameters = named  # keeps them alive, so that an id stays theirs
        self._names = {id(parameter): name for name, parameter in named.items()}
        self.process_group = process_group
        self.compressor = PCACompressor(
            {name: parameter.shape for name, parameter in named.items()}, settings or PCASettings()
        )

    @property
    def step(self) -> int:
        """Return how many steps have ended; a backward pass under ``no_sync()`` is none."""
        return self.compressor.step

    @property
    def traffic(self) -> Mapping[Phase, Traffic]:
        """Return the bytes so far by phase: ``warm_up``, ``refresh``, ``compressed``."""
        return self.compressor.traffic

    @property
    def last(self) -> Traffic:
        """Return the bytes of the last step."""
        return self.compressor.last

    def state_dict(self) -> dict[str, Tensor]:
        """Return what a checkpoint needs; every rank saves its own, for the errors differ."""
        return self.compressor.state()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state_dict` of the same rank.

        Raises:
            UsageError: it is of other parameters.
        """
        device = {name: parameter.device for name, parameter in self._parameters.items()}
        self.compressor.restore(
            {key: t.to(device.get(key.partition(".")[2], t.device)) for key, t in state.items()}
        )

    def name_of(self, parameter: Tensor) -> str:
        """Return the name of a parameter.

        Raises:
            UsageError: the network has none like it.
        """
        name = self._names.get(id(parameter))
        if name is None:
            raise UsageError(
                f"a parameter of shape {tuple(parameter.shape)}: not one of the network that the "
                "PCAState was made from; expected the same. Make it from the network you wrap"
            )
        return name

    def answer(self, collective: Collective) -> Tensor:
        """Do a collective among the ranks of the group, and count it."""
        group = self.process_group
        workers = dist.get_world_size(group)
        self.compressor.count(collective, workers)
        tensor = collective.tensor
        if collective.kind == "gather":
            rows = [torch.empty_like(tensor) for _ in range(workers)]
            dist.all_gather(rows, tensor, group=group)
            return torch.stack(rows)
        if collective.kind == "broadcast":
            first = 0 if group is None else dist.get_global_rank(group, 0)
            dist.broadcast(tensor, first, group=group)
            return tensor
        dist.all_reduce(tensor, group=group)
        return tensor.div_(workers)


def pca_hook(
    state: PCAState,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[torch.Tensor]:
    """Average the gradients of a bucket, compressed; see `PCASettings`.

    DistributedDataParallel wants the second parameter to be called ``bucket``.

    Args:
        state: of this rank.
        bucket: gradients of some parameters, flat.

    Returns:
        A future that holds the mean gradients in the bucket's shape.
    """
    names = [state.name_of(parameter) for parameter in bucket.parameters()]
    gradients = dict(zip(names, bucket.gradients(), strict=True))
    means = _run(state.compressor.compress(gradients), state)
    for name, gradient in gradients.items():
        gradient.copy_(means[name])
    if bucket.is_last():
        state.compressor.advance()
    future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future


def _run(running: Gradients, state: PCAState) -> dict[str, Tensor]:
    """Do the collectives of a bucket; return the mean gradients."""
    collective = next(running)
    while True:
        try:
            collective = running.send(state.answer(collective))
        except StopIteration as end:
            means: dict[str, Tensor] = end.value
            return means

"""Data-parallel training of several nodes in one process, in lockstep.

What DistributedDataParallel with the hook of `edge_stl.cotrain.pca_hook` does over a network, for
tests and comparisons: every node computes a gradient on its own images at the same weights, the
gradients are averaged, compressed or not, and all take the same step.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

from edge_stl.cotrain._collective import Collective
from edge_stl.cotrain._ledger import Bytes, Ledger
from edge_stl.cotrain._local import LocalSettings, LocalSGD
from edge_stl.cotrain._pca import PCACompressor
from edge_stl.cotrain._pca_settings import PCASettings
from edge_stl.cotrain._problem import Flat, Problem


class Replicas:
    """Nodes that hold the same weights.

    Args:
        problems: one per node, with the same parameters.
        local: how all step; ``steps`` of a round are averaged one by one.
        settings: how gradients are compressed; ``form="none"`` averages them plainly.

    Attributes:
        vector: the weights ``(P,)`` float32.
        compressors: of each node, with its error.
    """

    def __init__(
        self, problems: Sequence[Problem], local: LocalSettings, settings: PCASettings
    ) -> None:
        self.problems, self.settings = problems, settings
        self.local = LocalSGD(problems[0], local)
        self.vector: Tensor = problems[0].start()
        self._flat = Flat(problems[0].shapes)
        shapes = {str(k): shape for k, shape in enumerate(self._flat.shapes)}
        self.compressors = [PCACompressor(shapes, settings) for _ in problems]

    def run(
        self,
        *,
        rounds: int,
        ledger: Ledger,
        start: int = 0,
        gone: Callable[[int], Collection[int]] = lambda _number: (),
        after: Callable[[int, float], None] = lambda _number, _loss: None,
    ) -> None:
        """Run the rounds.

        Args:
            rounds: how many in all.
            ledger: gets the estimate of what leaves a node, see `Collective.wire`.
            start: the first round, where a run goes on.
            gone: nodes that are lost in a round and after; the mean is that of the others, and
                what a lost node had not sent is lost.
            after: called after every round with its number and the mean loss.
        """
        steps = self.local.settings.steps
        for number in range(start, rounds):
            lost = frozenset(gone(number))
            here = [k for k in range(len(self.problems)) if k not in lost]
            losses = [self._step(number, number * steps + k, here, ledger) for k in range(steps)]
            after(number, sum(losses) / steps)

    def _step(self, number: int, step: int, here: Sequence[int], ledger: Ledger) -> float:
        running, pending, total = {}, {}, 0.0
        for k in here:
            problem = self.problems[k]
            gradient, loss = problem.gradient(self.vector, problem.batch(step))
            views = {str(i): view for i, view in enumerate(self._flat.views(gradient))}
            running[k] = self.compressors[k].compress(views)
            pending[k] = next(running[k])
            total += loss
        means: dict[str, Tensor] = {}
        while pending:
            for k, collective in pending.items():
                self.compressors[k].count(collective, len(here))
                ledger.add(k, number, Bytes.of_arrays(values=collective.wire(len(here))))
            answer = together(list(pending.values()))
            pending = {}
            for k in here:
                try:
                    pending[k] = running[k].send(answer)
                except StopIteration as end:
                    if k == here[0]:
                        means = end.value
        for k in here:
            self.compressors[k].advance()
        mean = torch.cat([means[str(i)].reshape(-1) for i in range(len(means))])
        self.local.apply(self.vector, mean, number)
        return total / len(here)

    def state(self) -> dict[str, Tensor]:
        """Return everything that `restore` needs, as copies."""
        state = {"vector": self.vector.clone()}
        if self.local.buffer is not None:
            state["momentum"] = self.local.buffer.clone()
        for k, compressor in enumerate(self.compressors):
            state |= {f"{k}/{name}": tensor for name, tensor in compressor.state().items()}
        return state

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`.

        Raises:
            UsageError: it is of another network or of fewer nodes.
        """
        for k, compressor in enumerate(self.compressors):
            own = {n.removeprefix(f"{k}/"): t for n, t in state.items() if n.startswith(f"{k}/")}
            compressor.restore(own)
        self.vector = state["vector"].clone()
        buffer = state.get("momentum")
        self.local.buffer = None if buffer is None else buffer.clone()


def together(collectives: Sequence[Collective]) -> Tensor:
    """Return the answer to the collective that all workers ask for, in their order.

    Raises:
        ValueError: they ask for different ones.
    """
    first = collectives[0]
    if any(c.kind != first.kind or c.tensor.shape != first.tensor.shape for c in collectives):
        raise ValueError("workers that ask for different collectives")
    if first.kind == "broadcast":
        return first.tensor.clone()
    stacked = torch.stack([c.tensor for c in collectives])
    return stacked if first.kind == "gather" else stacked.sum(0).div_(len(collectives))

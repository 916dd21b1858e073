"""The module of a branch in training, whether its network is a preset or the user's own.

A preset is a list of layers: it can be run a few images at a time in training too, and its numbers
are folded for export. Of a user's own module nothing is known but what it takes and gives: it gets
whole batches in torch's usual memory layout, and goes through torch's exporter.
"""

import contextlib
from collections.abc import Iterator
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_stl.branch._accumulate import accumulated_logits
from edge_stl.branch._module import build_module, folded_parameters
from edge_stl.branch._own import build_own
from edge_stl.branch._own_export import exported_module
from edge_stl.plan import Branch, Plan


class Network:
    """A branch's module on its device.

    Args:
        plan: the plan.
        branch: the branch.
        device: where it is trained.
        seed: of its first weights, and of what it draws in training.

    Attributes:
        module: the module.
        divides: whether a training step can take a few images at a time.

    Raises:
        UsageError: a network of the user's own is missing or cannot be used.
    """

    def __init__(self, plan: Plan, branch: Branch, *, device: torch.device, seed: int) -> None:
        self._plan, self._branch, self._seed = plan, branch, seed
        self.divides = branch.own is None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = self._built()
        self.module = module.to(device)
        if self.divides:
            # torch declares memory_format for tensors only, and takes it for modules
            self.module = self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _built(self) -> nn.Module:
        plan, branch = self._plan, self._branch
        if self.divides:
            return build_module(plan.layers(branch), **self.geometry)
        return build_own(plan, branch)

    @property
    def geometry(self) -> dict[str, int]:
        """Return channels and size of its input."""
        plan, branch = self._plan, self._branch
        return {"channels": plan.band_channels(branch), "size": plan.band_size(branch)}

    def training_logits(self, inputs: Tensor, *, micro: int | None) -> Tensor:
        """Return logits ``(n, K)`` in training mode, to be differentiated.

        Args:
            inputs: ``(n, C, h, w)``.
            micro: images that go through it at the same time, where it `divides`.
        """
        self.module.train()
        if self.divides and micro is not None and micro < len(inputs):
            return accumulated_logits(cast("nn.Sequential", self.module), inputs, micro=micro)
        logits: Tensor = self.module(self._laid_out(inputs))
        return logits

    def drawing(self, step: int) -> contextlib.AbstractContextManager[None]:
        """Make what a user's module draws in a step, like dropout, depend on seed and step alone.

        So a run that was stopped and taken up again ends with the bytes of one that was not.
        """
        return contextlib.nullcontext() if self.divides else _drawn(self._seed, step)

    def logits(self, inputs: Tensor) -> NDArray[np.float32]:
        """Return logits ``(n, K)`` in evaluation mode."""
        self.module.eval()
        with torch.inference_mode():
            out: NDArray[np.float32] = self.module(self._laid_out(inputs)).cpu().numpy()
        return out

    def exported(self) -> tuple[dict[str, NDArray[np.float32]], bytes | None]:
        """Return the numbers, and of a user's own network torch's ONNX model.

        Raises:
            CheckError: torch cannot export it.
        """
        if self.divides:
            module = cast("nn.Sequential", self.module)
            return folded_parameters(module, self._plan.layers(self._branch), **self.geometry), None
        shape = (self.geometry["channels"], *[self.geometry["size"]] * 2)
        where = f"branch {self._branch.name}: network {self._branch.network}"
        numbers = {
            name: tensor.detach().cpu().numpy().astype(np.float32)
            for name, tensor in self.module.named_parameters()
        }
        return numbers, exported_module(self.module, shape, where=where)

    def _laid_out(self, inputs: Tensor) -> Tensor:
        if self.divides:
            return inputs.contiguous(memory_format=torch.channels_last)
        return inputs.contiguous()  # a module of the user's own may look at it with .view()


@contextlib.contextmanager
def _drawn(seed: int, step: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        drawn = np.random.SeedSequence([seed, 4, step]).generate_state(2, np.uint32)
        torch.manual_seed(int(drawn[0]) << 31 | int(drawn[1]) >> 1)
        yield

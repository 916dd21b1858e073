"""Compression of a worker's gradients by PCA, layer by layer, with what could not be sent kept."""

from collections.abc import Generator, Mapping
from typing import Literal

import torch
from torch import Tensor

from edge_stl.cotrain._collective import Collective, Traffic
from edge_stl.cotrain._pca_forms import FORMS, Slot, refresh
from edge_stl.cotrain._pca_settings import PCASettings
from edge_stl.errors import UsageError


Phase = Literal["warm_up", "refresh", "compressed"]
Gradients = Generator[Collective, Tensor, dict[str, Tensor]]
"""The collectives of some parameters in one step; it returns their mean gradients."""
_MATRIX = 2


class PCACompressor:
    """What one worker knows; every worker has one, made from the same shapes and settings.

    A parameter is seen as the matrix ``(size of axis 0, the rest)``: out by in for a dense layer,
    out by ``in * kh * kw`` for a convolution. Vectors (biases, norms) travel whole and have no
    error.

    Args:
        shapes: of the parameters by name, in the same order at all workers.
        settings: how.

    Attributes:
        slots: state of each parameter.
        step: number of the step that comes next, from 0.
        traffic: bytes of this worker by phase: ``warm_up``, ``refresh``, ``compressed``.
        last: bytes of the step that ended last.
    """

    def __init__(self, shapes: Mapping[str, torch.Size], settings: PCASettings) -> None:
        self.settings, self.step = settings, 0
        self.slots: dict[str, Slot] = {}
        for index, (name, shape) in enumerate(shapes.items()):
            rows = shape[0] if len(shape) >= _MATRIX else 1
            columns = shape.numel() // max(1, rows)
            rank = settings.rank_of(rows, columns) if rows > 1 and columns > 1 else 0
            self.slots[name] = Slot(index, rows, columns, rank)
        self._eligible = {name for name, slot in self.slots.items() if slot.rank}
        self.traffic: dict[Phase, Traffic] = {
            "warm_up": Traffic(),
            "refresh": Traffic(),
            "compressed": Traffic(),
        }
        self.last = Traffic()
        self._current = Traffic(steps=1)

    @property
    def phase(self) -> Phase:
        """Return what the step that comes next is."""
        settings, after = self.settings, self.step - self.settings.start
        if after < 0:
            return "warm_up"
        if settings.refreshes and after % settings.refresh == 0:
            return "refresh"
        return "compressed"

    def compress(self, gradients: Mapping[str, Tensor]) -> Gradients:
        """Return the collectives for some parameters' gradients of this step.

        Every parameter is given once per step, in one call or in several; `advance` ends the step.

        Args:
            gradients: by name, each in its parameter's shape; not changed. The same names in the
                same order at all workers.
        """
        phase = self.phase
        packed: list[str] = []
        if phase == "refresh":
            packed = [name for name in gradients if name in self._eligible]
        elif phase == "compressed":
            packed = [name for name in gradients if self.slots[name].rank]
        plain = [name for name in gradients if name not in set(packed)]
        found: dict[str, Tensor] = {}
        if plain:
            flat = torch.cat([gradients[name].reshape(-1) for name in plain])
            mean = yield Collective("mean", flat)
            parts = torch.split(mean, [gradients[name].numel() for name in plain])
            for name, part in zip(plain, parts, strict=True):
                found[name] = part.view(gradients[name].shape)
        if packed:
            slots = [self.slots[name] for name in packed]
            matrices = [self._matrix(name, gradients[name]) for name in packed]
            form = refresh if phase == "refresh" else FORMS[self.settings.form]
            means = yield from form(slots, matrices, self.settings, self.step)
            for name, part in zip(packed, means, strict=True):
                found[name] = part.view(gradients[name].shape).to(gradients[name].dtype)
        return found

    def _matrix(self, name: str, gradient: Tensor) -> Tensor:
        """Return gradient and error ``(a, b)`` float32."""
        slot = self.slots[name]
        matrix = gradient.detach().reshape(slot.rows, slot.columns).float()
        return matrix if slot.error is None else matrix + slot.error

    def count(self, collective: Collective, workers: int) -> None:
        """Enter a collective of this step in the account."""
        self._current.add(collective, workers)

    def advance(self) -> None:
        """End the step."""
        total, self.last = self.traffic[self.phase], self._current
        total.steps += 1
        total.payload += self.last.payload
        total.wire += self.last.wire
        self._current = Traffic(steps=1)
        self.step += 1

    def state(self) -> dict[str, Tensor]:
        """Return step, ranks, errors and bases, as copies; the errors are this worker's own."""
        state = {"step": torch.tensor(self.step)}
        for name, slot in self.slots.items():
            state[f"rank.{name}"] = torch.tensor(slot.rank)
            for kind, tensor in (("error", slot.error), ("basis", slot.basis)):
                if tensor is not None:
                    state[f"{kind}.{name}"] = tensor.clone()
        return state

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`.

        Raises:
            UsageError: it is of other parameters.
        """
        for name, slot in self.slots.items():
            rank = int(state.get(f"rank.{name}", torch.tensor(-1)))
            wanted = {
                f"error.{name}": (slot.rows, slot.columns),
                f"basis.{name}": (slot.columns, rank),
            }
            bad = [k for k, shape in wanted.items() if k in state and state[k].shape != shape]
            if rank < 0 or bad:
                raise UsageError(
                    f"state of PCA compression: {bad[0] if bad else name} does not fit the "
                    "network; expected that of the same parameters. Load the one that was saved "
                    "with this network"
                )
        names = {key.partition(".")[2] for key in state if "." in key}
        if "step" not in state or not names <= set(self.slots):
            other = min(names - set(self.slots), default="step")
            raise UsageError(
                f"state of PCA compression: {other!r} is missing or unknown; expected the step and "
                "the parameters of this network. Load the one that was saved with it"
            )
        self.step = int(state["step"])
        for name, slot in self.slots.items():
            slot.rank = int(state[f"rank.{name}"])
            error, basis = state.get(f"error.{name}"), state.get(f"basis.{name}")
            slot.error = None if error is None else error.clone()
            slot.basis = None if basis is None else basis.clone()

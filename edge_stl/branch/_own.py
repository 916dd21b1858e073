"""Networks of the user's own: found by their entry point, built, looked at before any training."""

import hashlib
import importlib.metadata
import inspect
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edge_stl.errors import UsageError
from edge_stl.plan import Branch, Plan, nearest


GROUP = "edge_stl.networks"
"""Entry points ``name -> callable(channels=…, size=…, classes=…) -> torch.nn.Module``."""


def own_names() -> tuple[str, ...]:
    """Return the names of the networks that are installed here, sorted."""
    return tuple(sorted({point.name for point in importlib.metadata.entry_points(group=GROUP)}))


def own_identity(plan: Plan, branch: Branch) -> str:
    """Return what tells a network of the user's own from others of its name.

    Work is taken up again only where it is the same: entry point, version of its package, source
    of the module it stands in, and the tensors it has.

    Args:
        plan: the plan.
        branch: with a network of the user's own.

    Raises:
        UsageError: as `build_own`.
    """
    point = _entry_point(branch)
    factory = _factory(point, branch)
    try:
        source = hashlib.sha256(Path(inspect.getfile(factory)).read_bytes()).hexdigest()
    except (OSError, TypeError):
        source = ""
    with torch.random.fork_rng(devices=[]):
        tensors = build_own(plan, branch).state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    version = point.dist.version if point.dist is not None else ""
    return repr((branch.network, point.value, version, source, shapes))


def build_own(plan: Plan, branch: Branch) -> nn.Module:
    """Return the module of a network of the user's own, in training mode.

    Its entry point is called as ``factory(channels=C * bands, size=rows, classes=K)``. The module
    maps ``(N, channels, size, size)`` float32 to logits ``(N, classes)``. Weights are drawn from
    torch's global generator: seed it, or use `torch.random.fork_rng`.

    Args:
        plan: the plan.
        branch: with a network of the user's own.

    Raises:
        UsageError: there is no such entry point, it cannot be called, or its module cannot be
            trained or exported.
    """
    point = _entry_point(branch)
    channels, size = plan.band_channels(branch), plan.band_size(branch)
    what = f"{GROUP} {point.name} ({point.value})"
    factory = _factory(point, branch)
    try:
        module = factory(channels=channels, size=size, classes=len(plan.classes))
    except Exception as error:  # noqa: BLE001  (anything a stranger's code raises is one line)
        raise UsageError(
            f"branch {branch.name}: {what} failed: {_line(error)}; expected a module for channels="
            f"{channels}, size={size}, classes={len(plan.classes)}. Mend that network"
        ) from None
    problem = _misfit(module, (2, channels, size, size), len(plan.classes))
    if problem is not None:
        raise UsageError(f"branch {branch.name}: {what}: {problem}. See docs/own-networks.md")
    trainable: nn.Module = module.train()
    return trainable


def _entry_point(branch: Branch) -> EntryPoint:
    found = list(importlib.metadata.entry_points(group=GROUP, name=branch.own or ""))
    if len({point.value for point in found}) == 1:
        return found[0]
    if found:
        values = ", ".join(sorted(point.value for point in found))
        raise UsageError(
            f"branch {branch.name}: network {branch.network} is {values}; expected one entry point "
            f"of that name in {GROUP}. Uninstall the others"
        )
    known = own_names()
    listed = nearest(branch.own or "", known) if known else "; none is installed"
    raise UsageError(
        f"branch {branch.name}: network {branch.network} is no entry point of {GROUP} here"
        f"{listed}. Install the package that has it into this environment"
    )


def _factory(point: EntryPoint, branch: Branch) -> Callable[..., Any]:
    try:
        factory: Callable[..., Any] = point.load()
    except Exception as error:  # noqa: BLE001  (importing a stranger's module)
        raise UsageError(
            f"branch {branch.name}: {GROUP} {point.name} ({point.value}) cannot be imported: "
            f"{_line(error)}. Mend or reinstall that package"
        ) from None
    return factory


def _misfit(module: Any, shape: tuple[int, ...], classes: int) -> str | None:
    """Return why a module cannot be trained and exported, or None; it is left as it was."""
    if not isinstance(module, nn.Module):
        return f"returned a {type(module).__name__}; expected a torch.nn.Module"
    module.eval()
    try:
        with torch.no_grad():
            out = module(torch.zeros(shape))  # also gives lazy layers their shape
    except Exception as error:  # noqa: BLE001  (a stranger's code)
        return f"does not take bands {shape}: {_line(error)}"
    if not isinstance(out, torch.Tensor) or out.shape != (shape[0], classes):
        told = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
        return f"answers {told} to bands {shape}; expected logits {(shape[0], classes)}"
    return _strange_state(module, out)


def _strange_state(module: nn.Module, out: torch.Tensor) -> str | None:
    """Return what no checkpoint or no branch file could keep of a module, or None."""
    state = module.state_dict()
    if not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        return "has a state that is no tensor, which no checkpoint could keep"
    for name, tensor in [*state.items(), ("its logits", out)]:
        if tensor.dtype not in {torch.float32, torch.int64} or tensor.device.type != "cpu":
            return f"{name} is {tensor.dtype} on {tensor.device}; expected torch.float32 on cpu"
    if not any(parameter.requires_grad for parameter in module.parameters()):
        return "has no parameter that could be trained"
    return None


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__

"""All branches of a plan as one spectral network, and back: trained apart or together.

The bands of a plan are transform coordinates already, so the whole network has domain "transform"
from its first layer to its last and never looks from one branch to another (`edge_stl.layers`).
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edge_stl.branch._module import build_module
from edge_stl.layers import identity, join, split
from edge_stl.plan import Branch, Plan, networks


def whole_network(modules: Mapping[str, nn.Sequential], plan: Plan) -> nn.Sequential:
    """Return one network of all branches: ``(N, branches, C * bands, h, w)`` to logits.

    Its input is ``Analysis(bank(plan.bank, bands=…), resolution=R)`` of the bands of all branches
    in plan order, with the channels parted by branch; its output is ``(N, branches, K)``. Biases
    and batch norms are ``(branches, …)`` here: an optimizer that spares them from weight decay
    tells them by ``p.ndim <= 2``.

    Args:
        modules: the module of every branch of the plan, by name, as `build_module` returns it.
        plan: its branches have one network, one number of bands and one spatial size; not
            `res-s`, `mobile-s` or one with group norm, whose layers have no spectral form here.

    Returns:
        copies of all numbers; nothing is shared with the modules.

    Raises:
        ValueError: the plan's branches do not make one network, a module is missing or belongs to
            no branch, or has another structure than its branch's.
    """
    _check_alike(plan)
    names = [branch.name for branch in plan.branches]
    if set(modules) != set(names):
        raise ValueError(
            f"whole_network: modules {', '.join(sorted(modules))}; expected one of every branch: "
            f"{', '.join(names)}"
        )
    for branch in plan.branches:
        _check_fits(modules[branch.name], plan, branch, where="whole_network")
    return join([modules[name] for name in names], identity(len(names)))


def branch_modules(network: nn.Sequential, plan: Plan) -> dict[str, nn.Sequential]:
    """Return the branches of a whole network by name; the inverse of `whole_network`.

    Args:
        network: as `whole_network` returns it, trained or not.
        plan: the plan it was made under.

    Returns:
        modules with the structure of `build_module`, in plan order; copies.

    Raises:
        ValueError: the network is no whole network of this plan; the sentence says where.
    """
    _check_alike(plan)
    branches = split(network)
    if len(branches) != len(plan.branches):
        raise ValueError(
            f"branch_modules: a network of {len(branches)} branches; expected "
            f"{len(plan.branches)}, those of the plan"
        )
    for branch, module in zip(plan.branches, branches, strict=True):
        _check_fits(module, plan, branch, where="branch_modules")
    return {b.name: module for b, module in zip(plan.branches, branches, strict=True)}


def first_misfit(given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str | None:
    """Return what is wrong with the first tensor that does not fit, or None if all do."""
    for name, tensor in expected.items():
        if name not in given:
            return f"{name} is missing"
        if given[name].shape != tensor.shape or given[name].dtype != tensor.dtype:
            return (
                f"{name} is {tuple(given[name].shape)} {given[name].dtype}; expected "
                f"{tuple(tensor.shape)} {tensor.dtype}"
            )
    extra = [name for name in given if name not in expected]
    return f"{extra[0]} is none of its tensors" if extra else None


def _check_alike(plan: Plan) -> None:
    first = plan.branches[0]
    for branch in plan.branches:
        own, other = _geometry(plan, branch), _geometry(plan, first)
        if own != other:
            raise ValueError(
                f"plan: branch {branch.name} is {own}; expected {other} as branch {first.name}. "
                "One network takes branches of one network, one number of bands and one size"
            )
    _check_joinable(plan)


def _check_joinable(plan: Plan) -> None:
    branch = plan.branches[0]
    for layer in plan.layers(branch):
        if isinstance(layer, networks.Residual | networks.DepthwiseConv | networks.GroupNorm):
            raise ValueError(  # noqa: TRY004  (a plan's value, not an argument's type)
                f"plan: branch {branch.name} is {branch.network}, which has a "
                f"{type(layer).__name__}; expected a network of Conv, Dense and Norm. Spectral "
                "layers have no such form"
            )


def _geometry(plan: Plan, branch: Branch) -> str:
    size = plan.band_size(branch)
    return f"{branch.network} on {len(branch.bands)} bands of {size} x {size}"


def _check_fits(module: nn.Sequential, plan: Plan, branch: Branch, *, where: str) -> None:
    with torch.device("meta"):
        own = build_module(
            plan.layers(branch), channels=plan.band_channels(branch), size=plan.band_size(branch)
        )
    problem = first_misfit(module.state_dict(), own.state_dict())
    if problem is not None:
        raise ValueError(f"{where}: branch {branch.name}: {problem}")

"""What a job must know of a branch's network before it trains: its size, and that it is there."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edge_stl.errors import UsageError
from edge_stl.plan import Branch, Plan, networks


if TYPE_CHECKING:
    from torch import nn


def parameter_count(plan: Plan, branch: Branch) -> int:
    """Return how many parameters a branch's file has, batch norm folded.

    Of a network of the user's own they are those of its module; 0 where it is not installed, which
    `need_networks` says when that branch is to be trained.
    """
    if branch.own is None:
        return networks.parameters(
            plan.layers(branch), channels=plan.band_channels(branch), size=plan.band_size(branch)
        )
    try:
        return sum(p.numel() for p in _module_of(plan, branch).parameters())
    except UsageError:
        return 0


def network_identity(plan: Plan, branch: Branch) -> str:
    """Return what a checkpoint must agree with to be gone on from.

    Raises:
        UsageError: a network of the user's own is not there, or cannot be used.
    """
    if branch.own is None:
        return repr(plan.layers(branch))
    from edge_stl.branch import own_identity  # brings torch

    return own_identity(plan, branch)


def need_networks(plan: Plan, branches: Sequence[Branch]) -> None:
    """Refuse branches whose network, one of the user's own, is not there or cannot be exported.

    Raises:
        UsageError: saying what to install or to mend.
    """
    own = [branch for branch in branches if branch.own is not None]
    if own:
        from edge_stl.branch import need_exporter  # brings torch

        need_exporter()
    for branch in own:
        _module_of(plan, branch)


def need_one_network(plan: Plan, branches: Sequence[Branch]) -> None:
    """Refuse a job none of whose branches can be trained here, before its images are looked at.

    Raises:
        UsageError: as `need_networks`, of the last of them.
    """
    for branch in branches:
        try:
            need_networks(plan, [branch])
        except UsageError:
            if branch is branches[-1]:
                raise
        else:
            return


def _module_of(plan: Plan, branch: Branch) -> "nn.Module":
    import torch  # an optional extra

    from edge_stl.branch import build_own

    with torch.random.fork_rng(devices=[]):
        return build_own(plan, branch)

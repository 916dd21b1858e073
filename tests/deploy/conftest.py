"""Ensembles that are as they should be, and ensembles that are not, for the slots' tests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_stl.plan import new_plan


@pytest.fixture(scope="session")
def merged(
    fabricate_fleet: Callable[..., list[Path]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., bytes]:
    """Return the bytes of an ensemble of three boxes, by classes, weights and other options."""
    from exporter.merge import merge_paths
    from exporter.options import Options

    made: dict[Any, bytes] = {}

    def make(classes: tuple[str, ...] = ("bus", "car", "van"), **options: Any) -> bytes:
        key = (classes, *sorted(options.items()))
        if key not in made:
            plan = new_plan(
                classes=list(classes), resolution=8, levels=1, channels=1, network="mlp-s"
            )
            files = fabricate_fleet(plan, tmp_path_factory.mktemp("fleet"))
            made[key] = merge_paths(files, options=Options(**options)).model
        return made[key]

    return make


@pytest.fixture(scope="session")
def old(merged: Callable[..., bytes]) -> bytes:
    """What serves already."""
    return merged()


@pytest.fixture(scope="session")
def new(merged: Callable[..., bytes]) -> bytes:
    """What is to serve next."""
    return merged(weights="uniform")

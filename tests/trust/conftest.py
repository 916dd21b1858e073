"""Keys in memory, and a desk that trusts some of them."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_stl.plan import Plan, new_plan
from edge_stl.trust import (
    Numbers,
    PrivateKey,
    add_key,
    envelope_path,
    load_private_key,
    make_key,
    sign_branch,
)


PLAN = new_plan(classes=["bus", "car", "van"], resolution=8, levels=1, channels=1, network="mlp-s")


@pytest.fixture(scope="session")
def plan() -> Plan:
    return PLAN


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], PrivateKey]:
    """Return the key of a name, the same each time."""
    folder = tmp_path_factory.mktemp("keys")

    def key(name: str) -> PrivateKey:
        path = folder / f"{name}.key"
        if not path.exists():
            make_key(path)
        return load_private_key(path)

    return key


@pytest.fixture(scope="session")
def branch(fabricate: Callable[..., bytes]) -> Callable[..., bytes]:
    """Return the bytes of a branch file, the same each time for the same box and seed."""
    made: dict[Any, bytes] = {}

    def file(box: str = "cam01", name: str = "a1", seed: int = 0, plan: Plan = PLAN) -> bytes:
        place = (box, name, seed, plan.digest)
        if place not in made:
            made[place] = fabricate(plan, name, box=box, seed=seed)
        return made[place]

    return file


class Desk:
    """A folder with a trust file, and branch files beside it."""

    def __init__(self, folder: Path, keys: Callable[[str], PrivateKey]) -> None:
        self.folder = folder
        self.trust = folder / "trust.toml"
        self._keys = keys

    def enrol(self, *boxes: str) -> None:
        for box in boxes:
            add_key(self.trust, "box", box, self._keys(box).public)

    def put(
        self, data: bytes, *, box: str, branch: str = "a1", above: int = 0, **changes: Any
    ) -> Path:
        """Write a signed file as `train --key` does; ``changes`` to what the signature says."""
        path = self.folder / f"{branch}.{box}.onnx"
        path.write_bytes(data)
        said = {"plan_digest": PLAN.digest, "box": box, "branch": branch} | changes
        key = said.pop("key", None) or self._keys(box)
        numbers = Numbers(self.folder / f"{box}.numbers")
        _, envelope = sign_branch(key, data, numbers=numbers, above=above, **said)
        envelope_path(path).write_bytes(envelope)
        return path


@pytest.fixture(scope="session")
def enrolled(tmp_path_factory: pytest.TempPathFactory, keys: Callable[[str], PrivateKey]) -> Path:
    made = Desk(tmp_path_factory.mktemp("desk"), keys)
    made.enrol("cam01", "cam02")
    add_key(made.trust, "desk", "hq", keys("hq").public)
    return made.folder


@pytest.fixture
def desk(enrolled: Path, tmp_path: Path, keys: Callable[[str], PrivateKey]) -> Desk:
    """A desk that trusts the boxes cam01 and cam02 and the desk hq, and has taken nothing."""
    for path in enrolled.iterdir():
        shutil.copy(path, tmp_path)
    return Desk(tmp_path, keys)

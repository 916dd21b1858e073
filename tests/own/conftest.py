"""A package of networks with entry points, as pip would leave it, without pip."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


NETS = Path(__file__).with_name("nets.py")
NAMES = {
    "tiny": "Tiny", "mixer": "Mixer", "groups": "groups", "upsampled": "Upsampled",
    "over-channels": "OverChannels", "counting": "Counting", "broken": "broken",
    "no-module": "no_module", "other-names": "other_names", "few-classes": "few_classes",
    "double": "double", "fixed": "fixed", "gone": "Gone",
}  # fmt: skip


def package(folder: Path, name: str, entries: dict[str, str]) -> Path:
    """Write what pip writes: a module and the record of its entry points."""
    told = folder / f"{name}-1.0.dist-info"
    told.mkdir(parents=True)
    lines = "".join(f"{key} = {name}:{thing}\n" for key, thing in entries.items())
    (told / "entry_points.txt").write_text(f"[edge_stl.networks]\n{lines}")
    (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (folder / f"{name}.py").write_text(NETS.read_text())
    return folder


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Install the networks of this folder as the package `road_nets`."""
    folder = package(tmp_path / "site", "road_nets", NAMES)
    monkeypatch.syspath_prepend(folder)
    importlib.invalidate_caches()
    yield folder
    for name in ("road_nets", "more_nets"):
        sys.modules.pop(name, None)

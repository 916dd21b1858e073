"""A desk and a deployment load little: found out in fresh interpreters."""

import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]
HEAVY = ("torch",)
NOT_FOR_PREDICTION = ("torch", "onnx", "pywt", "scipy", "pydantic", "typer", "rich", "safetensors")
LIGHT = (
    "edge_stl",
    "edge_stl.plan",
    "edge_stl.bands",
    "edge_stl.fusion",
    "edge_stl.images",
    "edge_stl.predict",
    "edge_stl.trust",
    "edge_stl.deploy",
    "edge_stl.cli",
    "edge_stl.service",
    "device_agent.doctor",
    "exporter.merge",
    "exporter.split",
    "exporter.verify",
    "exporter.inspect",
)


def loaded(module: str, watched: tuple[str, ...], *, path: Path = ROOT) -> set[str]:
    """Return which of the watched packages a fresh interpreter has after importing a module."""
    code = (
        f"import sys; sys.path.insert(0, {str(path)!r}); import {module}; "
        f"print(*(set({watched!r}) & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize("module", LIGHT)
def test_importing_a_light_room_does_not_load_torch(module: str):
    assert loaded(module, HEAVY) == set()


@pytest.mark.parametrize(
    "module", ["edge_stl.cli", "edge_stl.fleet._engine", "edge_stl.fleet._ray"]
)
def test_only_an_engine_that_is_asked_for_loads_ray(module: str):
    assert loaded(module, ("ray",)) == set()


def test_prediction_loads_nothing_but_numpy_and_onnxruntime():
    assert loaded("edge_stl.predict", NOT_FOR_PREDICTION) == set()
    assert loaded("edge_stl.deploy", NOT_FOR_PREDICTION) == set()
    assert loaded("edge_stl.deploy._child", NOT_FOR_PREDICTION) == set()


@pytest.mark.parametrize("module", ["edge_stl.trust", "edge_stl.cli", "exporter.merge"])
def test_only_a_signature_that_is_asked_for_loads_cryptography(module: str):
    assert loaded(module, ("cryptography", "securesystemslib")) == set()


def test_importing_the_top_loads_no_room_and_not_even_numpy():
    assert loaded("edge_stl", ("numpy", "edge_stl.plan", "edge_stl.bands")) == set()


def test_a_room_that_does_load_torch_is_caught():
    assert loaded("edge_stl.layers", HEAVY) == {"torch"}


def test_a_room_that_loads_torch_by_way_of_another_is_caught(tmp_path: Path):
    (tmp_path / "innocent.py").write_text("import middle")
    (tmp_path / "middle.py").write_text("def load():\n    import torch\n\n\nload()")
    (tmp_path / "torch.py").write_text("")

    assert loaded("innocent", HEAVY, path=tmp_path) == {"torch"}


def test_a_room_that_cannot_be_imported_is_no_light_one():
    with pytest.raises(AssertionError, match=r"No module named 'edge_stl\.nowhere'"):
        loaded("edge_stl.nowhere", HEAVY)

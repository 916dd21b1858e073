"""`inspect` of branch files whose weights are mostly zero."""

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_stl.cli import main
from edge_stl.plan import Plan, new_plan
from exporter._session import run
from exporter.branch import build_branch, export_branch
from exporter.inspect import inspect_path, share_of_zeros
from exporter.manifest import vector_input
from exporter.read import branch_from_bytes


PLAN = new_plan(
    classes=["bus", "car", "van"], resolution=16, channels=1, levels=1, network="cnn-s-gn"
)


def sparse_branch(
    share: float,
    parameters_of: Callable[..., Any],
    manifest_for: Callable[..., Any],
    *,
    plan: Plan = PLAN,
    box: str = "cam01",
) -> bytes:
    """Return a branch file whose weights are zero with this probability."""
    parameters = parameters_of(plan, "a1", seed=1)
    rng = np.random.default_rng(0)
    for name, array in parameters.items():
        if name.endswith(".weight"):
            array[rng.random(array.shape) < share] = 0
    draft = build_branch(manifest_for(plan, "a1", box=box), plan, parameters)
    (logits,) = run(draft, {"bands": vector_input(5, channels=1, size=8)})
    return export_branch(manifest_for(plan, "a1", box=box, logits=logits), plan, parameters)


@pytest.fixture
def told(
    capsys: pytest.CaptureFixture[str], assert_schema: Callable[[Any, str], None]
) -> Callable[[Path], tuple[str, Any]]:
    """Return what `inspect` prints of a file, and its document."""

    def call(path: Path) -> tuple[str, Any]:
        assert main(["inspect", str(path)]) == 0
        said = capsys.readouterr().out
        assert main(["inspect", str(path), "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert_schema(document, "inspect")
        return said, document

    return call


def test_a_sparse_branch_is_told_with_its_zeros_and_its_size_once_compressed(
    told: Callable[[Path], tuple[str, Any]],
    parameters_of: Callable[..., Any],
    manifest_for: Callable[..., Any],
    tmp_path: Path,
):
    path = tmp_path / "a1.cam01.onnx"
    path.write_bytes(sparse_branch(0.9, parameters_of, manifest_for))

    said, document = told(path)

    (row,) = document["branches"]
    numbers = branch_from_bytes(path.read_bytes(), name="a").parameters
    weights = np.concatenate([v.ravel() for k, v in numbers.items() if k.endswith("weight")])
    assert row["zeros"] == float((weights == 0).mean()) == pytest.approx(0.9, abs=0.01)
    assert row["bytes"] == document["bytes"] == path.stat().st_size
    deflated = zlib.compress(path.read_bytes(), 9)
    assert row["bytes_deflated"] == document["bytes_deflated"] == len(deflated)
    assert len(deflated) < 0.25 * document["bytes"]
    assert f"{document['bytes']:,} bytes ({len(deflated):,} deflated), opset 17" in said
    assert f"{100 * row['zeros']:.2f} %" in said
    assert "zeros" in said


@pytest.mark.parametrize(("share", "shown"), [(0.0, False), (0.005, False), (0.02, True)])
def test_zeros_are_printed_from_one_percent_on(
    share: float,
    shown: bool,
    told: Callable[[Path], tuple[str, Any]],
    parameters_of: Callable[..., Any],
    manifest_for: Callable[..., Any],
    tmp_path: Path,
):
    path = tmp_path / "a1.cam01.onnx"
    path.write_bytes(sparse_branch(share, parameters_of, manifest_for))

    said, document = told(path)

    assert document["branches"][0]["zeros"] == pytest.approx(share, abs=0.004)
    assert ("zeros" in said) is shown


def test_an_ensemble_tells_the_zeros_of_each_branch_and_gives_them_back(
    told: Callable[[Path], tuple[str, Any]],
    parameters_of: Callable[..., Any],
    manifest_for: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
):
    shares = {"cam01": 0.0, "cam02": 0.95}
    paths = [tmp_path / f"a1.{box}.onnx" for box in shares]
    for path, (box, share) in zip(paths, shares.items(), strict=True):
        path.write_bytes(sparse_branch(share, parameters_of, manifest_for, box=box))
    out = tmp_path / "e.onnx"
    assert main(["merge", *map(str, paths), "-o", str(out), "-q"]) == 0
    capsys.readouterr()

    said, document = told(out)

    rows = {row["box"]: row for row in document["branches"]}
    assert rows["cam01"]["zeros"] == 0
    assert rows["cam02"]["zeros"] == inspect_path(paths[1])["branches"][0]["zeros"] > 0.9
    assert "bytes_deflated" not in document
    (line,) = [line for line in said.splitlines() if "cam02" in line and "a1" in line]
    assert f"{100 * rows['cam02']['zeros']:.2f} %" in line
    assert main(["split", str(out), "-o", str(tmp_path / "back")]) == 0
    for path in paths:
        assert (tmp_path / "back" / path.name).read_bytes() == path.read_bytes()


def test_only_weights_count_and_a_negative_zero_is_one():
    weight = np.array([[0.0, -0.0], [1.0, 1e-30]], np.float32)
    parameters = {"0.weight": weight, "0.bias": np.zeros(9, np.float32), "1.shift": weight * 0}

    assert share_of_zeros(parameters) == 0.5
    assert share_of_zeros({"0.scale": np.zeros(3, np.float32)}) == 0

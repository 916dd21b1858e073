"""``--robust median`` in the graph: the oracle's formula, kept through every change."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edge_stl.cli import main
from edge_stl.errors import CheckError, IntegrityError, UsageError
from edge_stl.fusion import fuse_median
from edge_stl.plan import Plan, new_plan, plan_from_document
from edge_stl.testing import assert_parity
from exporter import _median_nodes, names
from exporter._session import run
from exporter.inspect import inspect_path
from exporter.merge import change_ensemble, merge_paths
from exporter.options import Options
from exporter.prove import branch_logits
from exporter.split import branch_bytes, members_of
from exporter.verify import check_path


CLASSES = ["bus", "car", "van", "tram"]
MEDIAN = Options(robust="median")


def plan_of() -> Plan:
    plan = new_plan(
        classes=CLASSES, resolution=8, channels=1, levels=1, branches="single", network="mlp-s"
    )
    prior = {"bus": 0.4, "car": 0.3, "van": 0.2, "tram": 0.1}
    return plan_from_document(plan.to_document() | {"fusion": {"prior": prior}}, where="test")


PLAN = plan_of()
COUNTS = {
    # nobody saw the tram; two boxes the van; one box has one class alone
    "box0": (5, 4, 0, 0),
    "box1": (5, 4, 3, 0),
    "box2": (1, 1, 2, 0),
    "box3": (7, 7, 0, 0),
    "box4": (3, 0, 0, 0),
    "box5": (2, 2, 0, 0),
}


@pytest.fixture(scope="module")
def fleet(fabricate: Callable[..., bytes], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Six boxes; two of them sent two files and one sent three."""
    folder = tmp_path_factory.mktemp("fleet")
    several = {"box1": ["a1", "h1"], "box3": ["a1", "v1", "d1"], "box5": ["v1", "d1"]}
    known = [branch.name for branch in PLAN.branches]
    paths = []
    for i, (box, counts) in enumerate(COUNTS.items()):
        for j, letter in enumerate(several.get(box, ["a1"])):
            branch = next(name for name in known if name.endswith(letter))
            path = folder / f"{branch}.{box}.onnx"
            path.write_bytes(
                fabricate(PLAN, branch, box=box, counts=counts, seed=100 * i + j, temperature=0.3)
            )
            paths.append(path)
    return paths


def noise(count: int) -> Any:
    return np.random.default_rng(1).integers(0, 256, (count, 8, 8, 1)).astype(np.uint8)


@pytest.mark.parametrize("boxes", [1, 2, 3, 4, 5, 6])
def test_the_graph_is_the_median_of_the_oracle(boxes: int, fleet: list[Path]):
    """For odd and even numbers of boxes, uneven classes, several files of a box, a prior."""
    paths = [p for p in fleet if int(p.stem[-1]) < boxes]
    merged = merge_paths(paths, options=MEDIAN)
    images = noise(16)
    prior = np.array([0.4, 0.3, 0.2, 0.1])
    expected, rows = fuse_median(
        [branch_logits(f, images) for f in merged.files],
        [f.manifest.member() for f in merged.files],
        prior=prior,
    )
    got, got_rows = run(merged.model, {"image": images})
    assert_parity(got, expected, kind="probabilities")
    assert_parity(got_rows, rows, kind="probabilities")
    assert np.ptp(got, axis=0).max() > 1e-3  # it does look at the image


def test_boxes_of_one_class_alone_give_the_prior(fleet: list[Path]):
    (lonely,) = [p for p in fleet if "box4" in p.name]
    merged = merge_paths([lonely], options=MEDIAN)
    got, _ = run(merged.model, {"image": noise(2)})
    assert_parity(got, np.array([[0.4, 0.3, 0.2, 0.1]] * 2), kind="probabilities")


def test_a_graph_with_the_wrong_median_is_not_handed_out(
    fleet: list[Path], monkeypatch: pytest.MonkeyPatch
):
    """The proof sees a pick that is off by one place."""
    picks = _median_nodes._picks

    def wrong(*given: Any) -> Any:
        picked, unseen = picks(*given)
        return np.roll(picked, 1, axis=0), unseen

    monkeypatch.setattr(_median_nodes, "_picks", wrong)
    with pytest.raises(CheckError, match="the graph and the formulas differ"):
        merge_paths(fleet, options=MEDIAN)


def test_nothing_is_weighted_and_nothing_pretends_to_be(fleet: list[Path], tmp_path: Path):
    merged = merge_paths(fleet, options=MEDIAN)
    model = onnx.load_from_string(merged.model)
    assert not [t.name for t in model.graph.initializer if t.name.endswith("weight") and
                t.name.count("/") == 1 and t.name.split("/")[1] == "weight"]  # fmt: skip
    record = json.loads({p.key: p.value for p in model.metadata_props}[names.KEY_ENSEMBLE])
    assert record["options"] == {"layout": "nhwc", "robust": "median"}
    assert not any({"weight", "weights"} & set(member) for member in record["members"])
    assert merged.largest_change(0) is None
    (tmp_path / "e.onnx").write_bytes(merged.model)
    document = inspect_path(tmp_path / "e.onnx")
    assert (document["weights"], document["scale"], document["robust"]) == (None, None, "median")
    assert {(b["weight"], b["largest_change"]) for b in document["branches"]} == {(None, None)}
    assert not check_path(tmp_path / "e.onnx", target="jetpack5")


def test_split_remove_and_add_keep_the_median(fleet: list[Path]):
    merged = merge_paths(fleet, options=MEDIAN)
    content = members_of(merged.model, name="e")
    assert content.options == MEDIAN
    back = {f.name: branch_bytes(f) for f in content.files}
    assert back == {p.name: p.read_bytes() for p in fleet}
    rest = [p for p in fleet if "box3" not in p.name]
    without = change_ensemble(merged.model, name="e", remove=["box3"])
    assert without.model == merge_paths(rest, options=MEDIAN).model
    gone = [p for p in fleet if p not in rest]
    assert change_ensemble(without.model, name="e", add=gone).model == merged.model


@pytest.mark.parametrize("weights", ["uniform", "geometric", "plan"])
def test_weights_beside_a_median_are_refused(weights: str, fleet: list[Path]):
    with pytest.raises(UsageError, match=f"--weights {weights}: --robust median weighs nothing"):
        merge_paths(fleet, options=Options(weights=weights, robust="median"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"robust":"median"', '"robust":"mean"'),
        ('"robust":"median"', '"robust":"median","weights":"uniform"'),
        ('"members":[{', '"members":[{"weight":0.5,'),
        ('"members":[{', '"members":[{"weights":[0.5,0.5,0.5],'),
    ],
)
def test_a_record_that_weighs_beside_a_median_is_damaged(old: str, new: str, fleet: list[Path]):
    model = onnx.load_from_string(merge_paths(fleet, options=MEDIAN).model)
    (prop,) = [p for p in model.metadata_props if p.key == names.KEY_ENSEMBLE]
    assert prop.value.count(old) == 1
    prop.value = prop.value.replace(old, new)
    with pytest.raises(IntegrityError, match="was changed after it was merged"):
        members_of(model.SerializeToString(), name="e")


def test_few_boxes_thin_classes_and_classes_of_nobody_are_said(fleet: list[Path]):
    """The van has two boxes, the tram none; with five boxes that speak, the fleet is enough."""
    thin, nobody = merge_paths(fleet, options=MEDIAN).warnings
    assert "fewer than 3 boxes saw van; there one box can move the median" in thin
    assert "no box tells tram from other classes; they get 1/4" in nobody
    few, *_ = merge_paths(fleet[:3], options=MEDIAN).warnings
    assert "2 boxes that saw two classes or more; the median is meant for 5 or more" in few
    assert not merge_paths(fleet[:3], options=Options()).warnings


def test_the_command_line_merges_by_median_and_back(
    fleet: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    assert_schema: Callable[[Any, str], None],
):
    monkeypatch.chdir(tmp_path)
    files = [str(p) for p in fleet]
    assert main(["merge", *files, "-o", "m.onnx", "--robust", "median", "--json"]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert_schema(document, "merge")
    assert (document["robust"], document["weights"], len(document["warnings"])) == (
        "median", None, 2)  # fmt: skip
    assert err == ""
    assert main(["inspect", "m.onnx"]) == 0
    assert "nothing is weighted: the median over the boxes answers" in capsys.readouterr().out
    assert main(["merge", *files, "-o", "m.onnx", "--robust", "median"]) == 0
    out, err = capsys.readouterr()
    assert "  -  " in out
    assert err.count("warning: --robust median: ") == 2
    change = ["merge", "m.onnx", "--remove", "box0", "-o", "n.onnx"]
    assert main([*change, "--weights", "uniform"]) == 2
    assert "or add --robust none" in capsys.readouterr().err
    assert main([*change, "--weights", "uniform", "--robust", "none"]) == 0
    rest = merge_paths([p for p in fleet if "box0" not in p.name], options=Options("uniform"))
    assert Path("n.onnx").read_bytes() == rest.model
    assert main(["merge", "n.onnx", "--remove", "box1", "--robust", "median", "-o", "o.onnx"]) == 0
    rest = merge_paths([p for p in fleet if p.stem[-1] not in "01"], options=MEDIAN)
    assert Path("o.onnx").read_bytes() == rest.model
    assert main(["merge", *files, "-o", "x", "--robust", "median", "--weights", "uniform"]) == 2
    assert "expected one of the two. Leave one out" in capsys.readouterr().err

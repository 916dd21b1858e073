"""``merge --resolution r``: one graph for cameras coarser than the plan's, of what they carry."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from edge_stl.bands import bank
from edge_stl.cli import main
from edge_stl.errors import DataError, IntegrityError, MergeRefused, UsageError
from edge_stl.fusion import fuse
from edge_stl.images import fit_square
from edge_stl.plan import Plan, new_plan
from edge_stl.predict import Ensemble
from edge_stl.testing import assert_parity
from exporter import names
from exporter._session import run
from exporter.branch import build_branch
from exporter.inspect import inspect_path
from exporter.merge import change_ensemble, merge_paths
from exporter.options import Options
from exporter.split import branch_bytes, members_of
from exporter.verify import check_path


CLASSES = ["bus", "car", "van"]


def plan_of(transform: str = "haar", **changes: Any) -> Plan:
    facts: dict[str, Any] = {
        "classes": CLASSES, "resolution": 16, "branches": "detail", "network": "mlp-s"
    }  # fmt: skip
    return new_plan(transform=transform, **(facts | changes))


@pytest.fixture(scope="module")
def fleet(
    fabricate_fleet: Callable[..., list[Path]], tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    """Boxes at 16, 8, 4 and 16 px, each with every branch that its resolution carries."""
    return fabricate_fleet(plan_of(), tmp_path_factory.mktemp("fleet"))


def noise(side: int, count: int = 4) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3)).astype(np.uint8)


def bands_at(file: Any, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return what the branch reads of images ``(N, r, r, C)``: the bank of min(r, native)."""
    plan, native = file.plan, file.manifest.native_resolution
    n, r, _, c = images.shape
    side = min(r, native)
    k = r // side
    small = images.reshape(n, side, k, side, k, c).mean(axis=(2, 4)) / 255
    wanted = plan.branch(file.manifest.branch).bands
    split = bank(plan.bank, native_level=plan.native_level(side), bands=wanted).analyze(
        small.transpose(0, 3, 1, 2)
    )
    return np.concatenate([split[b] for b in wanted], axis=1).astype(np.float32)


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize("transform", ["haar", "db4", "bior4.4", "dct:4"])
@pytest.mark.parametrize("resolution", [8, 4])
def test_the_graph_for_r_is_its_bands_its_branches_and_the_oracle(
    resolution: int,
    transform: str,
    layout: Any,
    fabricate_fleet: Callable[..., list[Path]],
    tmp_path: Path,
):
    """From every file whose bands exist at r, coarser and finer boxes alike."""
    files = fabricate_fleet(plan_of(transform), tmp_path)
    options = Options(resolution=resolution, layout=layout)
    merged = merge_paths(files, options=options)
    plan = plan_of(transform)
    fits = {b.name for b in plan.carried(resolution)}
    assert {f.manifest.branch for f in merged.files} == fits
    assert len(merged.files) + len(merged.left_out) == len(files)
    images = noise(resolution)
    logits = [
        run(build_branch(f.manifest, plan, f.parameters), {"bands": bands_at(f, images)})[0]
        for f in merged.files
    ]
    members = [f.manifest.member() for f in merged.files]
    expected, rows = fuse(logits, members, merged.weights, scale=merged.scale)
    axes = (0, 1, 2, 3) if layout == "nhwc" else (0, 3, 1, 2)
    got, got_rows = run(merged.model, {"image": np.ascontiguousarray(images.transpose(axes))})
    assert_parity(got, expected, kind="probabilities")
    assert_parity(got_rows, rows, kind="probabilities")
    shape = onnx.load_from_string(merged.model).graph.input[0].type.tensor_type.shape.dim
    assert sorted(d.dim_value for d in shape[1:]) == sorted([3, resolution, resolution])


def test_for_haar_a_finer_boxs_branch_says_the_same_at_r_as_at_full_resolution(
    fleet: list[Path],
):
    """On a fine image, and on the same image area-averaged without rounding."""
    flat = np.repeat(np.repeat(noise(8), 2, axis=1), 2, axis=2)
    whole, coarse = (
        merge_paths(fleet, options=Options()),
        merge_paths(fleet, options=Options(resolution=8)),
    )
    rows = dict(zip([f.manifest.id for f in whole.files],
                    run(whole.model, {"image": flat})[1].swapaxes(0, 1), strict=True))  # fmt: skip
    got = run(coarse.model, {"image": noise(8)})[1].swapaxes(0, 1)
    finer = [f for f in coarse.files if f.manifest.native_resolution == 16]
    assert finer
    for file, each in zip(coarse.files, got, strict=True):
        assert_parity(each, rows[file.manifest.id], kind="probabilities")


def test_files_for_two_of_seven_branches_merge_and_give_the_two_back(
    fabricate: Callable[..., bytes], tmp_path: Path
):
    """Missing branches never break a merge, at any resolution."""
    plan = plan_of(branches="single")
    assert len(plan.branches) == 7
    paths = []
    for branch in ("ca2", "cv2"):
        paths.append(tmp_path / f"{branch}.cam01.onnx")
        paths[-1].write_bytes(fabricate(plan, branch, resolution=8))
    for resolution in (None, 8):
        merged = merge_paths(paths, options=Options(resolution=resolution))
        content = members_of(merged.model, name="e")
        assert [branch_bytes(f) for f in content.files] == [p.read_bytes() for p in paths]
    (only,) = merge_paths(paths, options=Options(resolution=4)).files
    assert only.manifest.branch == "ca2"


@pytest.mark.parametrize("robust", [None, "median"])
@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_remove_add_and_split_keep_the_resolution(layout: Any, robust: Any, fleet: list[Path]):
    options = Options(resolution=8, layout=layout, robust=robust)
    merged = merge_paths(fleet, options=options)
    content = members_of(merged.model, name="e")
    assert content.options == options
    kept = {f"{f.manifest.id}.onnx" for f in merged.files}
    assert {f.name: branch_bytes(f) for f in content.files} == {
        p.name: p.read_bytes() for p in fleet if p.name in kept
    }
    rest = [p for p in fleet if "box1" not in p.name]
    without = change_ensemble(merged.model, name="e", remove=["box1"])
    assert without.model == merge_paths(rest, options=options).model
    gone = [p for p in fleet if "box1" in p.name]
    assert change_ensemble(without.model, name="e", add=gone).model == merged.model
    fine = next(p for p in fleet if p.name == "d1.box0.onnx")
    added = change_ensemble(merged.model, name="e", add=[fine])
    assert (added.model, [f.manifest.id for f in added.left_out]) == (merged.model, ["d1.box0"])


def test_a_full_ensemble_becomes_a_coarse_one_and_an_r_of_its_own_is_told(
    fleet: list[Path], tmp_path: Path
):
    whole = merge_paths(fleet, options=Options())
    options = Options(resolution=4)
    rest = [p for p in fleet if "box3" not in p.name]
    changed = change_ensemble(whole.model, name="e", remove=["box3"], options=options)
    assert changed.model == merge_paths(rest, options=options).model
    path = tmp_path / "e.onnx"
    path.write_bytes(changed.model)
    assert inspect_path(path)["resolution"] == 4
    assert not check_path(path)


def test_without_the_option_the_record_does_not_name_it(fleet: list[Path]):
    props = onnx.load_from_string(merge_paths(fleet, options=Options()).model).metadata_props
    (record,) = [json.loads(p.value) for p in props if p.key == names.KEY_ENSEMBLE]
    assert record["options"] == {"weights": "reliability", "layout": "nhwc"}


@pytest.mark.parametrize("resolution", [16, 32, 6, 2, 0, -8])
def test_a_resolution_that_no_coarser_box_has_is_refused_with_those_there_are(
    resolution: int, fleet: list[Path]
):
    with pytest.raises(UsageError, match=f"--resolution {resolution}: .*; expected one of 8, 4"):
        merge_paths(fleet, options=Options(resolution=resolution))


def test_a_plan_without_coarser_boxes_says_so(fabricate: Callable[..., bytes], tmp_path: Path):
    plan = plan_of("stl-dct:2", branches=None)
    path = tmp_path / "f.onnx"
    path.write_bytes(fabricate(plan, plan.branches[0].name))
    with pytest.raises(UsageError, match=r"have 16 px and no other resolution. Leave --resolution"):
        merge_paths([path], options=Options(resolution=8))


@pytest.mark.parametrize(
    ("branches", "what"),
    [(["d1"], "Leave --resolution out"), (["d1", "d2"], "Choose --resolution 8")],
)
def test_when_no_branch_is_left_that_is_said(branches: list[str], what: str, fleet: list[Path]):
    files = [p for p in fleet if p.name.split(".")[0] in branches]
    with pytest.raises(MergeRefused, match=f"none of the {len(files)} branch files .* {what}"):
        merge_paths(files, options=Options(resolution=4))


@pytest.mark.parametrize("value", ["16", "3", '"8"', "true", "null", "[8]", "1e300"])
def test_a_record_with_another_resolution_is_damaged(value: str, fleet: list[Path]):
    model = onnx.load_from_string(merge_paths(fleet, options=Options(resolution=8)).model)
    (prop,) = [p for p in model.metadata_props if p.key == names.KEY_ENSEMBLE]
    assert prop.value.count('"resolution":8') == 1
    prop.value = prop.value.replace('"resolution":8', f'"resolution":{value}')
    with pytest.raises(IntegrityError, match="was changed after it was merged"):
        members_of(model.SerializeToString(), name="e")


def test_predict_fits_images_to_r_and_a_full_ensemble_names_the_way(fleet: list[Path]):
    """A 9 px image fits an ensemble made for 8 px; the full one refuses and says how."""
    coarse = Ensemble(merge_paths(fleet, options=Options(resolution=8)).model)
    assert coarse.resolution == 8
    fine = noise(32)
    small = np.stack([fit_square(image, 8, "crop") for image in fine])
    assert_parity(coarse(fine), coarse.run(small)[0], kind="probabilities")
    assert coarse(noise(9)[:1]).shape == (1, 3)
    full = Ensemble(merge_paths(fleet, options=Options()).model)
    with pytest.raises(DataError, match=r"9x9 pixels; .* 'edge-stl merge --resolution 8' makes"):
        full(noise(9)[:1])
    with pytest.raises(DataError, match=r"'edge-stl merge --resolution 4' makes"):
        coarse(noise(7)[:1])
    with pytest.raises(DataError, match="this one has no resolution that small"):
        full(noise(3)[:1])


def test_a_holdout_of_coarse_images_fits_the_weights_of_a_coarse_ensemble(
    fleet: list[Path], pictures: Callable[..., Path], tmp_path: Path
):
    """Images of 8 px: too small for the full ensemble, right for this one."""
    holdout = pictures(tmp_path / "holdout", CLASSES, count=10, side=8)
    merged = merge_paths(fleet, options=Options(weights="fitted", resolution=8), holdout=holdout)
    assert merged.holdout is not None
    assert merged.holdout.images == 30
    with pytest.raises(DataError, match="no image can be used"):
        merge_paths(fleet, options=Options(weights="fitted"), holdout=holdout)


def test_the_command_line_names_what_is_left_out(
    fleet: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    assert_schema: Callable[[Any, str], None],
):
    out = str(tmp_path / "e.onnx")
    call = ["merge", *map(str, fleet), "-o", out, "--resolution", "8"]
    assert main([*call, "--json"]) == 0
    text, err = capsys.readouterr()
    document = json.loads(text)
    assert_schema(document, "merge")
    left_out = [{"branch": "d1", "box": "box0"}, {"branch": "d1", "box": "box3"}]
    assert (document["left_out"], document["refused"], document["resolution"], err) == (
        left_out, [], 8, "")  # fmt: skip
    assert main(call) == 0
    said = "left out: 2 branch files whose bands do not exist at 8 px: d1.box0, d1.box3\n"
    first, *flags = capsys.readouterr().err.splitlines(keepends=True)
    assert first == said
    assert all(row.startswith("flag: ") for row in flags)  # made-up numbers
    assert main([*call[:-1], "24"]) == 2
    assert "expected one of 8, 4. Choose one" in capsys.readouterr().err

"""A cascade: the plain ensemble at threshold 1, the coarse branches at 0, one file that splits."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from edge_stl.errors import CheckError, DataError, IntegrityError, UsageError
from edge_stl.plan import Plan, new_plan, plan_from_document
from edge_stl.plan.networks import multiply_adds
from edge_stl.predict import Ensemble, evaluate
from edge_stl.testing import assert_parity
from exporter import _cascade as cascade_room, names
from exporter._session import check_model, session
from exporter.inspect import inspect_path
from exporter.merge import Merged, change_ensemble, merge_paths
from exporter.options import Options
from exporter.split import branch_bytes, ensemble_record, members_of
from exporter.verify import check_path


CLASSES = ["bus", "car", "van"]
GIVEN = Options(threshold=0.5)
CHOSEN = Options(cascade_loss=0.02)


def plan_of(**changes: Any) -> Plan:
    facts: dict[str, Any] = {
        "classes": CLASSES, "resolution": 16, "channels": 1, "branches": "context",
        "network": "mlp-s",
    }  # fmt: skip
    plan = new_plan(**(facts | changes))
    fusion = {"prior": {"bus": 0.5, "car": 0.2, "van": 0.3}}
    return plan_from_document(plan.to_document() | {"fusion": fusion}, where="test")


@dataclass(frozen=True)
class Desk:
    files: list[Path]
    holdout: Path
    plain: Merged
    given: Merged
    chosen: Merged


@pytest.fixture(scope="module")
def desk(
    fabricate_fleet: Callable[..., list[Path]],
    pictures: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Desk:
    """Branch files of four boxes at three native resolutions, merged plainly and as cascades."""
    folder = tmp_path_factory.mktemp("desk")
    files = fabricate_fleet(plan_of(), folder / "branches")
    holdout = pictures(folder / "holdout", CLASSES, count=12, channels=1)
    return Desk(
        files,
        holdout,
        merge_paths(files, options=Options()),
        merge_paths(files, options=GIVEN),
        merge_paths(files, options=CHOSEN, holdout=holdout),
    )


def noise(plan: Plan, count: int = 4, side: int = 16) -> NDArray[np.uint8]:
    shape = (count, side, side, plan.input.channels)
    return np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)


def answers(
    model: bytes, images: NDArray[np.uint8], threshold: float | None = None
) -> list[NDArray[np.float32]]:
    given: dict[str, Any] = {"image": images}
    if threshold is not None:
        given["confidence_threshold"] = np.array(threshold, np.float32)
    return list(session(model).run(["probabilities", "branch_probabilities"], given))


@pytest.mark.parametrize(
    ("changes", "resolution", "layout"),
    [
        ({"transform": "db4", "branches": "detail", "channels": 3}, None, "nhwc"),
        ({"transform": "dct:4"}, None, "nchw"),
        ({"levels": 1, "branches": "single", "network": "cnn-xs"}, None, "nhwc"),
        ({}, 8, "nchw"),
    ],
)
def test_at_threshold_1_a_cascade_is_the_plain_ensemble(
    changes: dict[str, Any],
    resolution: int | None,
    layout: Any,
    fabricate_fleet: Callable[..., list[Path]],
    tmp_path: Path,
):
    """Bit for bit the same operations; onnxruntime may fuse them otherwise."""
    plan = plan_of(**changes)
    files = fabricate_fleet(plan, tmp_path)
    options = Options(layout=layout, resolution=resolution)
    plain = merge_paths(files, options=options)
    cascade = merge_paths(files, options=replace(options, threshold=0.4))
    images = noise(plan, side=resolution or 16)
    if layout == "nchw":
        images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    for above in (1.0, 1.5, float("inf"), float("nan")):
        for got, expected in zip(
            answers(cascade.model, images, above), answers(plain.model, images), strict=True
        ):
            assert_parity(got, expected, kind="same_input")


def test_at_threshold_0_the_finer_branches_are_not_computed(desk: Desk):
    rows = answers(desk.given.model, noise(plan_of()), 0)[1]
    coarse = [f.manifest.branch == "a2" for f in desk.given.files]
    assert any(coarse)
    assert (~np.isnan(rows).any(axis=(0, 2)) == coarse).all()
    full = answers(desk.plain.model, noise(plan_of()))[1]
    assert_parity(rows[:, coarse], full[:, coarse], kind="same_input")


def test_the_threshold_may_be_left_out_and_then_is_the_one_in_the_file(desk: Desk):
    images = noise(plan_of(), 1)
    loaded = session(desk.given.model)
    assert [i.name for i in loaded.get_inputs()] == ["image"]
    assert [(i.name, i.shape) for i in loaded.get_overridable_initializers()] == [
        ("confidence_threshold", [])
    ]
    sure = answers(desk.given.model, images, 0)[0].max()
    for default in (float(sure) - 0.01, float(sure) + 0.01):
        model = merge_paths(desk.files, options=Options(threshold=default)).model
        left_out, named = answers(model, images), answers(model, images, default)
        assert np.array_equal(left_out[0], named[0])
        finer = [i for i, f in enumerate(desk.given.files) if f.manifest.branch == "c2"]
        assert np.isnan(left_out[1][:, finer]).all() == (default < sure)


def test_a_cascade_keeps_to_the_portable_profile(desk: Desk):
    model = onnx.load_from_string(desk.given.model)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    assert model.ir_version == 8
    check_model(desk.given.model, "cascade")
    gates = [n for n in model.graph.node if n.op_type == "If"]
    assert len(gates) == 1
    (then, otherwise) = (a.g for a in sorted(gates[0].attribute, key=lambda a: a.name)[::-1])
    # TensorRT wants outputs of different names in the two bodies
    assert not {o.name for o in then.output} & {o.name for o in otherwise.output}
    coarse = {t.name for t in model.graph.initializer}
    assert not any(name.startswith(("c1.", "c2.")) for name in coarse), "inside the If alone"


def test_the_recorded_work_is_that_of_banks_and_networks(desk: Desk):
    assert desk.given.cascade is not None
    stages = desk.given.cascade.stages
    assert [s["resolution"] for s in stages] == [4, 8, 16]
    assert [sorted({b.split(".")[0] for b in s["branches"]}) for s in stages] == [
        ["a2"], ["c2"], ["c1"],
    ]  # fmt: skip
    plan = plan_of()
    branch = plan.branch("c1")
    network = multiply_adds(
        plan.layers(branch), channels=plan.band_channels(branch), size=plan.band_size(branch)
    )
    # haar at 16 px, four bands of one channel: two taps along rows (4 x 8 x 16 outputs), two
    # along columns (4 x 8 x 8)
    bank = 2 * 4 * 8 * 16 + 2 * 4 * 8 * 8
    boxes = sum(f.manifest.branch == "c1" for f in desk.given.files)
    assert stages[2]["multiply_adds"] == boxes * network + bank


def test_the_same_files_in_any_order_give_the_same_cascade(desk: Desk):
    assert merge_paths(desk.files[::-1], options=GIVEN).model == desk.given.model
    again = merge_paths(desk.files[::-1], options=CHOSEN, holdout=desk.holdout)
    assert again.model == desk.chosen.model


def test_split_gives_the_files_of_a_cascade_back_byte_for_byte(desk: Desk):
    content = members_of(desk.chosen.model, name="c")
    back = {file.name: branch_bytes(file) for file in content.files}
    assert back == {path.name: path.read_bytes() for path in desk.files}
    assert content.options == CHOSEN


def test_removing_and_adding_equals_merging_anew(desk: Desk):
    rest = [p for p in desk.files if "box3" not in p.name]
    less = change_ensemble(desk.given.model, name="c", remove=["box3"])
    assert less.model == merge_paths(rest, options=GIVEN).model
    gone = [p for p in desk.files if "box3" in p.name]
    assert change_ensemble(less.model, name="c", add=gone).model == desk.given.model
    chosen = change_ensemble(desk.chosen.model, name="c", remove=["box3"], holdout=desk.holdout)
    assert chosen.model == merge_paths(rest, options=CHOSEN, holdout=desk.holdout).model


def test_a_threshold_from_a_holdout_is_not_carried_over_to_other_branches(desk: Desk):
    with pytest.raises(
        UsageError,
        match=r"c: its confidence threshold was chosen on a holdout of 36 images.*expected "
        r"--holdout IMAGES, --threshold X, or --no-cascade",
    ):
        change_ensemble(desk.chosen.model, name="c", remove=["box3"])
    rest = [p for p in desk.files if "box3" not in p.name]
    for options in (GIVEN, Options()):
        changed = change_ensemble(desk.chosen.model, name="c", remove=["box3"], options=options)
        assert changed.model == merge_paths(rest, options=options).model


def test_a_holdout_serves_weights_and_threshold_at_once(desk: Desk):
    options = Options(weights="fitted", cascade_loss=0.02)
    merged = merge_paths(desk.files, options=options, holdout=desk.holdout)
    assert merged.fitted is not None
    assert merged.holdout is not None
    assert merged.cascade is not None
    assert merged.cascade.holdout is not None
    assert merged.cascade.holdout.images == 36
    assert members_of(merged.model, name="c").cascade is not None


REFUSED: list[tuple[Options, bool, str]] = [
    (CHOSEN, False, r"--cascade: nothing says .* expected --holdout IMAGES.*--threshold X"),
    (Options(threshold=0.5, cascade_loss=0.1), True, r"--threshold and --cascade-loss: .*one of"),
    (Options(threshold=1.5), False, r"--threshold 1\.5: is no share; expected .* 0 to 1"),
    (Options(threshold=float("nan")), False, r"--threshold nan: is no share"),
    (Options(cascade_loss=-0.1), True, r"--cascade-loss -0\.1: is no share"),
    (Options(threshold=0.5, robust="median"), False, r"--cascade: under --robust median"),
    (Options(threshold=0.5, resolution=4), False, r"--cascade: all branches here are of 4 px.*"
     r"--no-cascade"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "holdout", "said"), REFUSED)
def test_options_that_do_not_make_a_cascade_are_refused(
    options: Options, holdout: bool, said: str, desk: Desk
):
    with pytest.raises(UsageError, match=said):
        merge_paths(desk.files, options=options, holdout=desk.holdout if holdout else None)


DAMAGE = {
    "no cascade": ('"cascade":', '"cascada":'),
    "threshold": ('"threshold":0.5', '"threshold":0.6'),
    "not a number": ('"threshold":0.5}', '"threshold":"a"}'),
    "above 1": ('"nhwc","threshold":0.5', '"nhwc","threshold":7.5'),
    "option gone": ('"nhwc","threshold":0.5,', '"nhwc",'),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_record_of_a_cascade_that_cannot_be_is_refused(damage: str, desk: Desk):
    model = onnx.load_from_string(desk.given.model)
    prop = next(p for p in model.metadata_props if p.key == names.KEY_ENSEMBLE)
    old, new = DAMAGE[damage]
    assert old in prop.value, prop.value[-3000:]
    prop.value = prop.value.replace(old, new, 1)
    with pytest.raises(IntegrityError, match=r"c: .*; the file was changed after it was merged"):
        members_of(model.SerializeToString(), name="c")


def test_a_cascade_whose_graph_is_not_its_rule_is_never_handed_out(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
):
    def flipped(graph: Any, answer: str, prefix: str) -> str:
        top = graph.node("ReduceMax", [answer], f"{prefix}confidence", axes=[1], keepdims=0)
        most = graph.node("ReduceMax", [top], f"{prefix}most", axes=[0], keepdims=0)
        return str(graph.node("Greater", [most, names.THRESHOLD], f"{prefix}sure"))

    monkeypatch.setattr(cascade_room, "_add_gate", flipped)
    with pytest.raises(CheckError, match=r"graph and the formulas differ by inf"):
        merge_paths(desk.files, options=GIVEN)


@pytest.mark.parametrize(
    ("target", "count"),
    [("portable", 1), ("jetpack5", 1), ("jetpack6", 0), ("web", 0), ("latest", 0)],
)
def test_check_finds_the_if_where_a_target_may_refuse_it(
    target: str, count: int, desk: Desk, tmp_path: Path
):
    path = tmp_path / "c.onnx"
    path.write_bytes(desk.given.model)
    found = check_path(path, target=target)
    assert [f.what for f in found] == ["If with a subgraph"] * count
    assert all("without --cascade" in f.fix for f in found)


def test_check_looks_inside_the_bodies(desk: Desk, tmp_path: Path):
    model = onnx.load_from_string(desk.given.model)
    gate = next(n for n in model.graph.node if n.op_type == "If")
    gate.attribute[0].g.node.append(onnx.helper.make_node("Resize", ["unit"], ["x"], name="r"))
    path = tmp_path / "c.onnx"
    path.write_bytes(model.SerializeToString(deterministic=True))
    said = [f.what for f in check_path(path, target="web")]
    assert any("operator Resize is not on the list" in what for what in said)
    assert any("has operator 'Resize'; no file of edge-stl has" in what for what in said)


def test_inspect_tells_threshold_and_stages(desk: Desk, tmp_path: Path):
    path = tmp_path / "c.onnx"
    path.write_bytes(desk.chosen.model)
    told = inspect_path(path)["cascade"]
    record = ensemble_record(onnx.load_from_string(desk.chosen.model), name="c")["cascade"]
    assert told == record | {"loss": 0.02}
    assert told["images"] == 36
    path.write_bytes(desk.plain.model)
    assert inspect_path(path)["cascade"] is None
    assert '"cascade"' not in json.dumps(
        members_of(desk.plain.model, name="p").options.to_document()
    )


def test_an_ensemble_runs_a_cascade_image_by_image(desk: Desk):
    images = noise(plan_of(), 12)
    each = np.array([answers(desk.given.model, images[i : i + 1], 0)[0].max() for i in range(12)])
    middle = float(np.sort(each)[5:7].mean())
    rows = Ensemble(desk.given.model, threshold=middle).predict(images)[1]
    finer = [i for i, f in enumerate(desk.given.files) if f.manifest.branch == "c2"]
    assert (np.isnan(rows[:, finer]).all(axis=(1, 2)) == (each > middle)).all()


def test_evaluate_counts_where_images_stop_and_scores_a_branch_on_what_it_answered(desk: Desk):
    ensemble = Ensemble(desk.given.model, threshold=0)
    result = evaluate(ensemble, desk.holdout)
    assert result.cascade is not None
    assert result.cascade.stopped == (36, 0, 0)
    assert result.cascade.multiply_adds == ensemble.stages[0].multiply_adds
    assert {name: a is None for name, a in result.branches.items()} == {
        f.manifest.id: f.manifest.branch != "a2" for f in desk.given.files
    }
    whole = evaluate(Ensemble(desk.given.model, threshold=1), desk.holdout)
    plain = evaluate(Ensemble(desk.plain.model), desk.holdout)
    assert whole.branches == plain.branches
    assert whole.cascade is not None
    assert whole.cascade.multiply_adds == whole.cascade.multiply_adds_full
    assert plain.cascade is None
    for result, threshold in ((whole, 1), (plain, None)):
        assert (result.cascade and result.cascade.threshold) == threshold


def test_a_threshold_that_is_none_or_for_a_plain_ensemble_is_refused(desk: Desk):
    with pytest.raises(UsageError, match=r"--threshold 0\.5: ensemble is no cascade"):
        Ensemble(desk.plain.model, threshold=0.5)
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(UsageError, match=rf"--threshold {wrong}: is no share"):
            Ensemble(desk.given.model, threshold=wrong)


def test_stages_that_name_no_branch_are_damage(desk: Desk):
    model = onnx.load_from_string(desk.given.model)
    prop = next(p for p in model.metadata_props if p.key == names.KEY_ENSEMBLE)
    prop.value = prop.value.replace('"branches":["a2.box0"', '"branches":["a9.box0"')
    with pytest.raises(DataError, match=r"its metadata is damaged \(ValueError"):
        Ensemble(model.SerializeToString())

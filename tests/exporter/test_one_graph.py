"""The ensemble graph is the sum of its parts: bands, branch graphs and the numpy oracle."""

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import pywt
import scipy.fft
from numpy.typing import NDArray

from edge_stl.bands import bank
from edge_stl.errors import CheckError
from edge_stl.fusion import DATA_FREE, calibration_scale, fuse, plan_weights
from edge_stl.images import fit_square
from edge_stl.plan import Plan, new_plan, plan_from_document
from edge_stl.testing import assert_parity
from exporter import ensemble as ensemble_room, names
from exporter._session import check_model, run
from exporter.branch import build_branch
from exporter.ensemble import build_ensemble
from exporter.merge import Merged, merge_paths
from exporter.options import Layout, Options
from exporter.prove import native_bands
from exporter.read import BranchFile, branch_from_bytes
from exporter.split import ensemble_record
from exporter.verify import check_path


# transform, levels, R, branch kinds; db4 (8 taps) wraps at 8 px, dmey (62 taps) several times
TRANSFORMS: list[tuple[str, int | None, int, tuple[str, ...]]] = [
    ("haar", 2, 16, ("single", "detail", "context")),
    ("haar", 1, 16, ("all",)),
    ("haar", 0, 16, ("single", "all")),
    ("db2", 2, 16, ("single", "detail", "context")),
    ("db4", 2, 16, ("single", "detail", "context")),
    ("dmey", 2, 16, ("detail", "context")),
    ("bior4.4", 2, 16, ("detail", "context")),
    ("dct:2", None, 16, ("single", "detail", "context", "all")),
    ("dct:4", None, 16, ("detail", "context", "all")),
    ("dct:8", None, 16, ("detail", "context", "all")),
]
CASES = [(t, levels, r, kind) for t, levels, r, kinds in TRANSFORMS for kind in kinds]
IDS = [f"{t}-{levels}-{kind}" for t, levels, _, kind in CASES]


def plan_of(case: tuple[str, int | None, int, str], *, channels: int = 3, **more: Any) -> Plan:
    """Return a plan of three classes with an uneven prior."""
    transform, levels, resolution, kind = case
    plan = new_plan(
        classes=["bus", "car", "van"],
        resolution=resolution,
        channels=channels,
        transform=transform,
        levels=levels,
        branches=kind,  # type: ignore[arg-type]
        network="cnn-xs",
    )
    fusion = {"prior": {"bus": 0.5, "car": 0.2, "van": 0.3}}
    return plan_from_document(plan.to_document() | {"fusion": fusion} | more, where="test")


def noise(plan: Plan, count: int, *, seed: int = 0) -> NDArray[np.uint8]:
    side = plan.input.resolution
    shape = (count, side, side, plan.input.channels)
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def given(images: NDArray[np.uint8], layout: str) -> dict[str, NDArray[np.uint8]]:
    axes = (0, 1, 2, 3) if layout == "nhwc" else (0, 3, 1, 2)
    return {"image": np.ascontiguousarray(images.transpose(axes))}


def own_bands(file: BranchFile, images: NDArray[np.floating]) -> NDArray[np.floating]:
    """Analyze images ``(N, r, r, C)`` in 0..1 as the box that trained the branch does."""
    plan, branch = file.plan, file.plan.branch(file.manifest.branch)
    level = plan.native_level(file.manifest.native_resolution)
    split = bank(plan.bank, native_level=level, bands=branch.bands).analyze(
        images.transpose(0, 3, 1, 2)
    )
    return np.concatenate([split[band] for band in branch.bands], axis=1)


def area(images: NDArray[np.uint8], resolution: int) -> NDArray[np.float64]:
    """Return the area-averaged, unrounded images ``(N, r, r, C)`` in 0..1."""
    n, side, _, c = images.shape
    k = side // resolution
    return images.reshape(n, resolution, k, resolution, k, c).mean(axis=(2, 4)) / 255


def exposed(model: bytes, values: list[str]) -> bytes:
    """Return the model with inner values as further outputs."""
    copy = onnx.load_from_string(model)
    for value in values:
        copy.graph.output.append(onnx.helper.make_tensor_value_info(value, 1, None))
    return copy.SerializeToString()


def bands_value(model: bytes, prefix: str) -> str:
    """Return the value that the first layer of a branch reads."""
    for node in onnx.load_from_string(model).graph.node:
        if node.name.startswith(prefix) and node.op_type != "Gather":
            return str(node.input[0])
    raise AssertionError(f"no node under {prefix}")


@pytest.fixture(scope="module")
def merged_of(
    fabricate_fleet: Callable[..., list[Path]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Merged]:
    @lru_cache(maxsize=64)
    def merge(plan_text: bytes, uneven: bool) -> Merged:
        plan = plan_from_document(json.loads(plan_text), where="test")
        files = fabricate_fleet(plan, tmp_path_factory.mktemp("fleet"), uneven=uneven)
        return merge_paths(files, options=Options())

    def cached(plan: Plan, *, uneven: bool = True) -> Merged:
        return merge(plan.canonical(), uneven)

    return cached


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_ensemble_equals_bands_branch_graphs_and_oracle(
    case: tuple[str, int | None, int, str], channels: int, merged_of: Callable[..., Merged]
):
    """Boxes of every native resolution, one without a class, one with a single class, a prior."""
    plan = plan_of(case, channels=channels)
    images = noise(plan, 5)
    merged = merged_of(plan)
    assert {f.manifest.native_resolution for f in merged.files} == {
        r for r in plan.resolutions if plan.carried(r)
    }
    logits = []
    for file in merged.files:
        branch = build_branch(file.manifest, plan, file.parameters)
        bands = own_bands(file, area(images, file.manifest.native_resolution))
        logits.append(run(branch, {"bands": bands.astype(np.float32)})[0])
    members = [f.manifest.member() for f in merged.files]
    expected, rows = fuse(
        logits, members, merged.weights, prior=np.array([0.5, 0.2, 0.3]), scale=merged.scale
    )
    planes = build_ensemble(
        merged.files, merged.weights, options=Options(layout="nchw"), scale=merged.scale
    )
    for model, layout in ((merged.model, "nhwc"), (planes, "nchw")):
        got, got_rows = run(model, given(images, layout))
        assert_parity(got, expected, kind="probabilities")
        assert_parity(got_rows, rows, kind="probabilities")
        for i, member in enumerate(members):
            unseen = [c for c in range(3) if c not in member.seen]
            assert not got_rows[:, i, unseen].any()


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_branch_gets_the_same_input_in_its_box_and_in_the_ensemble(
    case: tuple[str, int | None, int, str], merged_of: Callable[..., Merged]
):
    """The value that a branch reads inside the graph is the box's own analysis, unrounded."""
    plan = plan_of(case)
    images = noise(plan, 3)
    merged = merged_of(plan)
    inner = {f.manifest.id: bands_value(merged.model, f"{f.manifest.id}/") for f in merged.files}
    wanted = sorted(set(inner.values()))
    outputs = run(exposed(merged.model, wanted), given(images, "nhwc"))[2:]
    values = dict(zip(wanted, outputs, strict=True))
    for file in merged.files:
        box = own_bands(file, area(images, file.manifest.native_resolution))
        assert_parity(values[inner[file.manifest.id]], box, kind="same_input")
        assert_parity(native_bands(file, images), box, kind="same_input")


def test_the_bands_in_the_graph_are_those_of_pywavelets_and_scipy(
    merged_of: Callable[..., Merged],
):
    """Against the outside world, at a coarse native resolution too, not our own reference."""
    wavelet = plan_of(("db2", 1, 16, "single"))
    for file in merged_of(wavelet, uneven=False).files:
        if file.manifest.native_resolution != wavelet.input.resolution:
            continue
        images = noise(wavelet, 2)
        planes = images.transpose(0, 3, 1, 2) / 255
        cA, (cH, cV, cD) = pywt.dwt2(planes, "db2", mode="periodization")
        expected = {"ca1": cA, "ch1": cH, "cv1": cV, "cd1": cD}[file.manifest.branch] / 2
        assert_parity(native_bands(file, images), expected, kind="same_input")
    dct = plan_of(("dct:4", None, 16, "all"))
    (file, *_) = merged_of(dct, uneven=False).files
    images = noise(dct, 2)
    blocks = (images.transpose(0, 3, 1, 2) / 255).reshape(2, 3, 4, 4, 4, 4)
    coefficients = scipy.fft.dctn(blocks, axes=(3, 5), norm="ortho") / 4
    got = native_bands(file, images)
    for i, band in enumerate(dct.branches[0].bands):
        u, v = int(band[3]), int(band[4])
        assert_parity(got[:, 3 * i : 3 * i + 3], coefficients[:, :, :, u, :, v], kind="same_input")


@pytest.mark.parametrize("case", CASES[:1] + CASES[8:9], ids=IDS[:1] + IDS[8:9])
def test_a_boxes_rounding_moves_no_pixel_of_its_image_by_more_than_half_a_step(
    case: tuple[str, int | None, int, str], merged_of: Callable[..., Merged]
):
    plan = plan_of(case)
    images = noise(plan, 3)
    merged = merged_of(plan)
    coarse = [r for r in plan.resolutions[1:] if plan.carried(r)]
    outputs = run(
        exposed(merged.model, [f"native{r}/image" for r in coarse]), given(images, "nhwc")
    )[2:]
    for resolution, value in zip(coarse, outputs, strict=True):
        rounded = np.stack([fit_square(image, resolution, "crop") for image in images])
        worst = np.abs(value - rounded.transpose(0, 3, 1, 2) / 255).max()
        assert 0 < worst <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("transform", sorted({case[0] for case in CASES}))
def test_every_preset_is_portable_under_every_transform_and_layout(
    transform: str, fabricate: Callable[..., bytes]
):
    """Opset 17, IR 8, allow-listed operators, one file, full checker, loads from bytes."""
    plan = plan_of((transform, None if transform[:3] == "dct" else 2, 16, "detail"))
    presets = ["mlp-s", "cnn-xs", "cnn-s", "cnn-m", "res-s", "mobile-s"]
    bands = [plan.branches[0].bands, plan.branches[-1].bands]
    branches = [
        {"name": f"{preset}-{i}", "bands": list(group), "network": preset}
        for preset in presets
        for i, group in enumerate(bands)
    ]
    plan = plan_of((transform, plan.transform.levels, 16, "detail"), branches=branches)
    models = {f.name: fabricate(plan, f.name, box="a") for f in plan.branches}
    files = [branch_from_bytes(data, name=name) for name, data in models.items()]
    weights = [[1 / len(files)] * 3] * len(files)
    layouts: dict[str, tuple[Layout, list[str | int]]] = {
        "ensemble.nhwc": ("nhwc", ["batch", 16, 16, 3]),
        "ensemble.nchw": ("nchw", ["batch", 3, 16, 16]),
    }
    for name, (layout, shape) in layouts.items():
        models[name] = build_ensemble(files, weights, options=Options(layout=layout), scale=1.0)
        graph = onnx.load_from_string(models[name]).graph
        assert [n.op_type for n in graph.node if "image" in n.input] == ["Cast"]
        dims = graph.input[0].type.tensor_type.shape.dim
        assert [d.dim_value or d.dim_param for d in dims] == shape
    for name, data in models.items():
        model = onnx.load_from_string(data)
        assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
        assert model.ir_version == 8
        assert {n.op_type for n in model.graph.node} <= names.PORTABLE_OPERATORS
        assert not any(
            t.data_location == onnx.TensorProto.EXTERNAL for t in model.graph.initializer
        )
        assert all(t.raw_data for t in model.graph.initializer)
        assert not model.functions
        assert all(n.name and not n.doc_string for n in model.graph.node)
        check_model(data, name)


def test_the_allow_list_holds_only_operators_that_opset_17_knows():
    for operator in names.PORTABLE_OPERATORS:
        assert onnx.defs.get_schema(operator, names.OPSET).since_version <= names.OPSET
    assert not names.PORTABLE_OPERATORS & {"Resize", "Pad", "DFT", "ReduceMean", "If", "Loop"}


@pytest.mark.parametrize("rule", ["plan", "uniform", "geometric", "reliability"])
def test_the_weights_in_the_graph_are_those_of_the_record_and_of_the_rule(
    rule: str, fabricate_fleet: Callable[..., list[Path]], tmp_path: Path
):
    """Per class, of sum 1 over the files that speak for it; a box of one class has a lone 0."""
    declared = {"a1": 1.0, "d1": 3.0}
    plan = plan_of(("haar", 1, 16, "detail"), fusion={"weights": declared})
    path = tmp_path / "e.onnx"
    merged = merge_paths(fabricate_fleet(plan, tmp_path), options=Options(weights=rule))
    path.write_bytes(merged.model)
    assert check_path(path) == []
    members = [f.manifest.member() for f in merged.files]
    wanted = plan_weights(members, declared) if rule == "plan" else DATA_FREE[rule](members)
    assert_parity(np.array(merged.weights), np.round(wanted, 6), kind="float64")
    assert_parity(np.array(merged.weights).sum(axis=0), np.ones(3), kind="probabilities")
    assert merged.scale == round(calibration_scale(wanted), 6)
    model = onnx.load_from_string(merged.model)
    record = ensemble_record(model, name="e")
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    assert record["scale"] == merged.scale
    assert tensors["fusion/scale"] == np.float32(merged.scale)
    assert [tuple(m["weights"]) for m in record["members"]] == list(merged.weights)
    assert not any("weight" in m for m in record["members"])
    silent = 0
    for file, own in zip(merged.files, merged.weights, strict=True):
        seen, stored = file.manifest.member().seen, tensors[f"{file.manifest.id}/weight"]
        if len(seen) == 1:
            silent += 1
            assert stored.shape == () and not stored and not any(own)  # noqa: PT018
        else:
            assert stored.dtype == np.float32
            np.testing.assert_array_equal(stored, np.array(own, np.float32)[list(seen)])
            assert not any(own[c] for c in range(3) if c not in seen)
    assert silent


@pytest.mark.parametrize("rule", ["uniform", "geometric", "reliability"])
def test_an_ensemble_of_one_file_answers_with_its_p_up_to_the_scale(
    rule: str, fabricate: Callable[..., bytes], tmp_path: Path
):
    """Its weights are 1: score(c) = a log(p / (1 - p)), p clipped."""
    plan = plan_of(("haar", 1, 16, "detail"), fusion={})
    (tmp_path / "a1.onnx").write_bytes(fabricate(plan, "a1"))
    merged = merge_paths([tmp_path / "a1.onnx"], options=Options(weights=rule))
    assert (merged.weights, merged.scale) == (((1.0, 1.0, 1.0),), 0.7)
    answer, rows = run(merged.model, given(noise(plan, 4), "nhwc"))
    q = np.clip(rows[:, 0].astype(np.float64), 0.01, 0.99)
    odds = (q / (1 - q)) ** 0.7
    assert_parity(answer, odds / odds.sum(axis=1, keepdims=True), kind="probabilities")
    assert (answer.argmax(axis=1) == rows[:, 0].argmax(axis=1)).all()


def test_a_graph_that_is_not_the_formula_is_never_handed_out(
    monkeypatch: pytest.MonkeyPatch, fabricate_fleet: Callable[..., list[Path]], tmp_path: Path
):
    """The merger proves what it built; a wrong constant in the graph is found before any user."""
    plan = plan_of(("haar", 1, 16, "detail"))
    files = fabricate_fleet(plan, tmp_path)
    monkeypatch.setattr(ensemble_room, "PIXEL_SCALE", 256.0)
    with pytest.raises(CheckError, match=r"graph and the formulas differ by .*please report it"):
        merge_paths(files, options=Options())


def test_a_branch_that_computes_otherwise_than_its_box_did_is_not_merged(
    parameters_of: Callable[..., Any], manifest_for: Callable[..., Any], tmp_path: Path
):
    plan = plan_of(("haar", 1, 16, "detail"))
    manifest = manifest_for(plan, "a1", logits=[[9.0, 0.0, 0.0]] * 2)
    path = tmp_path / "a1.cam01.onnx"
    path.write_bytes(build_branch(manifest, plan, parameters_of(plan, "a1", seed=0)))
    with pytest.raises(CheckError, match=r"a1\.cam01\.onnx: differs by .* its box recorded"):
        merge_paths([path], options=Options())


def test_the_bounds_of_clip_are_scalars_as_onnx_demands(merged_of: Callable[..., Merged]):
    """ONNX: min and max "must be a scalar (tensor of empty shape)"; not every runtime is lax."""
    graph = onnx.load_from_string(merged_of(plan_of(("haar", 1, 16, "detail"))).model).graph
    dims = {t.name: list(t.dims) for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "Clip":
            assert [dims[name] for name in node.input[1:]] == [[], []]


def test_a_silent_branch_moves_nothing(merged_of: Callable[..., Merged]):
    """What a single-class box says changes no probability; what it says is still shown."""
    plan = plan_of(("haar", 1, 16, "detail"))
    merged = merged_of(plan)
    loud = [f for f in merged.files if len(f.manifest.member().seen) > 1]
    weights = [
        w for f, w in zip(merged.files, merged.weights, strict=True) if f in loud
    ]  # fmt: skip
    assert len(loud) < len(merged.files)
    images = given(noise(plan, 4), "nhwc")
    without = build_ensemble(loud, weights, options=Options(), scale=merged.scale)
    assert_parity(run(merged.model, images)[0], run(without, images)[0], kind="same_input")

"""The paper's transforms in one graph: bands, branches, split, check, and a whole way.

The bands of a polyphase transform are sums of two separable terms; every other one has one.
"""

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import scipy.fft
import torch
from numpy.typing import NDArray

from edge_stl.bands import bank
from edge_stl.cli import main
from edge_stl.fusion import fuse
from edge_stl.layers import Analysis
from edge_stl.plan import Plan, networks, new_plan, plan_from_document
from edge_stl.predict import Ensemble
from edge_stl.testing import assert_parity
from exporter._session import run
from exporter.branch import build_branch
from exporter.ensemble import build_ensemble
from exporter.manifest import Images, sha256
from exporter.merge import Merged, change_ensemble, merge_paths
from exporter.options import Options
from exporter.prove import native_bands
from exporter.read import BranchFile, read_branch
from exporter.split import branch_bytes, members_of
from exporter.verify import TARGETS, check_path


# transform, R, branches; at 6 px a band of stl-dct:6 is one number
CASES: list[tuple[str, int, str]] = [
    ("stl-dct:2", 12, "single"),
    ("stl-dct:2", 12, "all"),
    ("stl-dct:3", 12, "all"),
    ("stl-dct:6", 24, "single"),
    ("stl-dct:6", 12, "all"),
    ("stl-dct:6", 6, "all"),
    ("stl-dct:9", 18, "all"),
    ("stl-dft:2", 12, "single"),
    ("stl-dft:2", 12, "all"),
    ("stl-dft:3", 12, "single"),
    ("stl-dft:4", 16, "single"),
    ("stl-dft:4", 24, "all"),
]
Each = pytest.mark.parametrize("case", CASES, ids=["-".join(map(str, case)) for case in CASES])
PRIOR = {"bus": 0.5, "car": 0.2, "van": 0.3}


def plan_of(case: tuple[str, int, str], *, network: str = "mlp-s", **more: Any) -> Plan:
    transform, resolution, branches = case
    plan = new_plan(
        classes=list(PRIOR),
        resolution=resolution,
        transform=transform,
        branches=branches,  # type: ignore[arg-type]
        network=network,
        channels=more.pop("channels", 3),
    )
    document = plan.to_document() | {"fusion": {"prior": PRIOR}} | more
    return plan_from_document(document, where="test")


def noise(plan: Plan, count: int) -> NDArray[np.uint8]:
    side = plan.input.resolution
    shape = (count, side, side, plan.input.channels)
    return np.random.default_rng(count).integers(0, 256, shape).astype(np.uint8)


def planes(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    return images.transpose(0, 3, 1, 2) / 255


def branch_of(file: BranchFile) -> Any:
    return file.plan.branch(file.manifest.branch)


def numpy_bands(file: BranchFile, images: NDArray[np.uint8]) -> NDArray[np.floating]:
    names = branch_of(file).bands
    split = bank(file.plan.bank, bands=names).analyze(planes(images))
    return np.concatenate([split[name] for name in names], axis=1)


def torch_logits(file: BranchFile, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Compute a branch with torch alone, from pixels on: its analysis and its layers."""
    branch, plan = branch_of(file), file.plan
    analysis = Analysis(bank(plan.bank, bands=branch.bands), resolution=plan.input.resolution)
    tensors = {name: torch.from_numpy(v.copy()) for name, v in file.parameters.items()}
    x = analysis(torch.from_numpy(planes(images).astype(np.float32)))
    geometry = {"channels": plan.band_channels(branch), "size": plan.band_size(branch)}
    for step in networks.walk(plan.layers(branch), **geometry):
        own = {key: tensors.get(f"{step.name}.{key}") for key in ("weight", "bias", "scale")}
        match step.layer:
            case networks.Conv(kernel=kernel):
                x = torch.conv2d(x, own["weight"], own["bias"], padding=kernel // 2)
            case networks.Dense():
                x = torch.nn.functional.linear(x, own["weight"], own["bias"])
            case networks.Norm() if own["scale"] is not None:
                x = x * own["scale"] + tensors[f"{step.name}.shift"]
            case networks.Relu():
                x = torch.relu(x)
            case networks.MaxPool():
                x = torch.max_pool2d(x, 2)
            case networks.GlobalAveragePool():
                x = x.mean(dim=(2, 3))
            case networks.Flatten():
                x = x.flatten(1)
            case _:
                pass
    return x.numpy()


@pytest.fixture(scope="module")
def fleet_of(
    fabricate: Callable[..., bytes], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Plan], list[Path]]:
    """Write every branch of three boxes; the second never saw a car, the third a bus alone."""

    @lru_cache(maxsize=32)
    def fleet(text: bytes) -> tuple[Path, ...]:
        plan = plan_from_document(json.loads(text), where="test")
        folder = tmp_path_factory.mktemp("fleet")
        files = []
        for i, counts in enumerate([(5, 8, 11), (6, 0, 12), (9, 0, 0)]):
            for j, branch in enumerate(plan.branches):
                if i == 2 and j > 1:
                    continue
                data = fabricate(
                    plan, branch.name, box=f"box{i}", counts=counts, seed=100 * i + j,
                    temperature=1.0 + 0.25 * i, loss=0.2 + 0.1 * (j % 3),
                )  # fmt: skip
                files.append(folder / f"{branch.name}.box{i}.onnx")
                files[-1].write_bytes(data)
        return tuple(files)

    return lambda plan: list(fleet(plan.canonical()))


@pytest.fixture(scope="module")
def merged_of(fleet_of: Callable[[Plan], list[Path]]) -> Callable[[Plan], Merged]:
    @lru_cache(maxsize=32)
    def merge(text: bytes) -> Merged:
        plan = plan_from_document(json.loads(text), where="test")
        return merge_paths(fleet_of(plan), options=Options())

    return lambda plan: merge(plan.canonical())


def inner_value(model: bytes, prefix: str) -> str:
    """Return the value that the first layer of a branch reads."""
    for node in onnx.load_from_string(model).graph.node:
        if node.name.startswith(prefix) and node.op_type != "Gather":
            return str(node.input[0])
    raise AssertionError(f"no node under {prefix}")


def exposed(model: bytes, values: list[str]) -> bytes:
    """Return the model with inner values as further outputs."""
    copy = onnx.load_from_string(model)
    for value in values:
        copy.graph.output.append(onnx.helper.make_tensor_value_info(value, 1, None))
    return copy.SerializeToString()


@Each
@pytest.mark.parametrize("channels", [1, 3])
def test_the_ensemble_equals_the_oracle_of_numpy_and_that_of_torch(
    case: tuple[str, int, str], channels: int, merged_of: Callable[[Plan], Merged]
):
    plan = plan_of(case, channels=channels)
    images = noise(plan, 6)
    merged = merged_of(plan)
    assert len({f.manifest.box for f in merged.files}) == 3
    of_numpy, of_torch = [], []
    for file in merged.files:
        model = build_branch(file.manifest, plan, file.parameters)
        bands = numpy_bands(file, images).astype(np.float32)
        of_numpy.append(run(model, {"bands": bands})[0])
        of_torch.append(torch_logits(file, images))
        assert_parity(of_torch[-1], of_numpy[-1], kind="float32")
    members = [f.manifest.member() for f in merged.files]
    prior = np.array(list(PRIOR.values()))
    by_layout = {
        "nhwc": (merged.model, images),
        "nchw": (
            build_ensemble(
                merged.files, merged.weights, options=Options(layout="nchw"), scale=merged.scale
            ),
            images.transpose(0, 3, 1, 2),
        ),
    }
    for logits in (of_numpy, of_torch):
        expected, rows = fuse(logits, members, merged.weights, prior=prior, scale=merged.scale)
        for model, given in by_layout.values():
            got, got_rows = run(model, {"image": np.ascontiguousarray(given)})
            assert_parity(got, expected, kind="probabilities")
            assert_parity(got_rows, rows, kind="probabilities")


@Each
def test_the_bands_in_the_graph_are_those_of_the_bank(
    case: tuple[str, int, str], merged_of: Callable[[Plan], Merged]
):
    plan = plan_of(case)
    images = noise(plan, 3)
    merged = merged_of(plan)
    values = sorted({inner_value(merged.model, f"{f.manifest.id}/") for f in merged.files})
    outputs = run(exposed(merged.model, values), {"image": images})[2:]
    inside = dict(zip(values, outputs, strict=True))
    for file in merged.files:
        expected = numpy_bands(file, images)
        got = inside[inner_value(merged.model, f"{file.manifest.id}/")]
        assert_parity(got, expected, kind="same_input")
        assert_parity(native_bands(file, images), expected, kind="same_input")


def test_the_bands_in_the_graph_are_those_of_scipy_and_numpy(
    merged_of: Callable[[Plan], Merged],
):
    """Against the outside world, not our own reference: component b i + j, row-major."""
    for case, side in ((("stl-dct:6", 12, "all"), 6), (("stl-dft:4", 24, "all"), 4)):
        plan = plan_of(case)
        images = noise(plan, 2)
        n, size = side * side, case[1] // side
        # (2, 3, y, i, x, j) to (2, 3, b i + j, y, x)
        parts = planes(images).reshape(2, 3, size, side, size, side)
        parts = parts.transpose(0, 1, 3, 5, 2, 4).reshape(2, 3, n, size, size)
        dct = scipy.fft.dct(parts, axis=2, norm="ortho") / side
        dft = np.fft.fft(parts, axis=2) / n
        (file, *_) = merged_of(plan).files
        got = native_bands(file, images)
        for i, name in enumerate(plan.branches[0].bands):
            index = int(name[1:3])
            plane = dft[:, :, index].imag if name.endswith("i") else dft[:, :, index].real
            expected = dct[:, :, index] if name.startswith("p") else plane
            assert_parity(got[:, 3 * i : 3 * i + 3], expected, kind="same_input")


def test_branches_of_some_bands_in_another_order_get_theirs(
    fabricate: Callable[..., bytes], tmp_path: Path
):
    bands = {"odd": ["p07", "p00", "p03"], "one": ["p08"], "same": ["p03", "p07"]}
    branches = [{"name": k, "bands": v, "network": "cnn-xs"} for k, v in bands.items()]
    plan = plan_of(("stl-dct:3", 12, "single"), branches=branches)
    paths = []
    for name in bands:
        paths.append(tmp_path / f"{name}.onnx")
        paths[-1].write_bytes(fabricate(plan, name, box="a"))
    images = noise(plan, 4)
    merged = merge_paths(paths, options=Options(weights="uniform"))
    logits = [torch_logits(file, images) for file in merged.files]
    members = [f.manifest.member() for f in merged.files]
    prior = np.array(list(PRIOR.values()))
    expected, _ = fuse(logits, members, merged.weights, prior=prior, scale=merged.scale)
    assert_parity(run(merged.model, {"image": images})[0], expected, kind="probabilities")


@Each
def test_the_files_come_back_byte_for_byte_and_can_be_taken_out_and_put_in(
    case: tuple[str, int, str],
    fleet_of: Callable[[Plan], list[Path]],
    merged_of: Callable[[Plan], Merged],
):
    plan = plan_of(case)
    paths, merged = fleet_of(plan), merged_of(plan)
    back = {f.name: branch_bytes(f) for f in members_of(merged.model, name="e").files}
    assert back == {path.name: path.read_bytes() for path in paths}
    assert merge_paths(paths[::-1], options=Options()).model == merged.model

    box = [path for path in paths if ".box1." in path.name]
    rest = [path for path in paths if path not in box]
    without = change_ensemble(merged.model, name="e", remove=["box1"])
    assert without.model == merge_paths(rest, options=Options()).model
    assert change_ensemble(without.model, name="e", add=box).model == merged.model


@Each
def test_every_file_is_portable_to_every_target(
    case: tuple[str, int, str],
    fleet_of: Callable[[Plan], list[Path]],
    merged_of: Callable[[Plan], Merged],
    tmp_path: Path,
):
    plan = plan_of(case)
    path = tmp_path / "e.onnx"
    path.write_bytes(merged_of(plan).model)
    for file in (fleet_of(plan)[0], path):
        assert {t: check_path(file, target=t) for t in TARGETS} == {t: [] for t in TARGETS}


@pytest.mark.parametrize("case", [("stl-dct:4", 32, "single"), ("stl-dft:2", 6, "single")])
def test_the_paper_s_networks_are_portable_and_computed_as_torch_does(
    case: tuple[str, int, str], fabricate: Callable[..., bytes], tmp_path: Path
):
    presets = ["fc-8l", "cnn-8", "cnn-8-half", "cnn-8-quarter"]
    band = new_plan(classes="abc", resolution=case[1], transform=case[0]).branches[1].bands
    branches = [{"name": name, "bands": list(band), "network": name} for name in presets]
    plan = plan_of(case, branches=branches)
    paths = [tmp_path / f"{name}.onnx" for name in presets]
    for path in paths:
        path.write_bytes(fabricate(plan, path.stem, box="a"))
        images = noise(plan, 2)
        file = read_branch(path)
        got = run(path.read_bytes(), {"bands": numpy_bands(file, images).astype(np.float32)})[0]
        expected = torch_logits(file, images)
        scale = max(1.0, float(np.abs(expected).max()))  # nothing trained these: logits of 1e4
        assert_parity(got / scale, expected / scale, kind="float32")
    paths.append(tmp_path / "e.onnx")
    paths[-1].write_bytes(merge_paths(paths[:-1], options=Options()).model)
    assert [check_path(path, target="portable") for path in paths] == [[]] * len(paths)


GOLDEN = {
    "stl-dct:3": (
        "878474b7f05fcd4cfa08febeb89cc5af3a0759b0755ee854a33ee29b78f2a95e",
        "29e93ad6ac7701cf17de505b3cec0a902d3bbbbb9b99ff9630c18ed840b07612",
    ),
    "stl-dft:4": (
        "45f2c714b33c49d5bde3e0fedee57565e54e78c7f14556b389b0320c40e81d4a",
        "cc7a2df7802409aca1d0c4d54bf099dbcad12fdecc648313193f5d07441d6d7a",
    ),
}


@pytest.mark.parametrize("transform", GOLDEN)
def test_the_bytes_of_a_fixed_set_never_change(
    transform: str, parameters_of: Callable[..., Any], manifest_for: Callable[..., Any]
):
    """As in `test_bytes`, which says what to do when they must."""
    plan = new_plan(
        classes=["bus", "car", "van"],
        resolution=12,
        channels=1,
        transform=transform,
        network="mlp-s",
    )
    built = []
    for box, branch, counts in zip(
        ("cam01", "cam02", "cam03"),
        (plan.branches[0], plan.branches[1], plan.branches[-1]),
        ((4, 0, 6), (3, 2, 1), (0, 9, 0)),
        strict=True,
    ):
        images = Images(train=counts, validation=(1, 1, 1))
        manifest = manifest_for(plan, branch.name, box=box, images=images)
        parameters = parameters_of(plan, branch.name, seed=7)
        data = build_branch(manifest, plan, parameters)
        built.append(BranchFile(branch.name, manifest, plan, parameters, sha256(data), len(data)))
    weights = ((0.5, 0.0, 0.375), (0.5, 1.0, 0.625), (0.0, 0.0, 0.0))
    model = build_ensemble(built, weights, options=Options(), scale=0.875, made_by="0.0.0")
    assert (built[1].sha256, sha256(model)) == GOLDEN[transform]


@pytest.mark.slow
def test_two_boxes_train_and_their_ensemble_is_measured(
    pictures: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """The agent, the desk and the measurement, as they are typed; one band a branch."""
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "photos", list(PRIOR), count=20, side=24)
    pictures(tmp_path / "test", list(PRIOR), count=6, side=24, seed=1)
    new = ["plan", "new", "--classes", "photos", "--resolution", "24", "--transform", "stl-dct:2"]
    options = ["--network", "mlp-s", "--epochs", "8", "--no-flip", "--shift", "0"]
    assert main([*new, *options, "-o", "plan.toml"]) == 0
    train = ["train", "plan.toml", "photos", "-o", "out", "--quiet"]
    assert main([*train, "--box", "cam1", "--work", "w1"]) == 0
    assert main([*train, "--box", "cam2", "--work", "w2", "--branch", "p00"]) == 0
    files = sorted(str(p) for p in Path("out").iterdir())
    assert [Path(f).name for f in files] == [
        *("p00.cam1.onnx", "p00.cam2.onnx", "p01.cam1.onnx", "p02.cam1.onnx", "p03.cam1.onnx"),
    ]
    assert main(["merge", *files, "-o", "e.onnx", "-q"]) == 0
    assert main(["check", "e.onnx"]) == 0
    capsys.readouterr()
    assert main(["evaluate", "e.onnx", "test", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["images"] == 18
    assert told["accuracy"] >= 0.9
    ensemble = Ensemble(tmp_path / "e.onnx", threads=1)
    images = np.stack([ensemble.prepare(p) for p in sorted(Path("test").rglob("*.png"))])
    read = [read_branch(Path(f)) for f in files]
    by_id = {file.manifest.id: torch_logits(file, images) for file in read}
    merged = members_of(Path("e.onnx").read_bytes(), name="e")
    expected, _ = fuse(
        [by_id[f.manifest.id] for f in merged.files],
        [f.manifest.member() for f in merged.files],
        merged.weights,
        scale=merged.scale,
    )
    assert_parity(ensemble.predict(images)[0], expected, kind="probabilities")

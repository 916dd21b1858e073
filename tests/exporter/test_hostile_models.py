"""Models made to hurt who reads them: refused before anything is built from them."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from edge_stl.errors import CheckError, DataError, IntegrityError
from edge_stl.gate import Refused, Unreadable, scan_model
from edge_stl.plan import new_plan, plan_from_document
from edge_stl.predict import Ensemble
from exporter.branch import build_branch, export_branch
from exporter.inspect import inspect_path
from exporter.manifest import canonical_json, disagreements
from exporter.merge import change_ensemble, merge_paths
from exporter.options import Options
from exporter.read import Unusable, branch_from_bytes
from exporter.split import members_of
from exporter.verify import check_path
from tests.exporter import hostile


ROOT = Path(__file__).parents[2]
PLAN = new_plan(
    classes=["bus", "car"], resolution=4, levels=1, channels=1, network="mlp-s", branches="detail"
)


@pytest.fixture(scope="module")
def files(
    fabricate_fleet: Callable[..., list[Path]], tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    return fabricate_fleet(PLAN, tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="module")
def branch(files: list[Path]) -> bytes:
    return files[0].read_bytes()


@pytest.fixture(scope="module")
def ensemble(files: list[Path]) -> bytes:
    return merge_paths(files, options=Options()).model


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What every reader said of every bomb, in a process with room for 300 MB more."""
    folder = tmp_path_factory.mktemp("bombs")
    ran = subprocess.run(
        [sys.executable, str(ROOT / "tests/exporter/hostile.py"), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    return [json.loads(line) for line in ran.stdout.splitlines()]


def test_a_bomb_is_refused_within_300_megabytes(rows: list[dict[str, Any]]):
    assert {row["bomb"] for row in rows} == {*hostile.BOMBS, *hostile.FILES}
    assert {row["reader"] for row in rows} == {"merge", "split", "predict"}
    for row in rows:
        if row["bomb"] in hostile.FILES:
            allowed = hostile.FILES[row["bomb"]]
        else:
            _, expected = hostile.BOMBS[row["bomb"]]
            allowed = expected if "|" in expected else re.escape(expected)
        if row["reader"] == "split":
            allowed += "|its record is incomplete or wrong"
        assert re.search(allowed, row["said"]), row
        assert "\n" not in row["said"]


FIVE = {
    "16 nested functions",
    "Loop of 10^12",
    "NaN weights",
    "a hard link",
    "data kept in a hard link",
    *(name for name in hostile.BOMBS if name.startswith("external")),
}


def test_the_bombs_that_hang_or_leak_elsewhere_take_less_than_a_second(rows: list[dict[str, Any]]):
    """Of processor time, each, by every reader; most take a thousandth of it."""
    taken = {row["bomb"]: row["seconds"] for row in rows if row["bomb"] in FIVE}
    assert {*taken} == FIVE
    for row in rows:
        if row["bomb"] in FIVE:
            assert row["seconds"] < 1, row


def test_a_bomb_behind_an_honest_file_is_refused(branch: bytes, ensemble: bytes):
    """Protobuf puts two graphs of one file together, so anything can be added at the end."""
    for bomb in (hostile.tensors(20_000), hostile.graph(hostile.part(15, b""))):
        with pytest.raises(Unusable, match=r"tensor t0 is unknown .*; 19,990 more|a sparse tensor"):
            branch_from_bytes(branch + bomb, name="f")
    with pytest.raises(DataError, match="has a sparse tensor; no file of edge-stl has"):
        members_of(ensemble + bomb, name="f")
    with pytest.raises(DataError, match="has a sparse tensor; no file of edge-stl has"):
        Ensemble(ensemble + bomb)


def test_honest_files_have_nothing_foreign_and_stay_far_below_the_caps(
    branch: bytes, ensemble: bytes
):
    for data in (branch, ensemble):
        outline = scan_model(data)
        model = onnx.load_from_string(data)
        assert outline.foreign == []
        assert outline.nodes == len(model.graph.node)
        assert outline.tensors == len(model.graph.initializer)
        assert outline.metadata == {p.key: p.value for p in model.metadata_props}
    assert scan_model(branch).fields < 400


def test_a_scan_counts_what_a_parser_would_build_of_any_model(ensemble: bytes):
    """Node for node, with functions, bodies and training graphs of models that are not ours."""
    model = onnx.load_from_string(hostile.nested_functions(3))
    model.graph.node.append(onnx.load_from_string(hostile.loop()).graph.node[0])
    model.training_info.add().algorithm.CopyFrom(onnx.load_from_string(ensemble).graph)
    outline = scan_model(model.SerializeToString())
    assert outline.nodes == 1 + 3 * 2 + 1 + 2 + len(onnx.load_from_string(ensemble).graph.node)
    assert {"a local function", "training_info"} <= set(outline.foreign)


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x08", b"\x0a\x05ab", b"hello", b"\x09\x01"])
def test_what_is_no_message_is_unreadable(data: bytes):
    with pytest.raises(Unreadable, match="is not an ONNX file, or is truncated"):
        scan_model(data)


# -- nothing of a stranger is executed ------------------------------------------------------------


def _session_inputs(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    seen: list[bytes] = []
    real = ort.InferenceSession

    def watched(model: Any, *args: Any, **kwargs: Any) -> Any:
        assert isinstance(model, bytes), "loaded from a path"
        seen.append(model)
        return real(model, *args, **kwargs)

    monkeypatch.setattr(ort, "InferenceSession", watched)
    return seen


def _rename(data: bytes) -> bytes:
    """Return a file that onnxruntime would take as well, but that is not canonical."""
    model = onnx.load_from_string(data)
    model.producer_name = "stranger"
    return model.SerializeToString(deterministic=True)


def test_no_session_is_ever_made_from_a_strangers_bytes(
    files: list[Path], ensemble: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    strange = {
        "branch": _rename(files[0].read_bytes()),
        "ensemble": _rename(ensemble),
        "foreign": hostile.model([helper.make_node("Relu", ["x"], ["y"])]),
        "loop": hostile.loop() + hostile.kind_of("branch"),
    }
    for name, data in strange.items():
        (tmp_path / name).write_bytes(data)
    seen = _session_inputs(monkeypatch)

    for name in strange:
        check_path(tmp_path / name)
    inspect_path(tmp_path / "foreign")
    inspect_path(tmp_path / "ensemble")  # its branches are whole; its graph is not looked at
    content = members_of(strange["ensemble"], name="e")
    merge_paths([*files[1:], tmp_path / "branch"], options=Options(), skip_refused=True)
    change_ensemble(strange["ensemble"], name="e", remove=["box0"])

    assert seen, "nothing was watched"
    assert not {*seen} & {*strange.values()}
    own = {build_branch(f.manifest, f.plan, f.parameters) for f in content.files}
    assert own & {*seen}


def test_a_foreign_model_is_judged_in_a_child_that_can_be_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(hostile.model([helper.make_node("Nothing", ["x"], ["y"])]))
    said = [f.what for f in check_path(bad)]
    assert any("No Op registered for Nothing" in what for what in said), said

    monkeypatch.setattr("exporter._judge.MEMORY", 60_000_000)
    monkeypatch.setattr("exporter._judge.SECONDS", 5)
    said = [f.what for f in check_path(bad)]
    assert any("not a valid model: to load it takes more than 5 s" in what for what in said), said


# -- numbers ----------------------------------------------------------------------------------


def _first(name: str, value: float) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        tensor = next(t for t in model.graph.initializer if t.name.endswith(name))
        array = np.frombuffer(tensor.raw_data, "<f4").copy()
        array[0] = value
        tensor.raw_data = array.tobytes()

    return change


def _all(name: str, value: float) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        tensor = next(t for t in model.graph.initializer if t.name.endswith(name))
        tensor.raw_data = np.full(len(tensor.raw_data) // 4, value, "<f4").tobytes()

    return change


def _field(change: Callable[[TensorProto], object]) -> Callable[[onnx.ModelProto], None]:
    def edit(model: onnx.ModelProto) -> None:
        change(next(t for t in model.graph.initializer if t.name.endswith("2.weight")))

    return edit


def _dims(*dims: int) -> Callable[[TensorProto], None]:
    def change(tensor: TensorProto) -> None:
        del tensor.dims[:]
        tensor.dims.extend(dims)

    return change


NOT_FLOATS = r"is not \d+ float32 numbers of raw data"
NUMBERS: dict[str, tuple[Callable[[onnx.ModelProto], None], str]] = {
    "NaN": (_first("2.weight", np.nan), "has 1 numbers that are NaN or infinite"),
    "a NaN with a payload": (
        _field(lambda t: setattr(t, "raw_data", b"\x01\x00\xa0\x7f" + t.raw_data[4:])),
        "has 1 numbers that are NaN or infinite",
    ),
    "infinite": (_first("2.bias", np.inf), "has 1 numbers that are NaN or infinite"),
    "minus infinite": (_first("0.scale", -np.inf), "has 1 numbers that are NaN or infinite"),
    "1e38": (_first("2.weight", 1e38), r"has numbers up to 1e\+38; at most 1e\+06"),
    "-1e7": (_first("0.shift", -1e7), r"has numbers up to 1e\+07; at most"),
    "denormal": (_first("2.weight", 1e-40), r"has 1 numbers below 1\.18e-38, which an agent"),
    "the smallest": (_first("2.bias", -1.4e-45), "has 1 numbers below"),
    "all zero": (_all("2.weight", 0.0), "is 0 throughout"),
    "all minus zero": (_all("2.weight", -0.0), "is 0 throughout"),
    "float64": (_field(lambda t: setattr(t, "data_type", 11)), NOT_FLOATS),
    "int8": (_field(lambda t: setattr(t, "data_type", 3)), NOT_FLOATS),
    "text": (_field(lambda t: setattr(t, "data_type", 8)), NOT_FLOATS),
    "no type": (_field(lambda t: setattr(t, "data_type", 0)), NOT_FLOATS),
    "a byte short": (_field(lambda t: setattr(t, "raw_data", t.raw_data[:-1])), NOT_FLOATS),
    "no bytes": (_field(lambda t: setattr(t, "raw_data", b"")), NOT_FLOATS),
    "too many bytes": (_field(lambda t: setattr(t, "raw_data", t.raw_data * 2)), NOT_FLOATS),
    "negative dimensions": (_field(_dims(-64, -4)), r"has shape \(-64, -4\), the plan has"),
    "dimensions whose product is 0 in 64 bits": (
        _field(_dims(1 << 32, 1 << 32)),
        r"has shape \(4294967296, 4294967296\)",
    ),
    "dimensions of 2^63": (_field(_dims(2**63 - 1, 4)), "has shape"),
    "no dimension": (_field(_dims()), r"has shape \(\), the plan has"),
    "a million dimensions of 1": (
        _field(_dims(*[1] * 100_000)),
        r"has shape \(1, 1, 1\), the plan has",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", NUMBERS)
def test_numbers_that_cannot_be_are_refused_before_anything_runs(
    what: str, branch: bytes, ensemble: bytes, monkeypatch: pytest.MonkeyPatch
):
    seen = _session_inputs(monkeypatch)
    change, said = NUMBERS[what]
    model = onnx.load_from_string(branch)
    change(model)
    with pytest.raises(Unusable, match=said):
        branch_from_bytes(model.SerializeToString(deterministic=True), name="f")

    model = onnx.load_from_string(ensemble)
    change(model)
    with pytest.raises(IntegrityError, match=said):
        members_of(model.SerializeToString(deterministic=True), name="e")
    assert not seen


def test_an_ensemble_that_was_merged_of_implausible_numbers_is_refused_too(
    manifest_for: Callable[..., Any], parameters_of: Callable[..., Any]
):
    """With all digests as they must be: a stranger can compute them as well as merge can."""
    from exporter.ensemble import build_ensemble
    from exporter.manifest import sha256
    from exporter.read import BranchFile

    parameters = parameters_of(PLAN, "a1", seed=0)
    parameters["2.weight"] = np.full_like(parameters["2.weight"], np.nan)
    manifest = manifest_for(PLAN, "a1")
    data = build_branch(manifest, PLAN, parameters)
    file = BranchFile("f", manifest, PLAN, parameters, sha256(data), len(data))
    evil = build_ensemble([file], [[0.5, 0.5]], options=Options(), scale=1.0)
    with pytest.raises(IntegrityError, match=r"tensor a1\.cam01/2\.weight has \d+ numbers that"):
        members_of(evil, name="e")


def test_an_agent_rounds_denormal_numbers_to_0(branch: bytes):
    file = branch_from_bytes(branch, name="f")
    parameters = {name: array.copy() for name, array in file.parameters.items()}
    parameters["2.weight"].flat[:3] = [1e-39, -1e-45, 2e-38]
    manifest = file.manifest
    tolerant = export_branch_with(manifest, parameters)
    again = branch_from_bytes(tolerant, name="f").parameters["2.weight"].flat[:3]
    assert list(again) == [0, 0, np.float32(2e-38)]


def export_branch_with(manifest: Any, parameters: Any) -> bytes:
    """Export with the test vector that these numbers have."""
    from exporter._session import run
    from exporter.manifest import TestVector, vector_input

    spec = PLAN.branch(manifest.branch)
    inputs = vector_input(5, channels=PLAN.band_channels(spec), size=PLAN.band_size(spec))
    (logits,) = run(build_branch(manifest, PLAN, parameters), {"bands": inputs})
    rows = tuple(tuple(float(f"{v:.6g}") for v in row) for row in logits)
    told = manifest.model_copy(update={"test_vector": TestVector(seed=5, logits=rows)})
    return export_branch(told, PLAN, parameters)


def test_large_numbers_are_a_note_and_no_refusal(branch: bytes, tmp_path: Path):
    file = branch_from_bytes(branch, name="f")
    parameters = {name: array.copy() for name, array in file.parameters.items()}
    parameters["2.bias"][0] = 2000
    path = tmp_path / "f.onnx"
    path.write_bytes(export_branch_with(file.manifest, parameters))
    (note,) = merge_paths([path], options=Options()).warnings
    assert note.startswith("a1.box0: tensor 2.bias has numbers up to 2e+03; trained ones stay")


# -- what a plan asks for ---------------------------------------------------------------------


def test_a_plan_that_asks_for_all_the_memory_is_refused(manifest_for: Callable[..., Any]):
    plan = new_plan(classes=["a", "b"], resolution=4096, levels=1, channels=3, network="cnn-8")
    manifest = manifest_for(plan, plan.branches[-1].name)
    (reason,) = disagreements(manifest, plan)
    assert re.search(r"takes [\d,]+ numbers in memory for an image; a desk runs at most", reason)
    small = new_plan(classes=["a", "b"], resolution=1024, levels=1, channels=3, network="cnn-m")
    assert disagreements(manifest_for(small, small.branches[-1].name), small) == []


def test_a_plan_of_many_wrong_names_is_told_shortly():
    classes = [f"class {i}" for i in range(1500)]
    document = new_plan(classes=classes, resolution=4, levels=1).to_document()
    document["fusion"] = {"prior": {f"klass {i}": 1.0 for i in range(1500)}}
    document["branches"] = [
        {"name": f"b{i}", "bands": [f"cX{j}" for j in range(100)], "network": "cnn-s"}
        for i in range(500)
    ]
    with pytest.raises(Exception, match="is not a band") as caught:
        plan_from_document(document, where="t")
    assert len(str(caught.value)) < 20_000


def test_an_agent_writes_no_manifest_that_no_desk_reads(
    manifest_for: Callable[..., Any], parameters_of: Callable[..., Any]
):
    names = [f"{i:05}{':' * 190}" for i in range(600)]
    plan = new_plan(classes=names, resolution=4, levels=1, channels=1, network="mlp-s")
    with pytest.raises(CheckError, match=r"no desk would read its manifest: [\d,]+ keys; at most"):
        export_branch(manifest_for(plan, "a1"), plan, parameters_of(plan, "a1", seed=0))


# -- prediction -------------------------------------------------------------------------------


def test_prediction_refuses_a_graph_that_is_none_of_ours(ensemble: bytes):
    model = onnx.load_from_string(ensemble)
    model.graph.node.append(helper.make_node("Shape", ["image"], ["s"]))
    with pytest.raises(DataError, match="has operator 'Shape'; no file of edge-stl has"):
        Ensemble(model.SerializeToString())


def test_prediction_refuses_metadata_of_another_graph(ensemble: bytes):
    model = onnx.load_from_string(ensemble)
    (prop,) = [p for p in model.metadata_props if p.key == "edge_stl.ensemble"]
    record = json.loads(prop.value)
    record["plan"]["classes"].append("zebra")
    prop.value = canonical_json(record)
    with pytest.raises(DataError, match=r"its metadata is damaged .*a test vector"):
        Ensemble(model.SerializeToString())
    (vector,) = [p for p in model.metadata_props if p.key == "edge_stl.test_vector"]
    model.metadata_props.remove(vector)
    with pytest.raises(DataError, match="its graph and its metadata differ in what goes in"):
        Ensemble(model.SerializeToString())


def test_an_error_of_onnxruntime_is_one_sentence(ensemble: bytes):
    model = onnx.load_from_string(ensemble)
    pool = next(n for n in model.graph.node if n.op_type == "Gemm")
    weight = next(t for t in model.graph.initializer if t.name == pool.input[1])
    reshaped = onnx.load_from_string(ensemble)
    own = next(t for t in reshaped.graph.initializer if t.name == weight.name)
    rows, columns = own.dims
    del own.dims[:]
    own.dims.extend([columns, rows])
    with pytest.raises(DataError, match=r"ensemble: onnxruntime (stopped|cannot load it)"):
        Ensemble(reshaped.SerializeToString()).run(np.zeros((1, 4, 4, 1), np.uint8))


@pytest.mark.parametrize("what", ["pipe", "folder", "nothing", "loop", "large"])
def test_what_is_no_regular_file_is_refused_at_once(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "e.onnx"
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "loop":
        path.symlink_to(path)
    elif what == "large":
        path.write_bytes(b"12345")
        monkeypatch.setattr("edge_stl.predict._ensemble.MAX_FILE_BYTES", 4)
        monkeypatch.setattr("exporter.read.MAX_FILE_BYTES", 4)
    said = (
        "not a regular file|there is no such file|cannot be read|is a link, which is not followed|"
        "5 bytes; an .* has at most 4"
    )
    with pytest.raises(DataError, match=said):
        Ensemble(path)
    with pytest.raises(DataError, match=said):
        inspect_path(path)


def test_refused_is_a_value_error_so_that_no_caller_forgets_it():
    assert issubclass(Refused, ValueError)

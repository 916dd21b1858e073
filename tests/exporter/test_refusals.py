"""What is no branch file of this fleet is refused, with every reason at once."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, strategies as st
from onnx import TensorProto, helper, numpy_helper

from edge_stl.branch._calibrate import class_mean_log_loss
from edge_stl.branch._split import split_validation
from edge_stl.errors import CheckError, DataError, MergeRefused, UsageError
from edge_stl.plan import Plan, new_plan, plan_from_document
from exporter.branch import build_branch, export_branch
from exporter.manifest import sha256
from exporter.merge import Merged, merge_paths
from exporter.options import Options
from exporter.plausible import implausible_scores
from exporter.read import Unusable, branch_from_bytes, read_bytes


def plan_of(**changes: Any) -> Plan:
    facts: dict[str, Any] = {
        "classes": ["bus", "car", "van"],
        "resolution": 8,
        "levels": 1,
        "channels": 1,
        "network": "mlp-s",
    }
    return new_plan(**(facts | changes))


PLAN = plan_of()


@pytest.fixture(scope="module")
def good(fabricate: Callable[..., bytes]) -> bytes:
    return fabricate(PLAN, "a1", box="cam01", resolution=4)


def edited(data: bytes, change: Callable[[onnx.ModelProto], Any]) -> bytes:
    model = onnx.load_from_string(data)
    change(model)
    return model.SerializeToString(deterministic=True)


def reasons_of(data: bytes) -> list[str]:
    with pytest.raises(Unusable, match=r"\w") as caught:
        branch_from_bytes(data, name="a1.cam01.onnx")
    return caught.value.reasons


def meta(change: Callable[[str], str], key: str = "edge_stl.manifest") -> Callable[..., None]:
    def edit(model: onnx.ModelProto) -> None:
        (prop,) = [p for p in model.metadata_props if p.key == key]
        new = change(prop.value)
        assert new != prop.value
        prop.value = new

    return edit


def manifest(change: Callable[[dict[str, Any]], Any]) -> Callable[..., None]:
    def edit(text: str) -> str:
        document = json.loads(text)
        change(document)
        return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    return meta(edit)


def tensor(change: Callable[[TensorProto], Any]) -> Callable[..., None]:
    return lambda model: change(model.graph.initializer[0])


def _double(t: TensorProto) -> None:
    t.CopyFrom(numpy_helper.from_array(np.zeros(tuple(t.dims), np.float64), t.name))


def _half(t: TensorProto) -> None:
    t.CopyFrom(numpy_helper.from_array(np.zeros(tuple(t.dims), np.float16), t.name))


def _nan(t: TensorProto, value: float = float("nan")) -> None:
    array = numpy_helper.to_array(t).copy()
    array.flat[0] = value
    t.raw_data = array.tobytes()


def _typed(t: TensorProto) -> None:
    array = numpy_helper.to_array(t)
    t.ClearField("raw_data")
    t.float_data.extend(array.ravel().tolist())


def _external(t: TensorProto) -> None:
    t.data_location = TensorProto.EXTERNAL
    t.external_data.add(key="location", value="../../etc/passwd")


def _unknown(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), "spy"))


def _twice(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(model.graph.initializer[0])


def _reshape(t: TensorProto) -> None:
    t.dims.insert(0, 1)


def _drop(model: onnx.ModelProto) -> None:
    del model.graph.initializer[0]


def _counts(document: dict[str, Any], counts: list[int], part: str = "train") -> None:
    document["images"][part] = counts


NOT_CANONICAL = "not byte for byte what an agent writes"
EDITS: dict[str, tuple[Callable[[onnx.ModelProto], Any], str]] = {
    # tensors
    "missing tensor": (_drop, r"tensor 0\.scale is missing"),
    "unknown tensor": (_unknown, "tensor spy is unknown to the plan's network"),
    "tensor twice": (_twice, "a tensor name stands twice"),
    "wrong shape": (tensor(_reshape), r"tensor 0\.scale has shape \(1, 1, 1, 1\), the plan has"),
    "float16": (tensor(_half), r"tensor 0\.scale is not 1 float32 numbers of raw data"),
    "float64": (tensor(_double), r"is not 1 float32 numbers of raw data"),
    "float_data": (tensor(_typed), "has numbers that are not raw data; no file of edge-stl has"),
    "short raw data": (
        tensor(lambda t: setattr(t, "raw_data", t.raw_data[:-1])),
        "is not 1 float32 numbers",
    ),
    "external data": (tensor(_external), "has a tensor kept in another file"),
    "NaN": (tensor(_nan), r"tensor 0\.scale has 1 numbers that are NaN or infinite"),
    "infinite": (tensor(lambda t: _nan(t, float("-inf"))), "has 1 numbers that are NaN or inf"),
    # the form of the file
    "other numbers keep the form": (
        lambda m: m.graph.node[0].attribute.append(helper.make_attribute("axis", 1)),
        NOT_CANONICAL,
    ),
    "doc_string": (lambda m: setattr(m, "doc_string", "hello"), "has a doc_string"),
    "graph doc_string": (lambda m: setattr(m.graph, "doc_string", "hello"), "has a doc_string"),
    "another graph": (lambda m: setattr(m.graph.node[2], "op_type", "Log"), NOT_CANONICAL),
    "another operator": (lambda m: setattr(m.graph.node[2], "op_type", "Tanh"), "operator 'Tanh'"),
    "a node more": (
        lambda m: m.graph.node.append(helper.make_node("Identity", ["logits"], ["copy"])),
        NOT_CANONICAL,
    ),
    "another producer": (lambda m: setattr(m, "producer_name", "other"), NOT_CANONICAL),
    "metadata more": (lambda m: m.metadata_props.add(key="path", value="/home/x"), NOT_CANONICAL),
    "spaces in the manifest": (
        meta(lambda t: t.replace(",", ", ", 1)),
        "its manifest is damaged: not canonical: a space",
    ),
    "another opset": (lambda m: setattr(m.opset_import[0], "version", 18), NOT_CANONICAL),
    "another IR version": (lambda m: setattr(m, "ir_version", 13), NOT_CANONICAL),
    # the manifest
    "format": (meta(lambda _: "2", "edge_stl.format"), r"has format '2'; this version reads"),
    "kind": (meta(lambda _: "twig", "edge_stl.kind"), "not one of edge-stl"),
    "no JSON": (meta(lambda _: "{"), "its manifest is damaged"),
    "empty manifest": (meta(lambda _: ""), "its manifest is damaged"),
    "a list": (meta(lambda _: "[]"), "its manifest is damaged: the manifest has no plan"),
    "deep nesting": (meta(lambda _: "[" * 200_000), "its manifest is damaged"),
    "deep nesting in the plan": (
        meta(lambda _: '{"plan":' * 50_000 + "1" + "}" * 50_000),
        "its manifest is damaged",
    ),
    "NaN temperature": (
        meta(lambda t: t.replace('"temperature":1.3', '"temperature":NaN')),
        "its manifest is damaged",
    ),
    "infinite loss": (
        meta(lambda t: t.replace('"log_loss":0.5', '"log_loss":1e999')),
        "its manifest is damaged",
    ),
    "negative loss": (manifest(lambda d: d["validation"].update(log_loss=-9.0)), "log_loss"),
    "zero temperature": (manifest(lambda d: d.update(temperature=0.0)), "temperature"),
    "a key twice": (meta(lambda t: '{"box":"other",' + t[1:]), "key 'box' stands twice"),
    "a key missing": (manifest(lambda d: d.pop("temperature")), "temperature: is missing"),
    "a key more": (manifest(lambda d: d.update(path="/home/x")), "path: unknown key"),
    "a number too large": (
        meta(lambda t: t.replace('"seed":5', '"seed":' + "9" * 5000)),
        "its manifest is damaged",
    ),
    "negative count": (manifest(lambda d: _counts(d, [-1, 1, 1])), "images.train"),
    "counts of two classes": (
        manifest(lambda d: _counts(d, [1, 1])),
        r"images\.train counts 2 classes, the plan has 3",
    ),
    "validation of four classes": (
        manifest(lambda d: _counts(d, [1, 1, 1, 1], "validation")),
        r"images\.validation counts 4 classes",
    ),
    "no image at all": (manifest(lambda d: _counts(d, [0, 0, 0])), "counts no image at all"),
    "vector of one row": (
        manifest(lambda d: d["test_vector"].update(logits=[[0.0, 0.0, 0.0]])),
        r"test_vector\.logits is not 2 rows of 3 numbers",
    ),
    "another branch": (manifest(lambda d: d.update(branch="zz")), "branch 'zz' is not in its plan"),
    "another network": (manifest(lambda d: d.update(network="cnn-m")), "network is 'cnn-m'"),
    "a resolution of no box": (
        manifest(lambda d: d.update(native_resolution=5)),
        "native resolution 5 is none of the plan's",
    ),
    "a resolution too coarse": (
        manifest(lambda d: d.update(branch="d1", native_resolution=4)),
        "native resolution 4 does not carry branch d1, which needs 8",
    ),
    "a box with a path": (manifest(lambda d: d.update(box="../x")), "box: '../x'"),
    "a box in capitals": (manifest(lambda d: d.update(box="CAM")), "box: 'CAM'"),
    "a plan that is none": (manifest(lambda d: d["plan"].pop("classes")), "its plan: classes"),
    "another digest": (
        manifest(lambda d: d.update(plan_digest="0" * 64)),
        "says plan digest 000000000000",
    ),
    "another box": (manifest(lambda d: d.update(box="cam02")), NOT_CANONICAL),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_file_is_refused_and_says_why(name: str, good: bytes):
    change, said = EDITS[name]
    text = "; ".join(reasons_of(edited(good, change)))
    if name == "another box":  # the graph's name is the id, so this one cannot pass unseen
        assert NOT_CANONICAL in text
        return
    assert re.search(said, text), text
    assert "\n" not in text


def test_every_reason_is_given_at_once(good: bytes):
    def spoil(model: onnx.ModelProto) -> None:
        _unknown(model)
        _reshape(model.graph.initializer[0])
        _nan(model.graph.initializer[1])
        del model.graph.initializer[2]

    assert len(reasons_of(edited(good, spoil))) == 4

    def lie(document: dict[str, Any]) -> None:
        document.update(plan_digest="0" * 64, network="cnn-m", native_resolution=7)
        document["images"].update(train=[1], validation=[1])

    assert len(reasons_of(edited(good, manifest(lie)))) == 5


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is not an ONNX file, or is truncated"),
        (b"just some text, which is not a model\n", "is not an ONNX file, or is truncated"),
        (b"\x00" * 100, "is not an ONNX file, or is truncated"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "is not an ONNX file, or is truncated"),
    ],
)
def test_what_is_no_model_is_refused(data: bytes, said: str):
    assert reasons_of(data) == [said]


def test_a_truncated_file_is_refused_wherever_it_ends(good: bytes):
    for length in range(0, len(good), max(1, len(good) // 60)):
        assert reasons_of(good[:length])


def test_a_file_saved_again_by_onnx_is_refused(good: bytes, tmp_path: Path):
    model = onnx.load_from_string(good)
    model.producer_version = "a tool"
    onnx.save(model, tmp_path / "a.onnx")
    assert reasons_of((tmp_path / "a.onnx").read_bytes()) == [
        "has a producer version; no file of edge-stl has"
    ]


def test_an_ensemble_and_a_foreign_model_are_named(good: bytes, tmp_path: Path):
    path = tmp_path / "a1.cam01.onnx"
    path.write_bytes(good)
    ensemble = merge_paths([path], options=Options()).model
    assert reasons_of(ensemble)[0].startswith("is an ensemble; expected a branch file")
    node = helper.make_node("Relu", ["x"], ["y"])
    io = [helper.make_tensor_value_info(n, 1, [1]) for n in "xy"]
    foreign = helper.make_model(helper.make_graph([node], "g", io[:1], io[1:]))
    assert "not one of edge-stl" in reasons_of(foreign.SerializeToString())[0]


def test_a_file_above_the_plans_cap_is_refused(fabricate: Callable[..., bytes]):
    document = PLAN.to_document() | {"limits": {"max_branch_bytes": 1000}}
    data = fabricate(plan_from_document(document, where="t"), "a1")
    (reason,) = reasons_of(data)
    assert reason.startswith(f"has {len(data)} bytes; its plan allows 1000")


def test_what_is_no_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(DataError, match="there is no such file; expected an ONNX file"):
        read_bytes(tmp_path / "nothing.onnx")
    with pytest.raises(DataError, match="not a regular file"):
        read_bytes(tmp_path)
    (tmp_path / "big").write_bytes(b"12345")
    monkeypatch.setattr("exporter.read.MAX_FILE_BYTES", 4)
    with pytest.raises(DataError, match=r"5 bytes; an ONNX file has at most 4"):
        read_bytes(tmp_path / "big")


# -- files that do not fit each other -----------------------------------------------------------


Fleet = Callable[..., Path]


@pytest.fixture
def place(fabricate: Callable[..., bytes], tmp_path: Path) -> Fleet:
    """Write a branch file and return its path."""

    def write(plan: Plan = PLAN, branch: str = "a1", box: str = "cam01", **facts: Any) -> Path:
        path = tmp_path / f"{branch}.{box}-{len(list(tmp_path.iterdir()))}.onnx"
        path.write_bytes(fabricate(plan, branch, box=box, **facts))
        return path

    return write


def merged(paths: list[Path], *, skip: bool = False) -> Merged:
    return merge_paths(paths, options=Options(), skip_refused=skip)


OTHER_PLANS: dict[str, tuple[Plan, str]] = {
    "name": (plan_of(name="other"), r"was made under another plan \(digest [0-9a-f]{12}, the oth"),
    "order": (plan_of(classes=["car", "bus", "van"]), "its classes are in another order"),
    "classes": (plan_of(classes=["bus", "car", "ox"]), r"differ: more \['ox'\], missing \['van'\]"),
    "transform": (plan_of(transform="db2"), r"its \[transform\] differs"),
    "input": (plan_of(channels=3), r"its \[input\] differs"),
    "augment": (plan_of(flip=False), r"its \[augment\] differs"),
    "network": (plan_of(network="cnn-xs"), r"its \[branches\] differs"),
    "epochs": (plan_of(epochs=3), r"its \[training\] differs"),
}


@pytest.mark.parametrize("name", OTHER_PLANS)
def test_a_file_of_another_plan_is_refused_with_what_differs(name: str, place: Fleet):
    plan, said = OTHER_PLANS[name]
    paths = [place(), place(box="cam02"), place(plan, box="cam03")]
    with pytest.raises(MergeRefused, match=said) as caught:
        merged(paths)
    assert "1 of 3 files refused" in str(caught.value)
    assert "merge the other 2 with --skip-refused" in str(caught.value)
    went_on = merged(paths, skip=True)
    assert went_on.model == merged(paths[:2]).model
    assert [r.file for r in went_on.refused] == [paths[2].name]


def test_a_tie_of_plans_is_said_and_does_not_depend_on_the_order(place: Fleet):
    paths = [place(), place(plan_of(epochs=3), box="cam02")]
    with pytest.raises(MergeRefused, match="as many files have the one plan as the other"):
        merged(paths)
    assert merged(paths, skip=True).model == merged(paths[::-1], skip=True).model


def test_copies_of_a_file_do_not_outvote_a_plan(place: Fleet):
    """Votes are branches, not files: naming one file three times makes it no majority."""
    lone = place(plan_of(epochs=3), box="cam09")
    paths = [place(), place(box="cam02"), lone, lone, lone]
    assert {f.plan.digest for f in merged(paths, skip=True).files} == {PLAN.digest}


def test_the_same_bytes_twice_count_once(place: Fleet, tmp_path: Path):
    path = place()
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(path.read_bytes())
    twice = merged([path, path, copy])
    assert twice.model == merged([path]).model
    assert not twice.refused


def test_two_different_files_of_one_box_are_both_refused_with_their_digests(place: Fleet):
    old, new, other = place(seed=1), place(seed=2), place(box="cam02")
    with pytest.raises(MergeRefused, match=r"2 of 3 files refused: .* keep the one its box made"):
        merged([old, new, other])
    went_on = merged([old, new, other], skip=True)
    assert [f.manifest.box for f in went_on.files] == ["cam02"]
    assert {r.file for r in went_on.refused} == {old.name, new.name}
    for refusal in went_on.refused:
        for path in (old, new):
            assert sha256(path.read_bytes())[:12] in refusal.reasons[0]


def test_all_refused_files_are_named_and_none_is_lost(place: Fleet, tmp_path: Path):
    good = place()
    bad = {"empty.onnx": b"", "text.onnx": b"hello", "cut.onnx": good.read_bytes()[:-20]}
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
    paths = [tmp_path / name for name in bad] + [good, tmp_path / "absent.onnx"]
    with pytest.raises(MergeRefused, match="4 of 5 files refused") as caught:
        merged(paths)
    assert all(name in str(caught.value) for name in (*bad, "absent.onnx"))
    assert "\n" not in str(caught.value)
    assert merged(paths, skip=True).model == merged([good]).model
    with pytest.raises(MergeRefused, match="no file may be merged"):
        merged(paths[:3], skip=True)


def test_a_plan_without_weights_cannot_be_merged_by_them(place: Fleet):
    with pytest.raises(UsageError, match="--weights plan: the plan declares no weights"):
        merge_paths([place()], options=Options(weights="plan"))


def test_plan_weights_of_zero_for_all_given_are_refused(fabricate: Callable, tmp_path: Path):
    document = PLAN.to_document() | {"fusion": {"weights": {"a1": 0.0, "d1": 1.0}}}
    (tmp_path / "a").write_bytes(fabricate(plan_from_document(document, where="t"), "a1"))
    with pytest.raises(UsageError, match=r"--weights plan: .* are 0 for every branch given"):
        merge_paths([tmp_path / "a"], options=Options(weights="plan"))


# -- what an agent may not write ----------------------------------------------------------------


def test_a_network_that_diverged_is_not_exported(parameters_of: Callable, manifest_for: Callable):
    parameters = parameters_of(PLAN, "a1", seed=0)
    parameters["2.weight"] = parameters["2.weight"].copy()
    parameters["2.weight"].flat[3] = np.nan
    with pytest.raises(CheckError, match=r"tensor 2\.weight has numbers that are not finite"):
        export_branch(manifest_for(PLAN, "a1"), PLAN, parameters)


def test_an_export_that_computes_otherwise_is_refused(
    parameters_of: Callable, manifest_for: Callable
):
    manifest = manifest_for(PLAN, "a1", logits=[[5.0, 0, 0], [0, 0, 0]])
    with pytest.raises(CheckError, match=r"onnxruntime and torch differ by .* on the test vector"):
        export_branch(manifest, PLAN, parameters_of(PLAN, "a1", seed=0))
    assert build_branch(manifest, PLAN, parameters_of(PLAN, "a1", seed=0))


# -- images and scores that cannot both be true ---------------------------------------------------

IMPOSSIBLE: dict[str, tuple[dict[str, Any], str]] = {
    "a class it never trained on": (
        {"train": [9, 0, 9], "validation": [1, 1, 1]},
        r"images\.validation counts 1 of 'car', of which images\.train counts 0; a box holds back",
    ),
    "more than half of a class": (
        {"train": [9, 9, 9], "validation": [1, 11, 1]},
        r"images\.validation counts 11 of 'car', of which images\.train counts 9",
    ),
    "a million of each": (
        {"train": [9, 9, 9], "validation": [10**6] * 3},
        r"counts 1000000 of 'bus'.*counts 1000000 of 'van', of which",
    ),
    "a score without images": (
        {"validation": [0, 0, 0], "accuracy": 0.9, "log_loss": 1.0987},
        r"validation\.accuracy is 0\.9, and images\.validation counts nothing",
    ),
    "a loss without images": (
        {"validation": [0, 0, 0], "accuracy": None, "log_loss": 0.5},
        r"validation\.log_loss is 0\.5, with no validation image of 3 of 3 classes, .*1\.09861 at",
    ),
    "a loss below that of the classes left out": (
        {"validation": [1, 0, 1], "accuracy": 1.0, "log_loss": 0.36},
        r"log_loss is 0\.36, with no validation image of 1 of 3 classes, .*0\.366204 at least",
    ),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_images_and_scores_that_cannot_both_be_true_are_refused(name: str, good: bytes):
    facts, said = IMPOSSIBLE[name]

    def lie(document: dict[str, Any]) -> None:
        for key in {"train", "validation"} & facts.keys():
            document["images"][key] = facts[key]
        for key in {"accuracy", "log_loss"} & facts.keys():
            document["validation"][key] = facts[key]

    (text,) = ["; ".join(reasons_of(edited(good, manifest(lie))))]
    assert re.search(said, text), text
    assert "not byte for byte" not in text


def test_a_lie_about_thousands_of_classes_is_told_shortly():
    reasons = implausible_scores(
        [0] * 2000, [1] * 2000, accuracy=None, log_loss=0.0, classes=[str(c) for c in range(2000)]
    )
    assert len(reasons) == 11
    assert reasons[-1] == "1990 more of the kind"


@given(
    counts=st.lists(st.integers(0, 60), min_size=1, max_size=6).filter(any),
    share=st.floats(0, 0.5),
    seed=st.integers(0, 5),
    floor=st.sampled_from([0, 3, 10]),
)
def test_what_an_honest_box_counts_and_scores_is_never_refused(
    counts: list[int], share: float, seed: int, floor: int
):
    """By the agent's own split and loss, on answers as good and as bad as can be."""
    labels = np.repeat(np.arange(len(counts)), counts)
    train, held = split_validation(labels, share=share, seed=seed)
    published = [
        [max(int(n), floor) if n else 0 for n in np.bincount(labels[part], minlength=len(counts))]
        for part in (train, held)
    ]
    seen = tuple(c for c, n in enumerate(published[0]) if n)
    best = np.eye(len(counts))[labels[held]]
    for answers in (best, 1 - best, np.full(best.shape, 1 / len(counts))):
        loss = class_mean_log_loss(answers, labels[held], seen)
        found = implausible_scores(
            *published,
            accuracy=1.0 if len(held) else None,
            log_loss=float(f"{loss:.6g}"),
            classes=[str(c) for c in range(len(counts))],
        )
        assert found == []

"""The same branch files give the same bytes, in any order and there and back."""

import json
import re
import socket
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest

from edge_stl.errors import DataError, IntegrityError, MergeRefused, UsageError
from edge_stl.fusion import DATA_FREE
from edge_stl.plan import Plan, new_plan
from edge_stl.predict import Ensemble
from exporter import names
from exporter.branch import build_branch
from exporter.ensemble import build_ensemble
from exporter.inspect import inspect_path
from exporter.manifest import Images, canonical_json, sha256
from exporter.merge import change_ensemble, merge_paths
from exporter.options import Layout, Options
from exporter.read import BranchFile, branch_from_bytes
from exporter.split import branch_bytes, ensemble_record, members_of
from exporter.verify import check_path


CLASSES = ["bus", "car", "van"]


def plan_of(**changes: Any) -> Plan:
    facts: dict[str, Any] = {
        "classes": CLASSES,
        "resolution": 16,
        "channels": 1,
        "branches": "context",
        "network": "mlp-s",
    }
    return new_plan(**(facts | changes))


@pytest.fixture(scope="module")
def files(
    fabricate_fleet: Callable[..., list[Path]], tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    """The branch files of four boxes at three native resolutions."""
    return fabricate_fleet(plan_of(), tmp_path_factory.mktemp("fleet"))


@pytest.fixture(scope="module")
def ensemble(files: list[Path]) -> bytes:
    return merge_paths(files, options=Options()).model


def test_twenty_random_orders_give_the_same_bytes(files: list[Path], ensemble: bytes):
    rng = np.random.default_rng(3)
    digests = {
        merge_paths([files[i] for i in rng.permutation(len(files))], options=Options()).sha256
        for _ in range(20)
    }
    assert digests == {sha256(ensemble)}


def test_file_names_do_not_matter(files: list[Path], ensemble: bytes, tmp_path: Path):
    renamed = []
    for i, file in enumerate(files):
        renamed.append(tmp_path / f"copy ({len(files) - i}).bin")
        renamed[-1].write_bytes(file.read_bytes())
    assert merge_paths(renamed, options=Options()).model == ensemble


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize("transform", ["haar", "db4", "bior4.4", "dct:4"])
def test_split_gives_every_branch_file_back_byte_for_byte(
    transform: str,
    layout: Any,
    fabricate_fleet: Callable[..., list[Path]],
    tmp_path: Path,
):
    given = fabricate_fleet(plan_of(transform=transform), tmp_path)
    merged = merge_paths(given, options=Options(layout=layout))
    content = members_of(merged.model, name="e.onnx")
    assert content.options == Options(layout=layout)
    assert content.weights == merged.weights
    back = {file.name: branch_bytes(file) for file in content.files}
    assert back == {path.name: path.read_bytes() for path in given}


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize("rule", ["reliability", "uniform", "geometric"])
def test_removing_a_box_equals_merging_without_it(layout: Any, rule: str, files: list[Path]):
    options = Options(weights=rule, layout=layout)
    ensemble = merge_paths(files, options=options).model
    for gone in ("box0", "box2", "a2.box1", "c1.box3"):
        rest = [p for p in files if p.stem != gone and p.stem.split(".")[1] != gone]
        assert len(rest) < len(files)
        without = merge_paths(rest, options=options)
        assert change_ensemble(ensemble, name="e", remove=[gone]).model == without.model


def test_a_removed_box_leaves_no_trace(files: list[Path], ensemble: bytes):
    assert b"box2" in ensemble
    numbers = branch_from_bytes(next(p for p in files if "box2" in p.name).read_bytes(), name="f")
    trace = numbers.parameters["2.weight"].tobytes()[:64]
    assert trace in ensemble
    changed = change_ensemble(ensemble, name="e", remove=["box2"]).model
    assert b"box2" not in changed
    assert trace not in changed


def test_removing_several_and_adding_one_equals_merging_what_is_left(
    files: list[Path], ensemble: bytes
):
    back = next(p for p in files if p.stem == "a2.box0")
    rest = [p for p in files if "box0" not in p.name and "box3" not in p.name]
    changed = change_ensemble(ensemble, name="e", remove=["box0", "box3"], add=[back])
    assert changed.sha256 == merge_paths([*rest, back], options=Options()).sha256
    assert len(changed.files) == len(rest) + 1


def test_adding_a_file_equals_merging_with_it_and_adding_it_again_changes_nothing(
    files: list[Path], ensemble: bytes
):
    fewer = merge_paths(files[1:], options=Options()).model
    assert change_ensemble(fewer, name="e", add=files[:1]).model == ensemble
    assert change_ensemble(ensemble, name="e", add=files[:1]).model == ensemble


def test_a_change_may_choose_other_options(files: list[Path], ensemble: bytes):
    options = Options(weights="uniform", layout="nchw")
    rest = [p for p in files if "box1" not in p.name]
    changed = change_ensemble(ensemble, name="e", remove=["box1"], options=options)
    assert changed.model == merge_paths(rest, options=options).model
    assert members_of(changed.model, name="e").options == options


@pytest.mark.parametrize("identity", ["box9", "c1", "c1.box9", "", "BOX0"])
def test_an_id_that_is_not_in_the_ensemble_is_refused_with_those_that_are(
    identity: str, ensemble: bytes
):
    with pytest.raises(UsageError, match=r"--remove .*: neither a box nor a branch .* box0, box1"):
        change_ensemble(ensemble, name="e", remove=[identity])


def test_an_ensemble_without_a_branch_is_not_made(ensemble: bytes):
    with pytest.raises(UsageError, match=r"removing .* leaves no branch; delete the file"):
        change_ensemble(ensemble, name="e", remove=["box0", "box1", "box2", "box3"])


def test_a_file_of_another_plan_cannot_be_added(
    ensemble: bytes, fabricate: Callable[..., bytes], tmp_path: Path
):
    other = tmp_path / "a2.box7.onnx"
    other.write_bytes(fabricate(plan_of(name="other"), "a2", box="box7"))
    with pytest.raises(MergeRefused, match=r"a2\.box7\.onnx: was made under another plan"):
        change_ensemble(ensemble, name="e", add=[other])
    same = change_ensemble(ensemble, name="e", add=[other], skip_refused=True)
    assert same.model == ensemble


def tampered(ensemble: bytes, change: Callable[[onnx.ModelProto], None]) -> bytes:
    model = onnx.load_from_string(ensemble)
    change(model)
    return model.SerializeToString(deterministic=True)


def _flip(model: onnx.ModelProto) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == "c1.box0/2.weight")
    raw = bytearray(tensor.raw_data)
    raw[5] ^= 1
    tensor.raw_data = bytes(raw)


def _record(model: onnx.ModelProto, old: str, new: str) -> None:
    (prop,) = [p for p in model.metadata_props if p.key == "edge_stl.ensemble"]
    assert old in prop.value
    prop.value = prop.value.replace(old, new, 1)


def _unlist(model: onnx.ModelProto) -> None:
    (prop,) = [p for p in model.metadata_props if p.key == "edge_stl.ensemble"]
    record = json.loads(prop.value)
    del record["members"][-1]
    prop.value = json.dumps(record)


def _replace_record(model: onnx.ModelProto, text: str) -> None:
    (prop,) = [p for p in model.metadata_props if p.key == "edge_stl.ensemble"]
    prop.value = text


def _shorten(model: onnx.ModelProto) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == "c1.box0/2.weight")
    tensor.raw_data = tensor.raw_data[:-4]


def _drop_tensor(model: onnx.ModelProto) -> None:
    del model.graph.initializer[
        next(i for i, t in enumerate(model.graph.initializer) if t.name == "c1.box0/2.weight")
    ]


TAMPERED: dict[str, tuple[Callable[[onnx.ModelProto], None], str]] = {
    "a weight byte": (_flip, r"c1\.box0 comes back as .*, recorded is"),
    "a short tensor": (_shorten, r"tensor c1\.box0/2\.weight is not \d+ float32"),
    "no tensor": (_drop_tensor, r"tensor c1\.box0/2\.weight is missing"),
    "a count": (lambda m: _record(m, '"train":[5,8,11]', '"train":[5,9,11]'), "comes back as"),
    "a box": (lambda m: _record(m, '"box":"box0"', '"box":"boxx"'), r"a2\.boxx"),
    "a plan digest": (lambda m: _record(m, '"plan_digest":"', '"plan_digest":"0'), "plan_digest"),
    "no plan": (lambda m: _record(m, '"plan":{', '"plam":{'), "its record is incomplete"),
    "a class": (lambda m: _record(m, '"bus"', '"bug"'), "says plan digest"),
    "no option": (lambda m: _record(m, '"options":{', '"options":{"x":1,'), "incomplete"),
    "no JSON": (lambda m: _record(m, "{", "["), "its record is incomplete or wrong"),
    "no table": (lambda m: _replace_record(m, "[]"), "its record is incomplete or wrong"),
    "deep nesting": (
        lambda m: _replace_record(m, "[" * 100_000),
        "its record is incomplete or wrong",
    ),
}


OVERLOOKED: dict[str, tuple[Callable[[onnx.ModelProto], None], str]] = {
    "a member left out": (_unlist, "changed after it was merged"),
    "a rule nobody knows": (lambda m: _record(m, '"reliability"', '"magic"'), "changed after"),
    "a layout nobody knows": (lambda m: _record(m, '"nhwc"', '"hwnc"'), "changed after"),
}


@pytest.mark.parametrize("change", OVERLOOKED)
def test_an_ensemble_whose_record_hides_or_invents_something_is_not_split(
    change: str, ensemble: bytes
):
    edit, said = OVERLOOKED[change]
    with pytest.raises(IntegrityError, match=said):
        members_of(tampered(ensemble, edit), name="e.onnx")


def _first_weights(model: onnx.ModelProto, new: str) -> None:
    """Put something else in the place of the weights of the first member, ``a2.box0``."""
    (prop,) = [p for p in model.metadata_props if p.key == "edge_stl.ensemble"]
    prop.value, count = re.subn(r'"weights":\[[^]]*\]', new, prop.value, count=1)
    assert count == 1


WEIGHTS = {
    "one too few": ('"weights":[0.5,0.5]', "[0.5, 0.5]"),
    "one too many": ('"weights":[0,0,0,0]', "[0, 0, 0, 0]"),
    "a negative one": ('"weights":[0.5,-0.5,0.5]', "[0.5, -0.5, 0.5]"),
    "more than the graph can hold": ('"weights":[1e+39,0,0]', "[1e+39, 0, 0]"),
    "a text": ('"weights":"111"', "111"),
    "texts": ('"weights":["1","1","1"]', "['1', '1', '1']"),
    "truths": ('"weights":[true,true,true]', "[True, True, True]"),
    "one number": ('"weights":0.5', "0.5"),
    "nothing": ('"weights":null', "None"),
}
NO_JSON = {
    "no number": ('"weights":[NaN,0,0]', "NaN is no number of JSON"),
    "no end": ('"weights":[Infinity,0,0]', "Infinity is no number of JSON"),
    "more than a float can hold": ('"weights":[1e999,0,0]', "number 1e999 is out of range"),
    "too many digits": (f'"weights":[1{"0" * 400},0,0]', "an integer of 401 characters"),
    "a key nobody knows": ('"x":1', r"unknown keys \['x'\]; a newer edge-stl may know them"),
}


@pytest.mark.parametrize("damage", NO_JSON)
def test_what_no_merge_writes_into_a_record_is_damage(damage: str, ensemble: bytes):
    new, told = NO_JSON[damage]
    with pytest.raises(IntegrityError, match=rf"^e\.onnx: its record is incomplete.*\({told}"):
        members_of(tampered(ensemble, lambda m: _first_weights(m, new)), name="e.onnx")


@pytest.mark.parametrize("damage", WEIGHTS)
def test_weights_that_cannot_be_are_damage_and_told_with_their_branch(damage: str, ensemble: bytes):
    new, told = WEIGHTS[damage]
    said = (
        rf"^e\.onnx: its record is incomplete or wrong \(a2\.box0: weights {re.escape(told)}; "
        r"expected 3 numbers, none negative.*\); the file was changed after it was merged\. Merge"
    )
    with pytest.raises(IntegrityError, match=said) as caught:
        members_of(tampered(ensemble, lambda m: _first_weights(m, new)), name="e.onnx")
    assert caught.value.exit_code == 60


def test_a_weight_in_the_record_alone_is_damage(fabricate: Callable[..., bytes], tmp_path: Path):
    """The graph has no number for a class that the box never saw; inspect would tell it."""
    paths = []
    for box, counts, ids in (("cam01", (4, 0, 6), [1]), ("cam02", (0, 9, 0), [0, 1, 2])):
        paths.append((tmp_path / box, ids))
        paths[-1][0].write_bytes(fabricate(plan_of(), "a2", box=box, counts=counts))
    ensemble = merge_paths([p for p, _ in paths], options=Options()).model
    for member, (_, unseen) in enumerate(paths):
        for c in unseen:
            model = onnx.load_from_string(ensemble)
            record = ensemble_record(model, name="e")
            record["members"][member]["weights"][c] = 0.25
            _replace_record(model, canonical_json(record))
            changed = model.SerializeToString(deterministic=True)
            with pytest.raises(IntegrityError, match=r"and 0 where it does not speak for a class"):
                members_of(changed, name="e.onnx")


@pytest.mark.parametrize("new", ["0", "-1", '"1"', "true", "null", "1e+39"])
def test_a_scale_that_cannot_be_is_damage(new: str, ensemble: bytes):
    scale = members_of(ensemble, name="e").scale
    changed = tampered(ensemble, lambda m: _record(m, f'"scale":{scale}', f'"scale":{new}'))
    with pytest.raises(IntegrityError, match=r"scale .*; expected a number above 0.*was changed"):
        members_of(changed, name="e.onnx")


def test_an_ensemble_of_an_earlier_version_is_refused_with_what_to_do_and_still_predicts(
    ensemble: bytes, tmp_path: Path
):
    """One weight for all classes was what a member had."""
    old = tampered(ensemble, lambda m: _first_weights(m, '"weight":0.5'))
    with pytest.raises(
        IntegrityError,
        match=r"^e\.onnx: was merged by an earlier version of edge-stl, which gave a2\.box0 one "
        r"weight for all classes; expected one per class\. Merge its branch files again, which "
        r"stay valid; the version that wrote it gives them back$",
    ):
        members_of(old, name="e.onnx")
    (tmp_path / "e.onnx").write_bytes(old)
    with pytest.raises(IntegrityError, match="earlier version"):
        inspect_path(tmp_path / "e.onnx")
    (finding,) = check_path(tmp_path / "e.onnx")
    assert "was merged by an earlier version" in finding.what
    images = np.zeros((2, 16, 16, 1), np.uint8)
    assert np.array_equal(Ensemble(old)(images), Ensemble(ensemble)(images))


@pytest.mark.parametrize("change", TAMPERED)
def test_an_ensemble_that_was_changed_is_not_split(change: str, ensemble: bytes):
    edit, said = TAMPERED[change]
    with pytest.raises(IntegrityError, match=said):
        members_of(tampered(ensemble, edit), name="e.onnx")


def test_a_branch_file_is_not_split(files: list[Path]):
    with pytest.raises(DataError, match=r"e\.onnx: is a branch file; expected an ensemble"):
        members_of(files[0].read_bytes(), name="e.onnx")


def test_inspect_tells_what_was_merged(files: list[Path], ensemble: bytes, tmp_path: Path):
    path = tmp_path / "e.onnx"
    path.write_bytes(ensemble)
    document = inspect_path(path)
    assert document["kind"] == "ensemble"
    assert document["classes"] == CLASSES
    assert (document["opset"], document["ir_version"], document["format"]) == (17, 8, 1)
    assert document["sha256"] == sha256(ensemble)
    assert document["plan_digest"] == plan_of().digest
    recorded = {f"{r['branch']}.{r['box']}.onnx": r["sha256"] for r in document["branches"]}
    assert recorded == {p.name: sha256(p.read_bytes()) for p in files}
    content = members_of(ensemble, name="e")
    assert document["scale"] == content.scale > 0
    assert [r["weight"] for r in document["branches"]] == [
        pytest.approx(sum(own) / 3) for own in content.weights
    ]
    assert sum(r["weight"] for r in document["branches"]) == pytest.approx(1, abs=1e-5)
    (own,) = inspect_path(files[0])["branches"]
    assert own["images_per_class"] == [5, 8, 11]
    assert (own["images"], own["classes_seen"]) == (24, 3)


GOLDEN_BRANCH = "5686131cc47013042fc21cac30c0ad23212ca61f68a0de252bd0641ae81e7b11"
GOLDEN_ENSEMBLE = {
    "nhwc": "2346053cbdc43b2868818c26ae8e208870c65641b5769f1c815a59ea5a51b1e2",
    "nchw": "172e8b76c30750e510a618f6b01b713e7f5fb8fe1e66567edf4bbb96ee4af410",
}


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_the_bytes_of_a_fixed_set_never_change(
    layout: Any,
    parameters_of: Callable[..., Any],
    manifest_for: Callable[..., Any],
):
    """Old branch files must rebuild to their own bytes, or `split` and `--remove` break for all.

    If the bytes change on purpose: raise ``BUILDER`` in ``exporter/names.py``, keep the old
    builder for files that say the old number (with these digests), and add the new digests
    beside them. Only before the first release may a digest simply be replaced.
    """
    plan = plan_of(channels=3, branches="detail", transform="db2")
    built = []
    for box, name, resolution, counts in [
        ("cam01", "a2", 4, (4, 0, 6)),
        ("cam02", "d2", 8, (3, 2, 1)),
        ("cam03", "d1", 16, (0, 9, 0)),
    ]:
        # Two of them count validation images of classes they never saw, as no reader takes any
        # more; these digests are older than that, and they are about building alone.
        images = Images(train=counts, validation=(1, 1, 1))
        manifest = manifest_for(plan, name, box=box, resolution=resolution, images=images)
        parameters = parameters_of(plan, name, seed=7)
        data = build_branch(manifest, plan, parameters)
        built.append(BranchFile(name, manifest, plan, parameters, sha256(data), len(data)))
    assert built[1].sha256 == GOLDEN_BRANCH
    weights = ((0.5, 0.0, 0.375), (0.5, 1.0, 0.625), (0.0, 0.0, 0.0))
    model = build_ensemble(
        built, weights, options=Options(layout=layout), scale=0.875, made_by="0.0.0"
    )
    assert sha256(model) == GOLDEN_ENSEMBLE[layout]


def test_the_names_a_record_may_hold_are_those_that_merge_knows():
    assert set(names.WEIGHT_RULES) == {*DATA_FREE, "plan", names.FITTED}
    assert set(names.LAYOUTS) == set(get_args(Layout))


def test_options_are_all_recorded():
    """A new option that the record forgets would make `--remove` merge otherwise."""
    for options in (
        Options(),
        Options(weights="geometric", layout="nchw", resolution=8),
        Options(layout="nchw", resolution=4, robust="median"),
        Options(weights="uniform", resolution=8, threshold=0.0),
        Options(weights="fitted", cascade_loss=0.01),
    ):
        assert Options(**options.to_document()) == options
    every = {"weights", "layout", "resolution", "robust", "threshold", "cascade_loss"}
    assert {field.name for field in fields(Options)} == every
    assert Options().to_document() == {"weights": "reliability", "layout": "nhwc"}


@pytest.mark.slow
def test_a_branch_file_tells_nothing_of_its_box_but_what_the_manifest_says(
    pictures: Callable[..., Path], tmp_path: Path
):
    """No path, no host name, no image name, no time; trained for real from a telling folder."""
    from device_agent.job import Job, run_job

    folder = pictures(
        tmp_path / "secret-yard" / "frau-mueller",
        CLASSES,
        count=6,
        names="zitronenfalter-{:03}.png",
    )
    job = Job(
        plan=plan_of(channels=3, epochs=1, branches="single", levels=0),
        images=folder,
        out=tmp_path / "telling-out",
        work=tmp_path / "telling-work",
        box="cam07",
    )
    (row,) = run_job(job)
    data = Path(row.file).read_bytes().lower()
    for word in ("zitronenfalter", "mueller", "secret", "telling", str(tmp_path), "/tmp", ".png"):  # noqa: S108
        assert word.encode() not in data
    host = socket.gethostname().lower()
    if len(host) > 3:
        assert host.encode() not in data
    model = onnx.load_from_string(Path(row.file).read_bytes())
    assert {p.key for p in model.metadata_props} == {
        "edge_stl.format",
        "edge_stl.kind",
        "edge_stl.manifest",
    }
    assert not model.doc_string
    assert not any(n.doc_string or n.metadata_props for n in model.graph.node)

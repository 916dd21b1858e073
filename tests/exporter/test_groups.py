"""Branch files that boxes trained together: what they may say, and how they leave an ensemble."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from edge_stl.errors import UsageError
from edge_stl.plan import new_plan
from exporter.branch import build_branch
from exporter.cotrained import Cotrained, Method
from exporter.inspect import inspect_path
from exporter.manifest import Manifest, manifest_of, manifest_text
from exporter.merge import change_ensemble, merge_paths
from exporter.options import Options
from exporter.read import Unusable, branch_from_bytes
from exporter.split import branch_bytes, members_of


PLAN = new_plan(classes=["bus", "car", "van"], resolution=16, channels=1, levels=1, network="mlp-s")
GROUP = Cotrained(method="jwins", boxes=("cam01", "cam02", "cam03"), rounds=50, graph="ring")


@pytest.fixture
def boxes(fabricate: Callable[..., bytes], tmp_path: Path) -> Callable[..., list[Path]]:
    """Write branch files, ``branch.box`` to the group that made it or none."""

    def write(**groups: Cotrained | None) -> list[Path]:
        paths = []
        for seed, (identity, made) in enumerate(groups.items()):
            branch, _, box = identity.partition("_")
            box = box.replace("_", "-")
            path = tmp_path / f"{branch}.{box}.onnx"
            path.write_bytes(fabricate(PLAN, branch, box=box, cotrained=made, seed=seed))
            paths.append(path)
        return paths

    return write


def ensemble_of(paths: list[Path]) -> bytes:
    return merge_paths(paths, options=Options()).model


def ids_of(model: bytes) -> list[str]:
    return [f.manifest.id for f in members_of(model, name="e").files]


def test_a_group_file_is_read_merged_and_given_back_with_all_it_says(
    boxes: Callable[..., list[Path]],
):
    paths = boxes(a1_gate_west=GROUP, d1_cam01=None)

    file = branch_from_bytes(paths[0].read_bytes(), name="a")
    assert file.manifest.cotrained == GROUP
    assert file.manifest.box == "gate-west"
    assert file.manifest.to_document()["cotrained"] == {
        "method": "jwins",
        "boxes": ["cam01", "cam02", "cam03"],
        "rounds": 50,
        "graph": "ring",
    }
    group, alone = members_of(ensemble_of(paths), name="e").files
    assert (group.manifest.cotrained, alone.manifest.cotrained) == (GROUP, None)
    assert [branch_bytes(f) for f in (group, alone)] == [p.read_bytes() for p in paths]
    assert inspect_path(paths[0])["branches"][0]["cotrained"]["method"] == "jwins"
    assert inspect_path(paths[1])["branches"][0]["cotrained"] is None


def test_a_file_of_one_box_does_not_mention_groups(manifest_for: Callable[..., Manifest]):
    text = manifest_text(manifest_for(PLAN, "a1"), PLAN)

    assert "cotrained" not in text
    assert "camera" not in text
    assert manifest_of(manifest_for(PLAN, "a1").to_document()).cotrained is None


@pytest.mark.parametrize("method", get_args(Method))
def test_every_method_can_be_named(method: str, manifest_for: Callable[..., Manifest]):
    document = manifest_for(PLAN, "a1", box="west").to_document()
    made = {"method": method, "boxes": ["a", "b"], "rounds": 1, "graph": "regular:4"}

    found = manifest_of(document | {"cotrained": made}).cotrained

    assert found is not None
    assert found.model_dump(mode="json") == made


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a key more": ({"bytes": 3}, r"cotrained\.bytes: unknown key"),
    "another method": ({"method": "gossip"}, r"cotrained\.method: 'gossip'; input should be 'ful"),
    "one box": ({"boxes": ["cam01"]}, r"cotrained\.boxes: .* at least 2 items"),
    "no box id": ({"boxes": ["cam01", "../x"]}, r"cotrained\.boxes\.1: '\.\./x'"),
    "a box twice": ({"boxes": ["cam01", "cam01"]}, "is not sorted with every box once; expected"),
    "out of order": ({"boxes": ["cam02", "cam01"]}, "is not sorted with every box once; expected"),
    "no list": ({"boxes": "cam01"}, r"cotrained\.boxes: 'cam01'"),
    "too many": ({"boxes": [f"b{i:04}" for i in range(1001)]}, "at most 1000 items"),
    "no round": ({"rounds": 0}, r"cotrained\.rounds: 0"),
    "rounds as text": ({"rounds": "5"}, r"cotrained\.rounds: '5'"),
    "half a round": ({"rounds": 1.5}, r"cotrained\.rounds: 1\.5"),
    "a path": ({"graph": "/home/me/ring.edges"}, r"cotrained\.graph: '/home/me/ring\.edges'"),
    "no graph": ({"graph": ""}, r"cotrained\.graph: ''"),
    "its own name": (
        {"boxes": ["cam01", "west"]},
        "cotrained.boxes: has west, which the file itself is called; expected an id of the group's",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_what_a_group_cannot_be_is_refused_by_its_key(
    what: str, manifest_for: Callable[..., Manifest]
):
    change, sentence = BAD[what]
    document = manifest_for(PLAN, "a1", box="west").to_document()
    good = {"method": "ngc", "boxes": ["cam01", "cam02"], "rounds": 5, "graph": "ring"}
    assert manifest_of(document | {"cotrained": good})

    with pytest.raises(ValueError, match=sentence):
        manifest_of(document | {"cotrained": good | change})


@pytest.mark.parametrize("key", ["method", "boxes", "rounds", "graph"])
def test_a_group_says_everything(key: str, manifest_for: Callable[..., Manifest]):
    document = manifest_for(PLAN, "a1", box="west").to_document()
    made = GROUP.model_dump(mode="json")
    del made[key]

    with pytest.raises(ValueError, match=rf"cotrained\.{key}: is missing"):
        manifest_of(document | {"cotrained": made})


def test_a_file_that_says_null_is_not_what_an_agent_writes(
    manifest_for: Callable[..., Manifest], parameters_of: Callable[..., Any]
):
    data = build_branch(manifest_for(PLAN, "a1"), PLAN, parameters_of(PLAN, "a1", seed=0))
    text = manifest_text(manifest_for(PLAN, "a1"), PLAN)
    null = json.dumps(json.loads(text) | {"cotrained": None}, sort_keys=True, separators=(",", ":"))
    assert branch_from_bytes(data, name="a").manifest.cotrained is None
    import onnx

    model = onnx.load_from_string(data)
    (entry,) = [p for p in model.metadata_props if p.key == "edge_stl.manifest"]
    assert entry.value == text
    entry.value = null

    with pytest.raises(Unusable, match="is not byte for byte what an agent writes"):
        branch_from_bytes(model.SerializeToString(deterministic=True), name="a")


# -- taking boxes out -----------------------------------------------------------------------------


def test_a_member_without_a_file_of_its_own_takes_the_file_with_it_only_when_forced(
    boxes: Callable[..., list[Path]],
):
    paths = boxes(a1_gate_west=GROUP, d1_cam04=None)
    ensemble = ensemble_of(paths)

    sentence = (
        "cam01 has no file of its own here; it trained a1.gate-west together with cam02, cam03; "
        "removing it removes that file. Add --force to remove it"
    )
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        change_ensemble(ensemble, name="e", remove=["cam01"])
    changed = change_ensemble(ensemble, name="e", remove=["cam01"], force=True).model
    assert changed == ensemble_of(paths[1:])
    assert b"gate-west" not in changed


@pytest.mark.parametrize("name", ["gate-west", "a1.gate-west"])
@pytest.mark.parametrize("force", [False, True])
def test_a_group_is_removed_by_its_own_name_without_a_question(
    name: str, force: bool, boxes: Callable[..., list[Path]]
):
    paths = boxes(a1_gate_west=GROUP, d1_cam01=None)

    changed = change_ensemble(ensemble_of(paths), name="e", remove=[name], force=force)

    assert changed.model == ensemble_of(paths[1:])


def test_a_member_with_a_file_of_its_own_takes_both(boxes: Callable[..., list[Path]]):
    paths = boxes(a1_gate_west=GROUP, d1_cam01=None, d1_cam09=None)
    ensemble = ensemble_of(paths)

    sentence = (
        "cam01 has d1.cam01 of its own; it trained a1.gate-west together with cam02, cam03; "
        "removing it removes both. Add --force to remove them"
    )
    with pytest.raises(UsageError, match=sentence):
        change_ensemble(ensemble, name="e", remove=["cam01"])
    changed = change_ensemble(ensemble, name="e", remove=["cam01"], force=True).model
    assert ids_of(changed) == ["d1.cam09"]
    # one file of a box goes without the other
    assert ids_of(change_ensemble(ensemble, name="e", remove=["d1.cam01"]).model) == [
        *("a1.gate-west", "d1.cam09"),
    ]


def test_a_member_of_several_groups_names_them_all(boxes: Callable[..., list[Path]]):
    north = Cotrained(method="feddip", boxes=("cam01", "cam07"), rounds=9, graph="star")
    paths = boxes(a1_gate_west=GROUP, d1_north=north, d1_cam08=None)
    ensemble = ensemble_of(paths)

    sentence = (
        "it trained a1.gate-west together with cam02, cam03 and d1.north together with cam07; "
        "removing it removes those files. Add --force to remove them"
    )
    with pytest.raises(UsageError, match=re.escape(sentence)):
        change_ensemble(ensemble, name="e", remove=["cam01"])
    forced = change_ensemble(ensemble, name="e", remove=["cam01"], force=True).model
    assert ids_of(forced) == ["d1.cam08"]
    # of one branch alone
    with pytest.raises(UsageError, match=r"^a1\.cam01 has no file of its own here; it trained a1"):
        change_ensemble(ensemble, name="e", remove=["a1.cam01"])
    forced = change_ensemble(ensemble, name="e", remove=["a1.cam01"], force=True).model
    assert ids_of(forced) == ["d1.cam08", "d1.north"]


def test_a_member_beside_its_group_needs_no_force_for_what_was_named_anyway(
    boxes: Callable[..., list[Path]],
):
    ensemble = ensemble_of(boxes(a1_gate_west=GROUP, d1_cam01=None, d1_cam09=None))

    for order in (["cam01", "gate-west"], ["gate-west", "cam01"], ["gate-west", "cam02", "cam01"]):
        assert ids_of(change_ensemble(ensemble, name="e", remove=order).model) == ["d1.cam09"]


def test_force_names_nothing_that_is_not_there(boxes: Callable[..., list[Path]]):
    ensemble = ensemble_of(boxes(a1_gate_west=GROUP, d1_cam01=None))

    for stranger in ("cam04", "d1.cam02", "gate", ""):
        with pytest.raises(UsageError, match=r"neither a box nor a branch of e; it has boxes cam"):
            change_ensemble(ensemble, name="e", remove=[stranger], force=True)


def test_a_group_of_many_is_not_listed_to_the_end(boxes: Callable[..., list[Path]]):
    many = Cotrained(
        method="fedavg", boxes=tuple(f"b{i:03}" for i in range(40)), rounds=1, graph="star"
    )
    ensemble = ensemble_of(boxes(a1_gate_west=many, d1_cam01=None))

    with pytest.raises(UsageError, match=r"together with b000, b001, .*, b010 and 29 more; rem"):
        change_ensemble(ensemble, name="e", remove=["b002"])


def test_a_group_is_weighed_as_one_box(boxes: Callable[..., list[Path]]):
    paths = boxes(a1_gate_west=GROUP, d1_cam09=None)
    with_group = merge_paths(paths, options=Options())
    alone = boxes(a1_gate_west=None, d1_cam09=None)
    plain = merge_paths(alone, options=Options())

    assert with_group.weights == plain.weights
    assert with_group.model != plain.model

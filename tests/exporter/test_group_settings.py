"""The settings that a group's branch file tells: whole, small, and nothing else."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from edge_stl.plan import new_plan
from exporter.branch import build_branch
from exporter.cotrained import Cotrained
from exporter.manifest import Manifest, manifest_of, manifest_text, parse_manifest
from exporter.read import Unusable, branch_from_bytes


PLAN = new_plan(classes=["bus", "car"], resolution=16, channels=1, levels=1, network="mlp-s")
SETTINGS: dict[str, Any] = {
    "ranks": [1, 0, 2],
    "steps": 3,
    "batch": 2,
    "rate": 0.1,
    "schedule": "step",
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 0.0,
    "own": {"share": 1.0, "level": 1, "seed": 2**63 - 1, "on": True, "no": None, "form": "bior1.3"},
}
GROUP: dict[str, Any] = {
    "method": "pca",
    "boxes": ["cam01", "cam02", "cam03"],
    "rounds": 50,
    "graph": "ring",
}


@pytest.fixture
def document(manifest_for: Callable[..., Manifest]) -> dict[str, Any]:
    """What a box says that trains with a rate of 0.1 and batches of 2."""
    said: dict[str, Any] = manifest_for(PLAN, "a1", box="west").to_document()
    return said


def test_settings_are_read_and_written_to_the_byte(manifest_for: Callable[..., Manifest]):
    own = SETTINGS["own"] | {"shares": [0.1, 1, 1.0]}
    made = GROUP | {"settings": SETTINGS | {"own": own}}
    cotrained = Cotrained.model_validate_json(json.dumps(made))
    text = manifest_text(manifest_for(PLAN, "a1", box="west", cotrained=cotrained), PLAN)

    manifest, plan = parse_manifest(text)

    assert manifest_text(manifest, plan) == text
    assert json.loads(text)["cotrained"] == made
    assert '"shares":[0.1,1,1.0]' in text
    assert manifest.cotrained == cotrained


def test_what_is_not_there_is_absent_and_not_null(document: dict[str, Any]):
    def written(made: dict[str, Any]) -> Any:
        return manifest_of(document | {"cotrained": made}).to_document()["cotrained"]

    bare = {key: value for key, value in SETTINGS.items() if key != "own"}
    assert written(GROUP) == GROUP
    assert written(GROUP | {"settings": bare})["settings"] == bare
    assert written(GROUP | {"settings": None}) == GROUP


@pytest.mark.parametrize("where", ["settings", "edges", "own"])
def test_a_file_that_says_null_for_settings_is_not_what_an_agent_writes(
    where: str, manifest_for: Callable[..., Manifest], parameters_of: Callable[..., Any]
):
    import onnx

    settings = {key: value for key, value in SETTINGS.items() if key != "own"}
    made = Cotrained.model_validate_json(json.dumps(GROUP | {"settings": settings}))
    manifest = manifest_for(PLAN, "a1", box="west", cotrained=made)
    model = onnx.load_from_string(build_branch(manifest, PLAN, parameters_of(PLAN, "a1", seed=0)))
    (entry,) = [p for p in model.metadata_props if p.key == "edge_stl.manifest"]
    said = json.loads(entry.value)
    if where == "settings":
        said["cotrained"]["settings"] = None
    else:
        said["cotrained"]["settings"][where] = None
    entry.value = json.dumps(said, sort_keys=True, separators=(",", ":"))

    with pytest.raises(Unusable, match="is not byte for byte what an agent writes"):
        branch_from_bytes(model.SerializeToString(deterministic=True), name="a")


HUGE = {"a": list(range(10_000))}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown key": ({"host": "cam01"}, r"cotrained\.settings\.host: unknown key"),
    "no step": ({"steps": 0}, r"cotrained\.settings\.steps: 0"),
    "steps as a truth": ({"steps": True}, r"cotrained\.settings\.steps: True"),
    "a rate as text": ({"rate": "0.1"}, r"cotrained\.settings\.rate: '0\.1'"),
    "another schedule": ({"schedule": "/etc"}, r"cotrained\.settings\.schedule: '/etc'"),
    "another rate than the training's": ({"rate": 0.2}, r"rate: is 0\.2, training\.learning_rate"),
    "another batch": ({"batch": 3}, r"batch: is 3, training\.batch_size is 2; expected the same"),
    "another decay": ({"weight_decay": 0.5}, r"weight_decay: is 0\.5, training\.weight_decay is 0"),
    "a rank twice": ({"ranks": [0, 0, 1]}, "does not have every rank from 0 to 2 once"),
    "a rank too few": ({"ranks": [0, 1]}, "does not have every rank from 0 to 2 once"),
    "a rank far away": ({"ranks": [0, 1, 10**9]}, r"cotrained\.settings\.ranks\.2: 1000000000"),
    "a million ranks": ({"ranks": [0] * 10**6}, "at most 1000 items"),
    "edges of a ring": ({"edges": [[0, 1]]}, "edges: is there with graph ring"),
    "edges that are none": ({"edges": [[0]]}, r"cotrained\.settings\.edges\.0\.1: is missing"),
    "5,000 edges": ({"edges": [[0, 1]] * 5000}, "at most 2016 items"),
    "own settings as a list": ({"own": []}, r"cotrained\.settings\.own: \[\]"),
    "no own setting": ({"own": {}}, r"cotrained\.settings\.own: \{\}; .* at least 1"),
    "33 own settings": ({"own": {"a" * (k + 1): 1 for k in range(33)}}, r"settings\.own"),
    "15,000 own settings": (
        {"own": {"a" * (1 + k % 30) + "_" * (k // 30): 1 for k in range(15_000)}},
        r"settings\.own",
    ),
    "a path as a key": ({"own": {"/home/x": 1}}, r"settings\.own\./home/x"),
    "a nested setting": ({"own": {"x": {"y": 1}}}, r"own\.x: \{'y': 1\} is no setting; expected a"),
    "a huge nested setting": ({"own": {"x": HUGE}}, r"own\.x: \{'a': .*\.\.\. is no setting; ex"),
    "a list of lists": ({"own": {"x": [[1.0]]}}, r"own\.x: \[\[1\.0\]\] is no setting"),
    "a list of texts": ({"own": {"x": ["haar"]}}, r"own\.x: \['haar'\] is no setting"),
    "a list of truths": ({"own": {"x": [True]}}, r"own\.x: \[True\] is no setting"),
    "257 numbers": ({"own": {"x": [0.5] * 257}}, "is no setting; .* up to 256 numbers"),
    "a path": ({"own": {"x": "/home/me"}}, "'/home/me' is no setting"),
    "a host name": ({"own": {"x": "cam01.site.example"}}, "is no setting"),
    "an address": ({"own": {"x": "10.8.0.1"}}, "is no setting"),
    "a sentence": ({"own": {"x": "a b"}}, "'a b' is no setting"),
    "a line break": ({"own": {"x": "haar\n"}}, r"'haar\\n' is no setting"),
    "a long word": ({"own": {"x": "a" * 17}}, "is no setting"),
    "a large number": ({"own": {"x": 2**63}}, "9223372036854775808 is no setting"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_settings_that_no_group_has_are_refused_in_one_line(what: str, document: dict[str, Any]):
    change, said = BAD[what]
    assert manifest_of(document | {"cotrained": GROUP | {"settings": SETTINGS}})

    with pytest.raises(ValueError, match=said) as refused:
        manifest_of(document | {"cotrained": GROUP | {"settings": SETTINGS | change}})
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("key", [key for key in SETTINGS if key != "own"])
def test_settings_that_lack_one_are_refused(key: str, document: dict[str, Any]):
    less = {k: v for k, v in SETTINGS.items() if k != key}

    with pytest.raises(ValueError, match=rf"cotrained\.settings\.{key}: is missing"):
        manifest_of(document | {"cotrained": GROUP | {"settings": less}})


@pytest.mark.parametrize(
    "edges", [[[0, 0]], [[1, 0]], [[0, 3]], [[0, 1], [0, 1]], [[1, 2], [0, 1]]]
)
def test_edges_have_one_form(edges: list[list[int]], document: dict[str, Any]):
    def read(rows: list[list[int]] | None) -> Manifest:
        settings = SETTINGS if rows is None else SETTINGS | {"edges": rows}
        made = GROUP | {"graph": "file", "settings": settings}
        return manifest_of(document | {"cotrained": made})

    assert read([[0, 1], [0, 2]])
    with pytest.raises(ValueError, match="edges: is not sorted with every pair of two ranks once"):
        read(edges)
    with pytest.raises(ValueError, match="edges: is missing with graph file"):
        read(None)

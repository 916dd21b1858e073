"""A plan is its canonical bytes: however its TOML is written, the digest is the same, and lasts."""

import json
import tomllib
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from edge_stl.plan import Plan, new_plan, plan_from_document, plan_toml, read_plan
from edge_stl.plan.networks import preset_names


NASTY = (
    'quo"te',
    "it's",
    "back`tick",
    "a#b = [c]",
    "日本 語",
    "emoji \N{DELIVERY TRUCK}",
    "line\N{LINE SEPARATOR}separator",
    "true",
    "1979-05-27",
    "ünïcode",
)

FIXED: dict[str, Any] = {
    "format": 1,
    "name": "roadside",
    "classes": ["bullet_train", "freight_car", "Zürich"],
    "input": {"resolution": 64, "channels": 1, "fit": "pad"},
    "transform": {"kind": "wavelet", "wavelet": "db2", "levels": 2},
    "branches": [
        {"name": "coarse", "bands": ["cA2"], "network": "cnn-s"},
        {"name": "fine", "bands": ["cA1", "cH1", "cV1", "cD1"], "network": "mlp-s"},
    ],
    "training": {"epochs": 12, "learning_rate": 0.001, "label_smoothing": 0.1},
    "augment": {"shift": 0.1, "flip": True},
    "fusion": {"prior": {"bullet_train": 0.5, "freight_car": 2, "Zürich": 1}},
    "privacy": {"min_count": 5},
    "limits": {"max_image_pixels": 1000000},
}


def is_class_name(text: str) -> bool:
    return bool(text) and text == text.strip() and not text.startswith(".")


CLASS_NAMES = (
    st.text(st.characters(exclude_categories=["C"], exclude_characters="/\\"), max_size=20)
    .map(lambda text: unicodedata.normalize("NFC", text))
    .filter(is_class_name)
)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    wavelets, sized = ["haar", "db4", "bior4.4"], ["dct:2", "dct:4"]
    paper = ["stl-dct:2", "stl-dct:3", "stl-dct:9", "stl-dft:2", "stl-dft:5"]
    transform = draw(st.sampled_from([*wavelets, *sized, *paper]))
    kinds = ["single", "all"] if transform in paper else ["single", "detail", "context", "all"]
    kind = draw(st.sampled_from(kinds))
    levels = None
    if transform in wavelets:
        levels = draw(st.integers(0, 1 if kind == "all" else 3))
    block = int(transform[-1]) if levels is None else 1 << levels
    made = new_plan(
        classes=draw(st.lists(CLASS_NAMES, min_size=2, max_size=5, unique=True)),
        resolution=block * draw(st.integers(1, 9)),
        channels=draw(st.sampled_from([1, 3])),
        transform=transform,
        levels=levels,
        branches=kind,
        network=draw(st.sampled_from(preset_names())),
        name=draw(st.from_regex(r"[a-z0-9][a-z0-9-]{0,31}", fullmatch=True)),
        fit=draw(st.sampled_from(["crop", "pad", "stretch"])),
        epochs=draw(st.integers(1, 100)),
        shift=draw(st.floats(0, 0.5)),
        flip=draw(st.booleans()),
    )
    share = st.floats(1e-300, 1e300)
    more: dict[str, Any] = {
        "training": draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "seed": st.integers(0, 2**31),
                    "validation": st.floats(0, 0.5),
                    "batch_size": st.integers(2, 1000),
                    "learning_rate": share,
                    "weight_decay": st.floats(0, 1),
                },
            )
        ),
        "privacy": {"min_count": draw(st.integers(0, 20))},
        "limits": draw(st.fixed_dictionaries({}, optional={"max_image_bytes": st.integers(1)})),
        "fusion": {},
    }
    if draw(st.booleans()):
        more["fusion"]["prior"] = {name: draw(share) for name in made.classes}
    if draw(st.booleans()):
        more["fusion"]["weights"] = {made.branches[0].name: draw(share)}
    return plan_from_document(made.to_document() | more, where="test")


@given(plans())
def test_a_plan_written_as_toml_reads_back_to_the_same_digest(
    tmp_path_factory: pytest.TempPathFactory, plan: Plan
):
    path = tmp_path_factory.getbasetemp() / "plan.toml"
    path.write_text(plan_toml(plan), encoding="utf-8")

    again = read_plan(path)

    assert again == plan
    assert again.canonical() == plan.canonical()
    assert again.digest == plan.digest


@given(plans())
def test_the_document_and_the_canonical_bytes_carry_the_whole_plan(plan: Plan):
    assert plan_from_document(plan.to_document(), where="test") == plan
    assert plan_from_document(json.loads(plan.canonical()), where="test").digest == plan.digest


def test_class_names_full_of_toml_survive_it():
    plan = new_plan(classes=NASTY, resolution=8)

    assert tomllib.loads(plan_toml(plan))["classes"] == list(NASTY)


def test_class_names_full_of_toml_survive_it_as_keys_too():
    document = new_plan(classes=NASTY, resolution=8).to_document()
    prior = dict.fromkeys(NASTY, 1.0)

    plan = plan_from_document(document | {"fusion": {"prior": prior}}, where="test")

    assert tomllib.loads(plan_toml(plan))["fusion"]["prior"] == prior


def test_a_written_plan_shows_what_an_operator_is_likely_to_change():
    text = plan_toml(new_plan(classes=["a", "b"], resolution=8))

    document = tomllib.loads(text)
    assert document["input"] == {"resolution": 8, "channels": 3, "fit": "crop"}
    assert document["training"] == {"epochs": 30, "seed": 0}
    assert document["augment"] == {"shift": 0.1, "flip": True}


def test_canonical_bytes_and_digest_of_this_plan_never_change():
    plan = plan_from_document(FIXED, where="test")

    assert plan.canonical().decode() == (
        '{"augment":{"flip":true,"shift":0.1},"branches":[{"bands":["cA2"],"name":"coarse",'
        '"network":"cnn-s"},{"bands":["cA1","cH1","cV1","cD1"],"name":"fine","network":"mlp-s"}],'
        '"classes":["bullet_train","freight_car","Zürich"],"format":1,"fusion":{"prior":'
        '{"Zürich":1.0,"bullet_train":0.5,"freight_car":2.0}},"input":{"channels":1,"fit":"pad",'
        '"resolution":64},"limits":{"max_image_pixels":1000000},"name":"roadside","privacy":'
        '{"min_count":5},"training":{"epochs":12,"label_smoothing":0.1,"learning_rate":0.001},'
        '"transform":{"kind":"wavelet","levels":2,"wavelet":"db2"}}'
    )
    assert plan.digest == "ca7b166b7a6fd397d6bd12b3ad1407c48b078535f7fa8e0a322f08f0e4812c52"


@pytest.mark.parametrize(
    ("transform", "digest"),
    [
        (
            {"kind": "stl-dct", "size": 4},
            "9d484dd6a8d732e4982a8f6faa1345a876ce7ce66a5d4c9123c0ea5558c7af2a",
        ),
        (
            {"kind": "stl-dft", "size": 4},
            "ddd3e380c3430707013f93edc31bbd77470bacf8f486ad1466f863ff23861e10",
        ),
        (
            {"kind": "dct", "size": 4},
            "fb6e021dc503825080ce8095e80dda1f4f69d769c123ff3e98278a217a799c87",
        ),
    ],
    ids=lambda value: value.get("kind") if isinstance(value, dict) else "",
)
def test_the_digest_of_a_plan_of_every_sized_kind_never_changes(
    transform: dict[str, Any], digest: str
):
    band = {"stl-dct": "p01", "stl-dft": "f01r", "dct": "dct01"}[transform["kind"]]
    changes = {
        "transform": transform,
        "branches": [{"name": "x", "bands": [band], "network": "cnn-8"}],
    }

    plan = plan_from_document(FIXED | changes, where="test")

    assert f'"transform":{json.dumps(transform, separators=(",", ":"))}' in (
        plan.canonical().decode()
    )
    assert plan.digest == digest


@pytest.mark.parametrize(
    ("table", "defaults"),
    [
        ("input", {"channels": 3, "fit": "crop"}),
        (
            "training",
            {
                "epochs": 30,
                "seed": 0,
                "validation": 0.1,
                "learning_rate": 0.003,
                "weight_decay": 0.01,
                "label_smoothing": 0,
            },
        ),
        ("augment", {"shift": 0.0, "flip": False}),
        ("fusion", {}),
        ("privacy", {"min_count": 0}),
        (
            "limits",
            {
                "max_image_pixels": 100_000_000,
                "max_image_bytes": 100_000_000,
                "max_branch_bytes": 64_000_000,
            },
        ),
    ],
)
def test_a_key_equal_to_its_default_is_the_same_plan_as_none(table: str, defaults: dict[str, Any]):
    bare = {k: v for k, v in FIXED.items() if k != table}
    if table == "input":
        bare["input"] = {"resolution": 64}
        defaults = defaults | bare["input"]

    spelled = plan_from_document(bare | {table: defaults}, where="test")

    assert spelled.digest == plan_from_document(bare, where="test").digest


def test_every_default_is_covered_above():
    table = {
        name: set(type(getattr(plan_from_document(FIXED, where="test"), name)).model_fields)
        for name in ("input", "training", "augment", "fusion", "privacy", "limits")
    }

    assert {name: len(keys) for name, keys in table.items()} == {
        "input": 3,
        "training": 7,
        "augment": 2,
        "fusion": 2,
        "privacy": 1,
        "limits": 3,
    }


def test_the_order_of_keys_and_tables_does_not_matter():
    def backwards(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: backwards(v) for k, v in reversed(value.items())}
        return [backwards(v) for v in value] if isinstance(value, list) else value

    turned = backwards(FIXED)

    assert list(turned) != list(FIXED)
    assert (
        plan_from_document(turned, where="test").digest
        == plan_from_document(FIXED, where="test").digest
    )


@pytest.mark.parametrize(
    "change",
    [
        {"name": "roadside2"},
        {"classes": ["freight_car", "bullet_train", "Zürich"]},
        {"augment": {"shift": 0.1, "flip": False}},
        {"branches": FIXED["branches"][::-1]},
        {"training": FIXED["training"] | {"seed": 1}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_any_other_change_is_another_plan(change: dict[str, Any]):
    assert (
        plan_from_document(FIXED | change, where="test").digest
        != plan_from_document(FIXED, where="test").digest
    )


def test_an_integer_where_a_number_is_wanted_is_the_same_plan():
    whole = FIXED | {"training": {"weight_decay": 1}}
    real = FIXED | {"training": {"weight_decay": 1.0}}

    assert (
        plan_from_document(whole, where="test").digest
        == plan_from_document(real, where="test").digest
    )


def test_one_visible_name_is_one_name():
    composed, decomposed = "Z\u00fcrich", "Zu\u0308rich"

    def plan(name: str) -> Plan:
        changes = {"classes": ["a", name], "fusion": {"prior": {"a": 1, name: 1}}}
        return plan_from_document(FIXED | changes, where="test")

    assert plan(decomposed).classes == ("a", composed)
    assert plan(decomposed).digest == plan(composed).digest


def test_a_plan_is_frozen():
    plan = plan_from_document(FIXED, where="test")

    with pytest.raises(ValueError, match="Instance is frozen"):
        plan.name = "other"  # type: ignore[misc]
    with pytest.raises(ValueError, match="Instance is frozen"):
        plan.training.epochs = 1  # type: ignore[misc]


def test_a_plan_file_is_utf_8(tmp_path: Path):
    path = tmp_path / "plan.toml"
    path.write_bytes(plan_toml(plan_from_document(FIXED, where="test")).encode())

    assert read_plan(path).classes[2] == "Zürich"

"""What no plan may be: refused with the key, the value, what was expected, the nearest name."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from edge_stl.errors import UsageError
from edge_stl.plan import Plan, nearest, new_plan, plan_from_document, read_plan


BASE: dict[str, Any] = {
    "format": 1,
    "name": "p",
    "classes": ["cat", "dog"],
    "input": {"resolution": 8},
    "transform": {"kind": "wavelet", "wavelet": "haar", "levels": 2},
    "branches": [{"name": "coarse", "bands": ["cA2"], "network": "cnn-s"}],
}


def without(key: str) -> dict[str, Any]:
    return {k: v for k, v in BASE.items() if k != key}


def branch(**changes: Any) -> dict[str, Any]:
    return {"branches": [BASE["branches"][0] | changes]}


def wavelet(**changes: Any) -> dict[str, Any]:
    return {"transform": BASE["transform"] | changes}


def dct(size: int, **changes: Any) -> dict[str, Any]:
    return {"transform": {"kind": "dct", "size": size} | changes}


def polyphase(kind: str, size: Any, **changes: Any) -> dict[str, Any]:
    return {"transform": {"kind": kind, "size": size} | changes}


def assert_refused(change: dict[str, Any], *sentences: str) -> None:
    with pytest.raises(UsageError, match=re.escape(sentences[0])) as caught:
        plan_from_document(BASE | change, where="plan.toml")
    assert str(caught.value).startswith("plan.toml: ")
    assert "\n" not in str(caught.value)
    for sentence in sentences:
        assert sentence in str(caught.value)


def test_the_base_of_these_tests_is_a_plan():
    assert plan_from_document(BASE, where="plan.toml").name == "p"


@pytest.mark.parametrize("key", list(BASE))
def test_a_missing_key_is_named(key: str):
    with pytest.raises(UsageError, match=f"plan.toml: {key}: is missing"):
        plan_from_document(without(key), where="plan.toml")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"classess": []}, "classess: unknown key; did you mean 'classes'?"),
        (
            {"input": {"resolution": 8, "chanels": 1}},
            "input.chanels: unknown key; did you mean 'cha",
        ),
        (
            {"input": {"resolution": 8, "x": 1}},
            "input.x: unknown key; expected one of resolution, ",
        ),
        (wavelet(level=2), "transform.level: unknown key; did you mean 'levels'?"),
        (branch(band=["cA2"]), "branches.0.band: unknown key; did you mean 'bands'?"),
        ({"training": {"epoch": 3}}, "training.epoch: unknown key; did you mean 'epochs'?"),
        ({"augment": {"flipp": True}}, "augment.flipp: unknown key; did you mean 'flip'?"),
        ({"fusion": {"priors": {}}}, "fusion.priors: unknown key; did you mean 'prior'?"),
        (
            {"privacy": {"min_counts": 1}},
            "privacy.min_counts: unknown key; did you mean 'min_count'",
        ),
        ({"limits": {"zzz": 1}}, "limits.zzz: unknown key; expected one of max_image_pixels, max_"),
    ],
    ids=str,
)
def test_an_unknown_key_is_named_at_every_level(change: dict[str, Any], sentence: str):
    assert_refused(change, sentence)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"format": 2}, "format: 2; input should be 1"),
        ({"name": "Upper"}, "name: 'Upper'; string should match pattern"),
        ({"name": "-a"}, "name: '-a'; string should match pattern"),
        ({"name": "a" * 33}, "string should match pattern"),
        ({"name": "p\n"}, "name: 'p\\n'; string should match pattern"),
        ({"classes": ["one"]}, "classes: ['one']; tuple should have at least 2 items"),
        ({"classes": "cat"}, "classes: 'cat'; input should be a valid array"),
        ({"classes": [1, 2]}, "classes.0: 1; input should be a valid string"),
        (
            {"input": {"resolution": 0}},
            "input.resolution: 0; input should be greater than or equal",
        ),
        (
            {"input": {"resolution": 4097}},
            "input.resolution: 4097; input should be less than or eq",
        ),
        ({"input": {"resolution": "8"}}, "input.resolution: '8'; input should be a valid integer"),
        ({"input": {"resolution": 8.5}}, "input.resolution: 8.5; input should be a valid integer"),
        ({"input": {"resolution": 8, "channels": 2}}, "input.channels: 2; input should be 1 or 3"),
        (
            {"input": {"resolution": 8, "fit": "zoom"}},
            "input.fit: 'zoom'; input should be 'crop', '",
        ),
        ({"input": 5}, "input: 5; input should be an object"),
        (
            wavelet(kind="fft"),
            "transform.kind: 'fft'; input should be 'wavelet', 'dct', 'stl-dct' or 'stl-dft'",
        ),
        (wavelet(levels=9), "transform.levels: 9; input should be less than or equal to 8"),
        (wavelet(levels=-1), "transform.levels: -1; input should be greater than or equal to 0"),
        (dct(3), "transform.size: 3; kind 'dct' has 2, 4 or 8"),
        ({"branches": []}, "branches: []; tuple should have at least 1 item"),
        (branch(name="Fine"), "branches.0.name: 'Fine'; string should match pattern"),
        (branch(bands=[]), "branches.0.bands: []; tuple should have at least 1 item"),
        (
            {"training": {"epochs": 0}},
            "training.epochs: 0; input should be greater than or equal to",
        ),
        (
            {"training": {"epochs": 100_001}},
            "training.epochs: 100001; input should be less than or",
        ),
        (
            {"training": {"seed": -1}},
            "training.seed: -1; input should be greater than or equal to 0",
        ),
        (
            {"training": {"validation": 0.6}},
            "training.validation: 0.6; input should be less than or",
        ),
        (
            {"training": {"validation": -0.1}},
            "training.validation: -0.1; input should be greater th",
        ),
        (
            {"training": {"batch_size": 1}},
            "training.batch_size: 1; input should be greater than or ",
        ),
        (
            {"training": {"learning_rate": 0}},
            "training.learning_rate: 0; input should be greater th",
        ),
        (
            {"training": {"weight_decay": -1}},
            "training.weight_decay: -1; input should be greater th",
        ),
        (
            {"training": {"label_smoothing": 1}},
            "training.label_smoothing: 1; input should be less t",
        ),
        ({"training": {"epochs": True}}, "training.epochs: True; input should be a valid integer"),
        (
            {"augment": {"shift": 0.51}},
            "augment.shift: 0.51; input should be less than or equal to 0",
        ),
        (
            {"augment": {"shift": -0.1}},
            "augment.shift: -0.1; input should be greater than or equal",
        ),
        ({"augment": {"flip": 1}}, "augment.flip: 1; input should be a valid boolean"),
        (
            {"fusion": {"weights": {"coarse": -1}}},
            "fusion.weights.coarse: -1; input should be great",
        ),
        (
            {"fusion": {"prior": {"cat": 0, "dog": 1}}},
            "fusion.prior.cat: 0; input should be greater",
        ),
        (
            {"privacy": {"min_count": -1}},
            "privacy.min_count: -1; input should be greater than or eq",
        ),
        (
            {"limits": {"max_image_pixels": 0}},
            "limits.max_image_pixels: 0; input should be greater",
        ),
        ({"limits": {"max_image_bytes": 0}}, "limits.max_image_bytes: 0; input should be greater"),
        (
            {"limits": {"max_branch_bytes": 0}},
            "limits.max_branch_bytes: 0; input should be greater",
        ),
    ],
    ids=str,
)
def test_a_value_out_of_range_is_named_with_what_was_expected(change: dict[str, Any], where: str):
    assert_refused(change, where)


@pytest.mark.parametrize("name", ["", " cat", "cat ", ".hidden", ".."])
def test_a_class_name_that_is_empty_hidden_or_padded_is_refused(name: str):
    assert_refused(
        {"classes": ["a", "b", name]},
        f"classes.2: {name!r} must not be empty, begin with '.', or have spaces around it",
    )


@pytest.mark.parametrize(
    "name", ["a/b", "a\\b", "a\x00b", "a\nb", "a\x7fb", "a\x85b", "a\u200bb", "a\u202eb", "\ue000"]
)
def test_a_class_name_that_no_path_can_hold_is_refused(name: str):
    assert_refused(
        {"classes": ["a", "b", name]},
        f"classes.2: {name!r} must not have '/', '\\' or control characters",
    )


def test_a_class_name_may_have_200_bytes_and_no_more():
    assert (
        plan_from_document(BASE | {"classes": ["a", "ü" * 100]}, where="w").classes[1] == "ü" * 100
    )
    assert_refused({"classes": ["a", "b", "ü" * 100 + "x"]}, "must not be longer than 200 bytes")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"classes": ["cat", "dog", "cat"]},
            "classes: ['cat'] stand more than once; every class needs its own name",
        ),
        ({"classes": ["\u00e9", "e\u0301"]}, "classes: ['é'] stand more than once"),
        (
            wavelet(size=2),
            "transform.size: belongs to the kinds dct, stl-dct, stl-dft; a wavelet has 'wavelet' "
            "and 'levels'",
        ),
        (
            {"transform": {"kind": "wavelet", "levels": 1}},
            "transform: kind 'wavelet' needs the keys 'wavelet' and 'levels'",
        ),
        (
            {"transform": {"kind": "wavelet", "wavelet": "haar"}},
            "transform: kind 'wavelet' needs the keys 'wavelet' and 'levels'",
        ),
        (
            wavelet(wavelet="db99"),
            "transform.wavelet: 'db99' is not a discrete orthogonal or biorthogonal wavelet of "
            "PyWavelets; did you mean 'db9'?",
        ),
        (wavelet(wavelet="Haar"), "PyWavelets; did you mean 'haar'?"),
        (wavelet(wavelet="mexh"), "transform.wavelet: 'mexh' is not a discrete orthogonal or"),
        (wavelet(wavelet="zzzzz"), "… (106 in all)"),
        (
            {"transform": {"kind": "dct"}},
            "transform: kind 'dct' needs the key 'size' (2, 4 or 8) and no other",
        ),
        (dct(4, levels=2), "transform: kind 'dct' needs the key 'size' (2, 4 or 8) and no other"),
        (dct(4, wavelet="haar"), "transform: kind 'dct' needs the key 'size' (2, 4 or 8) and no"),
        (
            {"transform": {"kind": "stl-dft"}},
            "transform: kind 'stl-dft' needs the key 'size' (2 to 9) and no other",
        ),
        (
            polyphase("stl-dct", 4, levels=0),
            "transform: kind 'stl-dct' needs the key 'size' (2 to 9) and no other",
        ),
        (polyphase("stl-dct", 1), "transform.size: 1; "),
        (polyphase("stl-dft", 10), "transform.size: 10; "),
        (polyphase("stl-dct", -2), "transform.size: -2; "),
        (polyphase("stl-dct", 2.0), "transform.size: 2.0; input should be a valid integer"),
        (
            polyphase("stl-dct", 3),
            "input.resolution: 8 is not divisible by 3, which the transform needs; 6 is",
        ),
        (
            polyphase("stl-dct", 9),
            "input.resolution: 8 is not divisible by 9, which the transform needs; 9 is",
        ),
        (polyphase("stl-dct", 2), "branches.coarse.bands: 'cA2' is not a band of stl-dct:2"),
        (
            polyphase("stl-dct", 2) | branch(bands=["p04"]),
            "branches.coarse.bands: 'p04' is not a band of stl-dct:2; did you mean 'p0",
        ),
        (
            polyphase("stl-dft", 2) | branch(bands=["f01"]),
            "branches.coarse.bands: 'f01' is not a band of stl-dft:2; did you mean 'f0",
        ),
        (
            polyphase("stl-dft", 4) | branch(bands=["f08r", "f00"]),
            "branches.coarse.bands: 'f08r' is not a band of stl-dft:4",
        ),
        (
            polyphase("stl-dct", 2) | branch(bands=["p01", "p01"]),
            "branches.coarse.bands: a band stands twice in ['p01', 'p01']",
        ),
        (
            {"input": {"resolution": 10}},
            "input.resolution: 10 is not divisible by 4, which the transform needs; 8 is",
        ),
        (
            {"input": {"resolution": 2}},
            "input.resolution: 2 is not divisible by 4, which the transform needs; 4 is",
        ),
        (
            branch(bands=["CA2"]),
            "branches.coarse.bands: 'CA2' is not a band of haar, 2 levels; did you mean 'cA2'?",
        ),
        (branch(bands=["LH"]), "'LH' is not a band of haar, 2 levels; expected one of cA2, cH2"),
        (branch(bands=["dct00"]), "'dct00' is not a band of haar, 2 levels"),
        (
            branch(bands=["cA2", "cA2"]),
            "branches.coarse.bands: a band stands twice in ['cA2', 'cA2']",
        ),
        (
            branch(bands=["cA2", "cH1"]),
            "branches.coarse.bands: sizes differ, {'cA2': 2, 'cH1': 4}; a branch has one size",
        ),
        (
            branch(network="cnn-z"),
            "branches.coarse.network: 'cnn-z' is not a network; did you mean 'cnn-",
        ),
        (branch(network="resnet"), "is not a network; expected one of mlp-s, cnn-xs, cnn-s, cnn-m"),
        (
            {"branches": BASE["branches"] * 2},
            "branches.coarse: stands twice; every branch needs its own name",
        ),
        (
            {"fusion": {"prior": {"cat": 1, "dog": 1, "dgo": 1}}},
            "fusion.prior: 'dgo' is not a class; did you mean 'dog'?",
        ),
        (
            {"fusion": {"prior": {"cat": 1}}},
            "fusion.prior: classes ['dog'] are missing; it needs a share of each",
        ),
        (
            {"fusion": {"weights": {"corse": 1}}},
            "fusion.weights: 'corse' is not a branch; did you mean 'coarse'?",
        ),
        (
            {"fusion": {"weights": {"coarse": 0}}},
            "fusion.weights: all are 0; at least one must be positive",
        ),
        ({"fusion": {"weights": {}}}, "fusion.weights: all are 0; at least one must be positive"),
    ],
    ids=str,
)
def test_an_impossible_combination_is_refused(change: dict[str, Any], sentence: str):
    assert_refused(change, sentence)


def test_all_reasons_are_given_at_once():
    assert_refused(
        {
            "classes": ["cat", "cat"],
            **branch(bands=["cH3"], network="cnn"),
            "fusion": {"weights": {"fine": 1}},
        },
        "classes: ['cat'] stand more than once",
        "branches.coarse.bands: 'cH3' is not a band",
        "branches.coarse.network: 'cnn' is not a network",
        "fusion.weights: 'fine' is not a branch",
    )


def test_two_wrong_values_are_both_named():
    assert_refused({"format": 3, "name": "A"}, "format: 3; ", "name: 'A'; ")


@pytest.mark.parametrize("document", [None, [], 5, "text", True])
def test_what_is_no_table_is_refused(document: Any):
    with pytest.raises(UsageError, match=r"w: .*input should be an object"):
        plan_from_document(document, where="w")


@pytest.mark.parametrize("value", [math.nan, math.inf, object(), b"bytes"])
def test_what_json_cannot_hold_is_refused(value: Any):
    with pytest.raises(UsageError, match="w: holds a value that no plan has"):
        plan_from_document(BASE | {"augment": {"shift": value}}, where="w")


# -- files ----------------------------------------------------------------------------------------


def test_a_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match=r"none.toml: cannot be read \(No such file"):
        read_plan(tmp_path / "none.toml")


@pytest.mark.parametrize("raw", [b"format = ", b"\xff\xfe", b"a = 1\na = 2", b"d = 2021-02-31"])
def test_a_file_that_is_not_toml_is_refused(tmp_path: Path, raw: bytes):
    path = tmp_path / "plan.toml"
    path.write_bytes(raw)

    with pytest.raises(UsageError, match=r"plan\.toml: not a TOML file"):
        read_plan(path)


def test_a_date_is_refused(tmp_path: Path):
    path = tmp_path / "plan.toml"
    path.write_text("format = 1979-05-27")

    with pytest.raises(UsageError, match=r"plan\.toml: holds a value that no plan has: .*date"):
        read_plan(path)


def test_a_file_larger_than_any_plan_is_refused(tmp_path: Path):
    path = tmp_path / "plan.toml"
    path.write_bytes(b"#" * 4_000_001)

    with pytest.raises(UsageError, match=r"plan\.toml: larger than 4000000 bytes"):
        read_plan(path)


# -- plan new -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"transform": "db99"},
            "--transform db99: neither a wavelet nor dct:2, dct:4, dct:8, stl-dct:b, stl-dft:b; "
            "did you mean 'db9'?",
        ),
        ({"transform": "dct:3"}, "--transform dct:3: dct has size 2, 4 or 8"),
        ({"transform": "dct:4", "levels": 1}, "--levels 1: dct of size 4 has 2. Leave it out"),
        ({"transform": "stl-dct:1"}, "--transform stl-dct:1: stl-dct has size 2 to 9"),
        ({"transform": "stl-dft:10"}, "--transform stl-dft:10: stl-dft has size 2 to 9"),
        ({"transform": "stl-dct:0"}, "--transform stl-dct:0: stl-dct has size 2 to 9"),
        ({"transform": "stl-dct"}, "--transform stl-dct: write stl-dct:b with size b = 2 to 9"),
        ({"transform": "stl-dtc:4"}, "did you mean 'stl-d"),
        ({"transform": "stl-dct:-2"}, "--transform stl-dct:-2: "),
        ({"transform": "stl-dct:2.5"}, "--transform stl-dct:2.5: "),
        (
            {"transform": "stl-dct:4", "levels": 2},
            "--levels 2: stl-dct of size 4 has 0. Leave it out",
        ),
        (
            {"transform": "stl-dct:4", "branches": "detail"},
            "--branches detail: stl-dct:4 has no levels; the kinds it knows are single and all",
        ),
        (
            {"transform": "stl-dft:2", "branches": "context"},
            "--branches context: stl-dft:2 has no levels; the kinds it knows are single and all",
        ),
        (
            {"transform": "stl-dct:3"},
            "plan new: input.resolution: 8 is not divisible by 3, which the transform needs; 6 is",
        ),
        ({"branches": "all"}, "--branches all: the bands of haar, 2 levels have different sizes"),
        ({"resolution": 6}, "plan new: input.resolution: 6 is not divisible by 4"),
        ({"network": "cnn"}, "--network: 'cnn' is not a network"),
        ({"classes": ["a"]}, "plan new: classes: ['a']; tuple should have at least 2 items"),
    ],
    ids=str,
)
def test_choices_that_make_no_plan_are_refused(options: dict[str, Any], sentence: str):
    with pytest.raises(UsageError, match=re.escape(sentence)):
        new_plan(**({"classes": ["a", "b"], "resolution": 8} | options))


@pytest.mark.parametrize(
    ("name", "valid", "end"),
    [
        ("crp", ["crop", "pad"], "; did you mean 'crop'?"),
        ("CROP", ["crop", "pad"], "; did you mean 'crop'?"),
        ("zzz", ["crop", "pad"], "; expected one of crop, pad"),
        (
            "zzz",
            [f"n{i}" for i in range(12)],
            "; expected one of " + ", ".join(f"n{i}" for i in range(12)),
        ),
        (
            "zzz",
            [f"n{i}" for i in range(13)],
            f"; expected one of {', '.join(f'n{i}' for i in range(12))}, … (13 in all)",
        ),
    ],
)
def test_the_nearest_name_is_offered_or_all_when_they_are_few(
    name: str, valid: list[str], end: str
):
    assert nearest(name, valid) == end


# -- anything at all ------------------------------------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
KEYS = st.text() | st.sampled_from(
    ["format", "name", "classes", "input", "transform", "branches", "fusion", "prior", "weights"]
)
JUNK = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner), max_leaves=8
)


def refused_or_plan(document: Any) -> Plan | None:
    try:
        return plan_from_document(document, where="fuzz")
    except UsageError:
        return None


@given(JUNK)
def test_no_document_does_worse_than_a_refusal(document: Any):
    assert refused_or_plan(document) is None


@settings(max_examples=300)
@given(st.data())
def test_no_damaged_plan_does_worse_than_a_refusal(data: st.DataObject):
    paper = BASE | polyphase("stl-dft", 4) | branch(bands=["f01r", "f08"])
    full = data.draw(st.sampled_from([BASE, paper])) | {
        "training": {"epochs": 3, "learning_rate": 0.1},
        "augment": {"shift": 0.1},
        "fusion": {"prior": {"cat": 1.0, "dog": 2.0}, "weights": {"coarse": 1.0}},
        "privacy": {"min_count": 1},
        "limits": {"max_image_pixels": 5},
    }

    def damaged(value: Any) -> Any:
        """Return the value with one thing inside it, or all of it, replaced."""
        if isinstance(value, dict) and value and data.draw(st.booleans()):
            key = data.draw(st.sampled_from(sorted(value)))
            return value | {key: damaged(value[key])}
        if isinstance(value, list) and value and data.draw(st.booleans()):
            return [damaged(value[0]), *value[1:]]
        return data.draw(JUNK)

    key = data.draw(st.sampled_from(sorted(full)))
    plan = refused_or_plan(full | {key: damaged(full[key])})

    if plan is not None:
        assert plan_from_document(plan.to_document(), where="again").digest == plan.digest

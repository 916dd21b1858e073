"""Manifests made to hurt who reads them, or to be read one way here and another way there."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from edge_stl.errors import EdgeStlError
from edge_stl.gate import MANIFEST_CAPS, JsonCaps, Refused, strict_json
from edge_stl.plan import new_plan
from exporter.manifest import manifest_text, parse_manifest


PLAN = new_plan(classes=["bus", "car"], resolution=4, levels=1, channels=1, network="mlp-s")


@pytest.fixture(scope="module")
def honest(manifest_for: Callable[..., Any]) -> str:
    return manifest_text(manifest_for(PLAN, "a1"), PLAN)


def put(path: str, value: Any) -> Callable[[str], str]:
    """Return what sets one value, in the one form that is canonical."""

    def change(text: str) -> str:
        document = json.loads(text)
        *parents, last = path.split(".")
        here = document
        for key in parents:
            here = here[key]
        assert last in here or value is not ...
        here[last] = value
        return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    return change


def swap(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    return change


MANIFESTS: dict[str, tuple[Callable[[str], str], str]] = {
    "100,000 levels": (lambda _: "[" * 100_000, "objects and arrays; at most|inside each other"),
    "10,000 levels": (lambda _: "[" * 10_000, "more than 32 objects or arrays inside each other"),
    "a list for an object": (put("versions", [[]]), r"versions: \[\[\]\]; input should"),
    "deep objects": (lambda _: '{"a":' * 5000 + "1" + "}" * 5000, "inside each other"),
    "an integer of 100,000 digits": (
        swap('"seed":5', '"seed":' + "9" * 100_000),
        "an integer of 100,000 characters",
    ),
    "an integer of 21 digits": (swap('"seed":5', '"seed":' + "9" * 21), "of 21 characters"),
    "a float of 100,000 digits": (
        swap('"temperature":1.3', '"temperature":1.' + "3" * 100_000),
        "not canonical",
    ),
    "NaN": (swap('"temperature":1.3', '"temperature":NaN'), "NaN is no number of JSON"),
    "Infinity": (swap('"log_loss":0.5', '"log_loss":Infinity'), "Infinity is no number"),
    "-Infinity": (swap('"log_loss":0.5', '"log_loss":-Infinity'), "-Infinity is no number"),
    "1e999": (swap('"log_loss":0.5', '"log_loss":1e999'), "number 1e999 is out of range"),
    "-0": (swap('"seed":5', '"seed":-0'), "not canonical: differs"),
    "another form of a number": (swap('"log_loss":0.5', '"log_loss":5e-1'), "not canonical"),
    "a key twice": (swap('"builder":1', '"builder":1,"builder":1'), "key 'builder' stands twice"),
    "a key twice, deep": (swap('"seed":5', '"seed":5,"seed":5'), "key 'seed' stands twice"),
    "a lone surrogate": (swap('"edge_stl":"0.1"', '"edge_stl":"\\ud800"'), "not canonical"),
    "an escaped letter": (swap('"box":"cam01"', '"box":"\\u0063am01"'), "not canonical"),
    "a byte order mark": (lambda t: "\ufeff" + t, "begins with a byte order mark"),
    "a byte more than 4 MiB": (
        lambda t: t.replace('"0.1"', '"' + "0" * (MANIFEST_CAPS.size + 4 - len(t)) + '"'),
        "4,194,305 bytes of JSON; at most 4,194,304",
    ),
    "a million items": (swap('"train":[10,10]', '"train":[' + "0," * 10**6 + "0]"), "items; at m"),
    "30,000 empty arrays": (
        swap('"train":[10,10]', '"train":[' + "[]," * 30_000 + "0]"),
        "objects and arrays; at most 20,000 are read",
    ),
    "25,000 keys": (
        swap('"edge_stl":"0.1"', ",".join(f'"k{i}":0' for i in range(25_000))),
        "keys; at most 20,000 are read",
    ),
    "15,000 unknown keys": (
        put("versions", {f"k{i:05}": 0 for i in range(15_000)}),
        "versions",
    ),
    "an unknown key": (put("path", "/home/x"), "path: unknown key"),
    "an unknown key of the plan": (put("plan.secret", 1), "secret: unknown key"),
    "a text for an integer": (put("training.epochs", "1"), "training.epochs: '1'"),
    "a text for a float": (put("temperature", "1.3"), "temperature: '1.3'"),
    "a float for an integer": (put("training.epochs", 1.5), "training.epochs: 1.5"),
    "a truth for an integer": (put("training.epochs", True), "training.epochs: True"),
    "null for a text": (put("box", None), "box: None"),
    "an object for a list": (put("images.train", {}), "images.train"),
    "a list for the whole": (lambda _: "[]", "the manifest has no plan"),
    "nothing": (lambda _: "", "no JSON"),
    "half of it": (lambda t: t[: len(t) // 2], "no JSON"),
    "something after it": (lambda t: t + "{}", "no JSON"),
    "a comment": (lambda t: t + "//", "no JSON"),
    "single quotes": (lambda t: t.replace('"', "'"), "no JSON"),
    "a quotation mark without end": (lambda t: t + '"' + '\\"' * 200_000, "no JSON"),
    "a space": (lambda t: t.replace(":", ": ", 1), "not canonical: a space at character"),
    "other order": (
        lambda t: json.dumps(dict(reversed(json.loads(t).items())), separators=(",", ":")),
        "not canonical",
    ),
    # of 2.5: what no box can have measured
    "a temperature of 0.04": (put("temperature", 0.04), "temperature: 0.04"),
    "a temperature of 21": (put("temperature", 21.0), "temperature: 21"),
    "a loss of 30": (put("validation.log_loss", 30.0), "validation.log_loss: 30"),
    "an accuracy of 1.01": (put("validation.accuracy", 1.01), "validation.accuracy: 1.01"),
    "10^13 images": (put("images.train", [10**13, 1]), "images.train"),
    "a camera out of range": (
        put("camera", {"images": 20, "native": [2.0, 0.0, 0.0], "coarser": {}}),
        "camera.native",
    ),
    "10^6 epochs": (put("training.epochs", 10**6), "training.epochs: 1000000"),
    "a million rows": (put("test_vector.logits", [[]] * 9000), "test_vector.logits"),
}  # fmt: skip


@pytest.mark.parametrize("what", MANIFESTS)
def test_a_manifest_that_no_box_writes_is_refused(what: str, honest: str):
    change, said = MANIFESTS[what]
    with pytest.raises((ValueError, EdgeStlError), match=said) as caught:
        parse_manifest(change(honest))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 10_000


def test_the_honest_manifest_is_read(honest: str):
    manifest, plan = parse_manifest(honest)
    assert manifest_text(manifest, plan) == honest


def test_caps_count_what_they_say():
    caps = JsonCaps(size=40, containers=3, items=3, keys=2)
    assert strict_json('{"a":[1,2,3],"b":[]}', caps) == {"a": [1, 2, 3], "b": []}
    for text, said in (
        ('"' + "é" * 20 + '"', "42 bytes of JSON; at most 40"),
        ("[[],[],[]]", "4 objects and arrays; at most 3"),
        ("[1,2,3,4,5]", "4 items; at most 3"),
        ('{"a":1,"b":2,"c":3}', "3 keys; at most 2"),
    ):
        with pytest.raises(Refused, match=said):
            strict_json(text, caps)


def test_brackets_in_a_text_are_no_depth():
    text = json.dumps(["[" * 40, '\\"' + "{" * 40], separators=(",", ":"))
    assert strict_json(text, JsonCaps(1000, 200, 10, 10)) == json.loads(text)

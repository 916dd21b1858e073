"""The check that looks through every branch file of every test finds what it is there for."""

import getpass
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edge_stl.plan import new_plan, plan_from_document
from exporter.branch import build_branch


CLASSES = ["bus", "car"]
Leaks = Callable[[bytes], list[str]]


def branch_bytes(
    manifest_for: Any,
    parameters_of: Any,
    *,
    floor: int = 0,
    counts: tuple[int, int] = (10, 10),
    change: Callable[[onnx.ModelProto], object] = lambda _: None,
) -> bytes:
    document = new_plan(classes=CLASSES, resolution=8, levels=1, network="mlp-s").to_document()
    plan = plan_from_document(document | {"privacy": {"min_count": floor}}, where="test")
    manifest = manifest_for(plan, "d1", counts=counts)
    data = build_branch(manifest, plan, parameters_of(plan, "d1", seed=0))
    model = onnx.load_from_string(data)
    change(model)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    "word",
    [
        str(Path.home() / "photos"),
        str(Path.cwd()),
        f"{tempfile.gettempdir()}/work",
        socket.gethostname(),
        f"by {getpass.getuser()}.",
        "IMG_0001.JPG",
        "labels.csv",
    ],
    ids=["home", "here", "temporary", "host", "user", "photo", "table"],
)
@pytest.mark.parametrize("place", ["doc_string", "property", "node", "producer"])
def test_a_word_of_the_box_is_found_wherever_it_hides(
    word: str, place: str, manifest_for: Any, parameters_of: Any, leaks_of: Leaks
):
    def hide(model: onnx.ModelProto) -> None:
        match place:
            case "doc_string":
                model.graph.doc_string = word
            case "property":
                model.metadata_props.add(key="note", value=word)
            case "node":
                model.graph.node[0].name = word
            case _:
                model.producer_name = word

    assert leaks_of(branch_bytes(manifest_for, parameters_of)) == []
    assert leaks_of(branch_bytes(manifest_for, parameters_of, change=hide)) != []


def test_counts_below_the_floor_are_found(manifest_for: Any, parameters_of: Any, leaks_of: Leaks):
    few = branch_bytes(manifest_for, parameters_of, floor=10, counts=(9, 0))
    assert "a count of 9" in leaks_of(few)
    assert "a count of 9" not in leaks_of(branch_bytes(manifest_for, parameters_of, counts=(9, 0)))


def test_numbers_of_the_network_are_no_words(
    manifest_for: Any, parameters_of: Any, leaks_of: Leaks
):
    def write(model: onnx.ModelProto) -> None:
        raw = np.frombuffer(b" " + getpass.getuser().encode() + b" " * 11, np.uint8)
        tensor = model.graph.initializer[0]
        tensor.raw_data = raw.tobytes()[:16] + tensor.raw_data[16:]

    assert leaks_of(branch_bytes(manifest_for, parameters_of, change=write)) == []


def test_bytes_that_are_no_branch_file_give_nothing(leaks_of: Leaks):
    assert leaks_of(b"not a model") == []

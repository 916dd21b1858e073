"""Two looks at a folder are compared by one number per image, and a scan takes what a look saw."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from device_agent.snapshot import Snapshot, need_snapshot, read_snapshot, write_snapshot
from edge_stl.errors import DataError, ResourceError
from edge_stl.images import identities, scan
from edge_stl.images._only import contains


CLASSES = ["bus", "car"]


def files(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"photo")
    return root


def test_there_is_one_number_per_image_that_a_scan_finds(tmp_path: Path):
    files(tmp_path, "bus/a.png", "bus/in/b.jpg", "car/c.webp", "car/notes.txt", "stray.png")
    seen = identities(tmp_path)

    assert len(seen) == len(scan(tmp_path, CLASSES)) == 3
    assert (np.diff(seen.astype(object)) > 0).all()
    np.testing.assert_array_equal(seen, identities(tmp_path))


def change_size(path: Path) -> None:
    status = path.stat()
    path.write_bytes(b"photograph")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def change_time(path: Path) -> None:
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def change_name(path: Path) -> None:
    path.rename(path.with_name("other.png"))


def change_class(path: Path) -> None:
    (path.parents[1] / "car").mkdir(exist_ok=True)
    path.rename(path.parents[1] / "car" / path.name)


@pytest.mark.parametrize("change", [change_size, change_time, change_name, change_class])
def test_an_image_that_changed_is_another_one(tmp_path: Path, change: Callable[[Path], None]):
    files(tmp_path, "bus/a.png", "bus/b.png")
    before = identities(tmp_path)
    change(tmp_path / "bus" / "a.png")
    after = identities(tmp_path)

    assert len(np.intersect1d(before, after)) == 1
    found = scan(tmp_path, CLASSES, only=before)
    assert found.paths == ("bus/b.png",)
    assert found.left_out == {"not_yet": 1}


def test_a_label_of_a_table_is_part_of_an_image(tmp_path: Path):
    files(tmp_path, "a.png", "b.png")
    table = tmp_path / "labels.csv"
    table.write_text("file_name,label\na.png,bus\nb.png,car\nmissing.png,car\n")
    before = identities(tmp_path)
    assert len(scan(tmp_path, CLASSES, only=before)) == len(before) == 2
    table.write_text("file_name,label\na.png,car\nb.png,car\n")

    assert scan(tmp_path, CLASSES, only=before).paths == ("b.png",)


def test_a_scan_without_a_choice_and_one_of_all_are_the_same(tmp_path: Path):
    files(tmp_path, "bus/é.png", "bus/e\u0301.png", "car/\udcff.png")
    all_of_them, chosen = (
        scan(tmp_path, CLASSES),
        scan(tmp_path, CLASSES, only=identities(tmp_path)),
    )

    assert chosen.paths == all_of_them.paths
    assert chosen.digest == all_of_them.digest
    assert chosen.left_out == {}


def test_class_folders_that_no_plan_knows_are_looked_at_too(tmp_path: Path):
    assert len(identities(files(tmp_path, "bus/a.png", "tram/b.png"))) == 2


def test_a_folder_that_is_none_is_told(tmp_path: Path):
    assert len(identities(tmp_path)) == 0
    with pytest.raises(DataError, match="is no folder"):
        identities(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no image of a class"):
        scan(files(tmp_path, "bus/a.png"), CLASSES, only=np.zeros(0, np.uint64))


def test_a_look_at_very_many_files_tells_that_it_goes_on(tmp_path: Path):
    (tmp_path / "bus").mkdir()
    for i in range(3000):
        (tmp_path / "bus" / f"{i}.png").touch()
    told = []
    identities(tmp_path, told=lambda: told.append(1))

    assert len(told) == 2


def test_membership_is_exact_at_both_ends():
    known = np.array([0, 5, 2**64 - 1], np.uint64)
    asked = np.array([2**64 - 1, 4, 0, 6, 5], np.uint64)

    assert [contains(known, int(x)) for x in asked] == [True, False, True, False, True]
    assert not any(contains(known[:0], int(x)) for x in asked)


def test_a_snapshot_comes_back_and_a_damaged_one_does_not(tmp_path: Path):
    path = tmp_path / "watch.wanted"
    snapshot = Snapshot(np.array([1, 2**63], np.uint64), {"plan": "ab"})
    write_snapshot(path, snapshot)
    assert snapshot.same(read_snapshot(path))
    assert snapshot.same(need_snapshot(path))
    assert not snapshot.same(Snapshot(snapshot.images, {"plan": "cd"}))
    assert not snapshot.same(Snapshot(snapshot.images[:1], {"plan": "ab"}))
    assert not snapshot.same(None)

    path.write_bytes(path.read_bytes()[:-8])
    assert read_snapshot(path) is None
    with pytest.raises(ResourceError, match="is missing or damaged"):
        need_snapshot(path)


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[]\n", b'{"format":2,"asked":{},"images":0}\n', b"[" * 99_999, b"\xff\n12345678",
     b'{"format":1,"asked":[],"images":0}\n', b'{"format":1,"asked":{},"images":1}\n1234567'],
)  # fmt: skip
def test_a_snapshot_of_another_make_counts_as_not_there(tmp_path: Path, body: bytes):
    from edge_stl.durable import write_record

    write_record(tmp_path / "s", body)
    assert read_snapshot(tmp_path / "s") is None

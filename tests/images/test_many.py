"""A list of very many images takes little memory, and says what one of strings would."""

import hashlib
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from edge_stl.images import Chosen, LeftOutFiles, Paths, _sorter, scan
from edge_stl.images._sorter import Sorter


NAMES = st.text(st.sampled_from("aZ0 é\u0301-😀\n\udcff\udc80\uffff/"), min_size=1, max_size=8)


@given(names=st.lists(NAMES, max_size=50), run=st.integers(1, 9), block=st.integers(1, 5))
@settings(deadline=None)
def test_sorting_in_runs_is_sorting(names: list[str], run: int, block: int):
    records = [(name, str(i)) for i, name in enumerate(names)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_sorter, "_RUN", run)
        patch.setattr(_sorter, "_BLOCK", block)
        sorter = Sorter(2)
        for record in records:
            sorter.add(*record)
        assert len(sorter) == len(records)
        assert list(sorter.drain()) == sorted(records)
        assert list(sorter.drain()) == []
        assert len(sorter) == 0


@given(names=st.lists(NAMES, max_size=30), data=st.data())
@settings(deadline=None)
def test_compressed_names_are_a_sequence_of_strings(names: list[str], data: st.DataObject):
    paths = Paths(names)
    keep = np.array([data.draw(st.booleans()) for _ in names], dtype=bool)
    chosen = Chosen.where(paths, keep)
    fewer = [name for name, kept in zip(names, keep, strict=True) if kept]

    for lazy, plain in ((paths, names), (chosen, fewer)):
        assert len(lazy) == len(plain)
        assert list(lazy) == plain
        assert [lazy[i] for i in range(-len(plain), len(plain))] == plain + plain
        assert lazy[1:-1] == tuple(plain[1:-1])
        assert lazy == plain
        assert lazy == tuple(plain)
        assert lazy != [*plain, "x"]
        assert lazy != "".join(plain)
        for wrong in (len(plain), -len(plain) - 1):
            with pytest.raises(IndexError, match=f"name {wrong} of {len(plain)}"):
                lazy[wrong]


def test_any_name_of_very_many_is_found():
    paths = Paths(f"{i:07}" for i in range(5001))

    assert [paths[i] for i in (0, 999, 1000, 1001, 5000, 2500, -1)] == [
        "0000000", "0000999", "0001000", "0001001", "0005000", "0002500", "0005000",
    ]  # fmt: skip
    assert repr(paths) == "Paths('0000000', '0000001', '0000002', …)"


def test_files_that_are_left_out_keep_their_reasons():
    files = LeftOutFiles(["a", "b", "c"], ["truncated", "no_class", "truncated"])

    assert [tuple(f) for f in files] == [
        ("a", "truncated"),
        ("b", "no_class"),
        ("c", "truncated"),
    ]
    assert len(LeftOutFiles()) == 0


def test_the_digest_of_a_list_is_what_it_always_was(tmp_path: Path):
    """Written out here: a cache and a checkpoint of an earlier run must be found again."""
    for name in ("car/b.png", "car/Z.png", "car/é\n.png", "tractor/a.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * len(name))
        os.utime(path, ns=(0, 12_345))
    lines = [
        b"car/Z.png\x000 9 12345\n", b"car/b.png\x000 9 12345\n",
        "car/é\n.png\x000 10 12345\n".encode(), b"tractor/a.png\x001 13 12345\n",
    ]  # fmt: skip

    assert scan(tmp_path, ("car", "tractor")).digest == hashlib.sha256(b"".join(lines)).hexdigest()


class Entry:
    """Stands in for an entry of a folder of very many."""

    status = os.stat_result((0o100644, 1, 1, 1, 0, 0, 999, 0, 0, 0))

    def __init__(self, name: str) -> None:
        self.name = name

    def is_dir(self) -> bool:
        return False

    def stat(self) -> os.stat_result:
        return self.status


def test_a_hundred_thousand_images_take_some_bytes_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    count = 100_000
    (tmp_path / "car").mkdir()
    real = os.scandir

    class Folder:
        def __enter__(self) -> object:
            order = ((i * 7919) % count for i in range(count))
            return (Entry(f"camera-3-{i:07}.jpg") for i in order)

        def __exit__(self, *_: object) -> None:
            pass

    def scandir(path: Path) -> object:
        return Folder() if Path(path).name == "car" else real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    tracemalloc.start()
    images = scan(tmp_path, ("car",))
    kept, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert len(images) == count
    assert images.paths[12_345] == "car/camera-3-0012345.jpg"
    assert isinstance(images.paths, Paths)
    assert images.paths.nbytes < 8 * count
    assert kept - images.labels.nbytes < 12 * count
    # a run that is being sorted; as strings alone they would be 20 MB at least
    assert most < 18_000_000


_MILLION = """
import sys, time
import numpy
from edge_stl.images import scan

def memory(what):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1000

before, began = memory("VmRSS"), time.perf_counter()
images = scan(sys.argv[1], ("car", "tractor"))
print(len(images), time.perf_counter() - began, memory("VmHWM") - before)
"""


@pytest.mark.skipif(not os.environ.get("EDGE_STL_NIGHT"), reason="make test-night")
def test_a_million_files_take_64_mb(tmp_path: Path):
    for i in range(1_000_000):
        path = tmp_path / ("car", "tractor")[i % 2] / f"{(i * 7919) % 1_000_000:07}.jpg"
        if i < 2:
            path.parent.mkdir()
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))

    done = subprocess.run(
        [sys.executable, "-c", _MILLION, tmp_path],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )

    count, seconds, megabytes = map(float, done.stdout.split())
    print(f"{seconds:.1f} s, {megabytes:.0f} MB")  # noqa: T201
    assert count == 1_000_000
    assert megabytes <= 64

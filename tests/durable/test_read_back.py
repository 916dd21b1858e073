"""A file counts as written once it was read again, and until then the old one stays."""

import os
from pathlib import Path
from typing import Any

import pytest

from edge_stl.durable import _files, write_durably
from edge_stl.errors import ResourceError


OLD, NEW = b"old" * 1000, bytes(range(256)) * 5000  # more than one block


class Forgetful:
    """Stands in for `os` on a medium that takes every byte and gives back what it likes."""

    def __init__(self, change: Any) -> None:
        self.change, self.calls = change, []

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in {"read", "fsync", "replace", "posix_fadvise"}:
            return real

        def call(*arguments: Any) -> Any:
            self.calls.append(name)
            return self.change(real(*arguments)) if name == "read" else real(*arguments)

        return call


def flip_last(block: bytes) -> bytes:
    return block[:-1] + bytes([block[-1] ^ 1]) if block else block


@pytest.mark.parametrize(
    "change",
    [flip_last, lambda b: b[1:], lambda _: b"", lambda b: bytes(len(b)), lambda b: b or b"more"],
    ids=["a bit", "a byte missing", "nothing", "zeros", "bytes behind the end"],
)
def test_what_does_not_read_back_never_takes_the_place_of_the_old_file(
    change: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "d1.cam07.onnx"
    path.write_bytes(OLD)
    monkeypatch.setattr(_files, "os", Forgetful(change))
    with pytest.raises(ResourceError, match=r"d1\.cam07\.onnx: did not read back .* use another"):
        write_durably(path, NEW)
    assert path.read_bytes() == OLD
    assert list(tmp_path.iterdir()) == [path]


def test_it_is_read_after_the_flush_and_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    medium = Forgetful(lambda block: block)
    monkeypatch.setattr(_files, "os", medium)
    write_durably(tmp_path / "file", NEW)
    assert (tmp_path / "file").read_bytes() == NEW
    order = list(dict.fromkeys(medium.calls))
    assert order == ["fsync", "posix_fadvise", "read", "replace"]


def test_an_empty_file_reads_back(tmp_path: Path):
    write_durably(tmp_path / "file", b"")
    assert (tmp_path / "file").read_bytes() == b""


def test_what_is_written_every_few_seconds_and_proves_itself_is_not_read_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    medium = Forgetful(flip_last)
    monkeypatch.setattr(_files, "os", medium)
    write_durably(tmp_path / "file", NEW, read_back=False)
    assert (tmp_path / "file").read_bytes() == NEW
    assert "read" not in medium.calls

"""A file from outside is read once, whatever stands under its name and whoever changes it."""

import errno
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_stl.durable import read_once, write_new
from edge_stl.errors import DataError, ResourceError, UsageError


def read(path: Path, most: int = 10**6) -> bytes:
    return read_once(path, most=most, expected="a thing").data


def test_the_bytes_come_as_they_are(tmp_path: Path):
    for data in (b"", b"x", bytes(range(256)) * 999):
        (tmp_path / "f").write_bytes(data)
        assert read(tmp_path / "f") == data
    (tmp_path / "f").chmod(0o640)
    assert read_once(tmp_path / "f", most=10**6, expected="").mode == 0o640


def linked(path: Path) -> None:
    path.with_name("real").write_bytes(b"secret")
    path.symlink_to("real")


def twice(path: Path) -> None:
    path.with_name("real").write_bytes(b"secret")
    path.hardlink_to(path.with_name("real"))


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**32 + 1)


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as door:
        here = Path.cwd()
        os.chdir(path.parent)  # a socket's path has 108 bytes
        try:
            door.bind(path.name)
        finally:
            os.chdir(here)


PLACED: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda _: None, "there is no such file"),
    "link": (linked, "is a link, which is not followed"),
    "dangling link": (lambda p: p.symlink_to("nowhere"), "is a link, which is not followed"),
    "link to itself": (lambda p: p.symlink_to(p.name), "is a link, which is not followed"),
    "link to a device": (lambda p: p.symlink_to("/dev/zero"), "is a link, which is not followed"),
    "hard link": (twice, r"has 2 names \(hard links\).* Make a copy with cp"),
    "pipe": (os.mkfifo, "not a regular file"),
    "socket": (listening, "not a regular file"),
    "folder": (Path.mkdir, "not a regular file"),
    "too large": (lambda p: p.write_bytes(b"x" * 11), "11 bytes; a thing has at most 10"),
    "far too large": (sparse, "4294967297 bytes; a thing has at most 10"),
}  # fmt: skip


@pytest.mark.parametrize("name", PLACED)
def test_what_is_no_plain_file_is_refused(name: str, tmp_path: Path):
    place, said = PLACED[name]
    place(tmp_path / "f")
    with pytest.raises(DataError, match=said) as caught:
        read(tmp_path / "f", most=10)
    assert str(caught.value).startswith(f"{tmp_path / 'f'}: ")
    with pytest.raises(UsageError, match=said):
        read_once(tmp_path / "f", most=10, expected="a thing", error=UsageError)


def test_a_device_is_not_read():
    with pytest.raises(DataError, match="/dev/zero: not a regular file"):
        read(Path("/dev/zero"))


def test_a_file_that_a_folder_is_in_the_way_of_is_missing(tmp_path: Path):
    (tmp_path / "f").write_text("")
    with pytest.raises(DataError, match="there is no such file"):
        read(tmp_path / "f" / "g")


@pytest.mark.parametrize("change", ["longer", "shorter", "other"])
def test_a_file_that_changes_while_it_is_read_is_refused(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "f"
    path.write_bytes(b"a" * 100)
    os.utime(path, (1, 1))
    real = os.read

    def slow(descriptor: int, size: int) -> bytes:
        part = real(descriptor, min(size, 50))
        if path.stat().st_mtime == 1:
            new = {"longer": b"b" * 200, "shorter": b"b" * 60, "other": b"b" * 100}[change]
            path.write_bytes(new)
        return part

    monkeypatch.setattr("os.read", slow)
    with pytest.raises(
        DataError, match=r"changed while it was read; .* Try again when it is there"
    ):
        read(path)


def test_a_disk_that_does_not_give_the_bytes_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "f").write_bytes(b"x")

    def bad(*_: int) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.read", bad)
    with pytest.raises(DataError, match=r"f: cannot be read \(Input/output error\)"):
        read(tmp_path / "f")


def test_a_thousand_races_never_mix_two_files(tmp_path: Path):
    """Files, links and pipes are swapped in while it is read: one of the files, or a refusal."""
    one, two = b"1" * 200_000, b"2" * 200_000
    path, secret = tmp_path / "f", tmp_path / "secret"
    secret.write_bytes(b"3" * 200_000)
    path.write_bytes(one)
    done = threading.Event()

    def swap() -> None:
        side, turn = tmp_path / "side", 0
        while not done.is_set():
            turn += 1
            if turn % 4 == 2:
                side.symlink_to(secret)
            elif turn % 4 == 3:
                os.mkfifo(side)
            else:
                side.write_bytes(one if turn % 4 else two)
            side.replace(path)

    thread = threading.Thread(target=swap)
    thread.start()
    seen = {"one": 0, "two": 0, "refused": 0}
    try:
        for _ in range(1000):
            try:
                data = read(path)
            except DataError:
                seen["refused"] += 1
            else:
                assert data in (one, two)
                seen["one" if data == one else "two"] += 1
    finally:
        done.set()
        thread.join()
    assert sum(seen.values()) == 1000
    assert seen["refused"]
    assert seen["one"] + seen["two"]


def test_a_file_on_a_stick_that_was_pulled_out_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Then not even the question whether it is there has an answer."""
    path = tmp_path / "a"

    def gone(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        for name in ("open", "stat", "lstat"):
            patch.setattr(os, name, gone)
        with pytest.raises(DataError, match=r"a: cannot be read \(Input/output error\); expected"):
            read_once(path, most=10, expected="a file")


def test_a_private_file_is_not_made_where_others_could_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """FAT and exFAT keep no permissions: what was asked for is not what stands there."""
    path = tmp_path / "key"
    with monkeypatch.context() as patch:
        patch.setattr("edge_stl.durable._new_file.stat.S_IMODE", lambda _: 0o777)
        with pytest.raises(ResourceError, match=r"a private key would be .* \(mode 0777\), for"):
            write_new(path, b"secret", mode=0o600, what="a private key")
        assert not path.exists()
        write_new(path, b"for all", mode=0o644, what="a public key")
    assert path.read_bytes() == b"for all"

"""Branch files and ensembles on FAT and exFAT: no links, no permissions, names in any case."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_stl.durable import _files, write_durably
from edge_stl.errors import ResourceError
from edge_stl.plan import new_plan
from tests.sticks.conftest import Stick


PLAN = new_plan(classes=["bus", "car"], resolution=8, levels=1, channels=1, network="mlp-s")
Said = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def files(
    fabricate_fleet: Callable[..., list[Path]], tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    return fabricate_fleet(PLAN, tmp_path_factory.mktemp("local"), uneven=False)


@pytest.fixture
def carried(stick: Stick, files: list[Path]) -> list[Path]:
    """The same files on the stick."""
    paths = [stick.root / path.name for path in files]
    for path, file in zip(paths, files, strict=True):
        path.write_bytes(file.read_bytes())
    return paths


def fill(stick: Stick, *, leave: int) -> Path:
    """Fill the stick up, but for some bytes."""
    path, size = stick.root / "photos.bin", 1 << 20
    with path.open("wb", buffering=0) as out:
        while size:
            try:
                out.write(bytes(size))
            except OSError:
                size //= 2
    os.truncate(path, max(0, path.stat().st_size - leave))
    return path


def one_line(text: str) -> bool:
    return text != "" and "\n" not in text and "Traceback" not in text


def test_merge_split_check_and_inspect_do_on_a_stick_what_they_do_elsewhere(
    stick: Stick, carried: list[Path], files: list[Path], tmp_path: Path, capsys: Any, said: Said
):
    here, there = tmp_path / "e.onnx", stick.root / "ensemble.onnx"
    assert said(capsys, "merge", *files, "-o", here, "-q")[0] == 0
    assert said(capsys, "merge", *carried, "-o", there, "-q")[0] == 0
    assert there.read_bytes() == here.read_bytes()
    assert said(capsys, "check", there)[0] == 0
    assert said(capsys, "inspect", there)[0] == 0
    assert said(capsys, "split", there, "-o", stick.root / "branches")[0] == 0
    for file in files:
        assert (stick.root / "branches" / file.name).read_bytes() == file.read_bytes()
    removed = stick.root / "without.onnx"
    assert said(capsys, "merge", there, "--remove", "box1", "-o", removed, "-q")[0] == 0
    names = {path.name for path in stick.root.iterdir()}
    assert names == {*(f.name for f in files), "ensemble.onnx", "without.onnx", "branches"}

    stick.pull()
    stick.plug()
    assert there.read_bytes() == here.read_bytes()


def test_a_name_in_another_case_is_the_same_file(
    stick: Stick, carried: list[Path], capsys: Any, said: Said
):
    shouted = [path.with_name(path.name.upper()) for path in carried]
    assert said(capsys, "merge", *shouted, "-o", stick.root / "e.onnx", "-q")[0] == 0
    first = (stick.root / "e.onnx").read_bytes()
    # every file twice: the same bytes count once, and the old ensemble is replaced
    code, _ = said(capsys, "merge", *carried, *shouted, "-o", stick.root / "E.ONNX", "-q")
    assert code == 0
    assert [p.name.lower() for p in stick.root.iterdir()].count("e.onnx") == 1
    assert (stick.root / "e.onnx").read_bytes() == first


def test_train_writes_its_files_onto_a_stick(
    stick: Stick, pictures: Callable[..., Path], tmp_path: Path, capsys: Any, said: Said
):
    plan, images = tmp_path / "plan.toml", pictures(tmp_path / "photos", ["bus", "car"], side=8)
    made = ("plan", "new", "--classes", "bus,car", "--resolution", "8", "--transform", "haar")
    assert said(capsys, *made, "--levels", "1", "--network", "mlp-s", "-o", plan)[0] == 0
    run = ("train", plan, images, "--box", "cam01", "--epochs", "1", "--threads", "1", "-q")
    local, away = tmp_path / "out", stick.root / "out"
    assert said(capsys, *run, "-o", local, "--work", tmp_path / "work")[0] == 0
    assert said(capsys, *run, "-o", away, "--work", tmp_path / "other")[0] == 0
    assert {p.name: p.read_bytes() for p in away.iterdir()} == {
        p.name: p.read_bytes() for p in local.iterdir()
    }


def test_signatures_travel_on_a_stick_and_keys_only_where_nobody_else_reads_them(
    stick: Stick, carried: list[Path], tmp_path: Path, capsys: Any, said: Said
):
    own = [path for path in carried if ".box0." in path.name]
    key, trust = tmp_path / "box0.key", tmp_path / "trust.toml"
    assert said(capsys, "keygen", "-o", key)[0] == 0
    assert said(capsys, "sign", *own, "--key", key, "--work", tmp_path / "work")[0] == 0
    assert said(capsys, "trust", "add", "box0", f"{key}.pub", "--trust", trust)[0] == 0
    ensemble = stick.root / "e.onnx"
    assert said(capsys, "merge", *own, "-o", ensemble, "--trust", trust, "-q")[0] == 0

    away = stick.root / "away.key"
    everyone = own[0].stat().st_mode & 0o077  # FAT knows no permissions; its driver makes them up
    code, text = said(capsys, "keygen", "-o", away)
    if not everyone:
        assert code == 0
        return
    assert (code, one_line(text)) == (20, True), text
    assert "a private key would be readable by others there (mode 0" in text
    assert not away.exists()
    assert not away.with_name("away.key.pub").exists()


def test_deploy_works_from_a_stick_and_onto_one(
    stick: Stick, carried: list[Path], tmp_path: Path, capsys: Any, said: Said
):
    ensemble = stick.root / "e.onnx"
    assert said(capsys, "merge", *carried, "-o", ensemble, "-q")[0] == 0
    for slots in (tmp_path / "slots", stick.root / "slots"):
        assert said(capsys, "deploy", ensemble, slots)[0] == 0
        assert said(capsys, "deploy", ensemble, slots)[0] == 0
        assert said(capsys, "deploy", "--back", slots)[0] == 0
        assert said(capsys, "deploy", "--status", slots)[0] == 0


def test_a_full_stick_keeps_the_old_ensemble_and_says_so(
    stick: Stick, carried: list[Path], capsys: Any, said: Said
):
    ensemble = stick.root / "e.onnx"
    assert said(capsys, "merge", carried[0], "-o", ensemble, "-q")[0] == 0
    old = ensemble.read_bytes()
    filler = fill(stick, leave=2048)
    code, text = said(capsys, "merge", *carried, "-o", ensemble, "-q")
    assert (code, one_line(text)) == (20, True), text
    assert "e.onnx: cannot be written" in text
    assert ensemble.read_bytes() == old
    assert not [p for p in stick.root.iterdir() if p.name.endswith(".tmp")]
    filler.unlink()
    assert said(capsys, "merge", *carried, "-o", ensemble, "-q")[0] == 0
    assert ensemble.read_bytes() != old


def test_a_file_that_was_cut_on_the_stick_is_named_and_refused(
    stick: Stick, carried: list[Path], capsys: Any, said: Said
):
    os.truncate(carried[0], carried[0].stat().st_size // 2)
    code, text = said(capsys, "merge", *carried, "-o", stick.root / "e.onnx", "-q")
    assert (code, one_line(text)) == (50, True), text
    assert carried[0].name in text
    assert not (stick.root / "e.onnx").exists()


def test_a_stick_that_is_gone_is_one_line_for_every_verb(
    stick: Stick, carried: list[Path], files: list[Path], tmp_path: Path, capsys: Any, said: Said
):
    local = tmp_path / "local.onnx"
    assert said(capsys, "merge", *files, "-o", local, "-q")[0] == 0
    stick.unplug()
    gone = stick.root / "e.onnx"
    for expected, arguments in (
        (10, ("inspect", gone)),
        (10, ("check", gone)),
        (10, ("predict", gone, local)),
        (50, ("merge", *carried, "-o", tmp_path / "x.onnx", "-q")),
        (20, ("merge", *files, "-o", gone, "-q")),
        (20, ("split", local, "-o", stick.root / "branches")),
        (10, ("deploy", gone, tmp_path / "slots")),
        (20, ("deploy", local, stick.root / "slots")),
    ):
        code, text = said(capsys, *arguments)
        assert one_line(text), (arguments, text)
        assert code == expected, (arguments, text)


CALLS = ("open", "write", "fsync", "read", "replace", "listdir")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_stick_unplugged_at_any_call_has_the_old_file_or_the_new(
    call: str, after: bool, stick: Stick, monkeypatch: pytest.MonkeyPatch
):
    path, old, new = stick.root / "e.onnx", b"old" * 1000, bytes(range(256)) * 500
    write_durably(path, old)
    stick.pull()
    stick.plug()  # what stands there is on the medium

    class Unplugging:
        def __getattr__(self, name: str) -> Any:
            real = getattr(os, name)

            def unplug(*arguments: Any, **options: Any) -> Any:
                done = real(*arguments, **options) if after else None
                stick.unplug()
                return done if after else real(*arguments, **options)

            return unplug if name == call else real

    monkeypatch.setattr(_files, "os", Unplugging())
    with pytest.raises(ResourceError, match=r"e\.onnx: (cannot be written|did not read back)"):
        write_durably(path, new)
    monkeypatch.undo()
    monkeypatch.setattr(_files, "_runs", lambda _: False)  # the program that lost it has ended
    stick.pull()
    stick.plug()
    assert path.read_bytes() in (old, new)
    write_durably(path, new)
    assert path.read_bytes() == new
    assert [p.name for p in stick.root.iterdir()] == ["e.onnx"]

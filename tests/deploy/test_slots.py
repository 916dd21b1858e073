"""Two slots: one rename switches, one command goes back, and what serves is never lost."""

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_stl.cli import main
from edge_stl.deploy import _deploy, _self_test, deploy, go_back, status
from edge_stl.durable import _files
from edge_stl.errors import DataError, IntegrityError, ResourceError
from edge_stl.predict import Ensemble, Slots
from edge_stl.testing import assert_parity
from tests.deploy.spoil import changed, set_numbers


IMAGES = np.random.default_rng(3).integers(0, 256, (4, 8, 8, 1)).astype(np.uint8)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pass the self-test without a child: these tests are about files."""

    def passed(file: Path, digest: str, *, name: str) -> _self_test.SelfTest:
        assert file.exists()
        assert len(digest) == 64
        assert name
        return _self_test.SelfTest(("bus", "car", "van"), 1.0, 0.0)

    monkeypatch.setattr(_self_test, "self_test", passed)


@pytest.fixture
def files(tmp_path: Path, old: bytes, new: bytes) -> Path:
    """A folder with both ensembles."""
    (tmp_path / "old.onnx").write_bytes(old)
    (tmp_path / "new.onnx").write_bytes(new)
    return tmp_path


@pytest.fixture
def both(files: Path, quick: None) -> Path:  # noqa: ARG001
    """Slots with the old one in a, the new one in b, which serves."""
    deploy(files / "old.onnx", files / "slots")
    deploy(files / "new.onnx", files / "slots")
    return files / "slots"


def answer(folder: Path) -> Any:
    return Slots(folder).open(threads=1)(IMAGES)


def same(got: Any, data: bytes) -> bool:
    return bool(np.abs(got - Ensemble(data, threads=1)(IMAGES)).max() == 0)


def test_one_command_deploys_one_goes_back_and_predict_uses_what_serves(
    files: Path,
    old: bytes,
    new: bytes,
    capsys: pytest.CaptureFixture[str],
    assert_schema: Callable[[Any, str], None],
    pictures: Callable[..., Path],
):
    """With the real self-test, through the command line."""
    slots = str(files / "slots")

    def run(*arguments: str) -> Any:
        assert main([*arguments, "--json"]) == 0
        out = capsys.readouterr()
        assert out.err == ""
        return json.loads(out.out)

    first = run("deploy", str(files / "old.onnx"), slots)
    second = run("deploy", str(files / "new.onnx"), slots)
    for document in (first, second):
        assert_schema(document, "deploy")
    assert (first["serving"], second["serving"]) == ("a", "b")
    assert [row["state"] for row in first["contents"]] == ["whole", "empty"]
    assert [row["serial"] for row in second["contents"]] == [1, 2]
    assert 0 <= second["self_test"]["difference"] < 1e-4
    assert second["self_test"]["classes"] == ["bus", "car", "van"]
    assert same(answer(files / "slots"), new)
    back = run("deploy", "--back", slots)
    assert_schema(back, "deploy")
    assert (back["serving"], back["current"], back["self_test"]) == ("a", "a", None)
    assert same(answer(files / "slots"), old)
    assert run("deploy", slots, "--status") == back

    folder = pictures(files / "photos", ["bus", "car"], count=2, side=16)
    image = str(folder / "bus" / "000.png")
    assert run("predict", "--slot", slots, image) == run("predict", str(files / "old.onnx"), image)
    assert run("evaluate", str(folder), "--slot", slots) == run(
        "evaluate", str(files / "old.onnx"), str(folder)
    )


def test_back_and_back_again(both: Path, old: bytes, new: bytes):
    assert same(answer(both), new)
    assert go_back(both) == "a"
    assert same(answer(both), old)
    assert go_back(both) == "b"
    assert same(answer(both), new)


def test_a_third_takes_the_slot_that_does_not_serve_and_leaves_no_litter(both: Path, old: bytes):
    (both.parent / "third.onnx").write_bytes(old)
    go_back(both)
    deploy(both.parent / "third.onnx", both)
    names = {p.name for p in both.iterdir()}
    assert status(both).serving == "b"
    assert len([n for n in names if n.endswith(".onnx")]) == 2
    assert {s.state for s in status(both).slots} == {"whole"}
    assert not [n for n in names if n.startswith(".")]


def do_damage(damage: str, both: Path, new: bytes) -> None:
    """Spoil slot b, which serves."""
    (path,) = both.glob("b-*.onnx")
    data = bytearray(new)
    data[len(data) // 2] ^= 1
    if damage in {"cut", "bit"}:
        path.write_bytes(data if damage == "bit" else new[:-1])
    elif damage == "record":
        for name in ("b.record", "b.record.previous"):
            (both / name).unlink(missing_ok=True)
    elif damage == "pointer":
        (both / "current").write_bytes(b"\x00\x00")
    elif damage in {"does not load", "other"}:  # a digest that holds, and a file that does not work
        spoiled = (
            new[:-1]
            if damage == "does not load"
            else changed(new, lambda m: set_numbers(m, "fusion/scale", 0.01))
        )
        (both.parent / "spoiled.onnx").write_bytes(spoiled)
        deploy(both.parent / "new.onnx", both)
        go_back(both)
        shutil.rmtree(both)
        deploy(both.parent / "old.onnx", both)
        deploy(both.parent / "spoiled.onnx", both)
    else:
        path.unlink()
        if damage == "link":
            path.symlink_to(both.parent / "new.onnx")
        elif damage == "folder":
            path.mkdir()
        elif damage == "pipe":
            os.mkfifo(path)


@pytest.mark.parametrize(
    "damage",
    ["cut", "bit", "gone", "link", "folder", "pipe", "record", "pointer", "does not load", "other"],
)
def test_a_damaged_slot_is_noticed_and_the_other_serves_with_one_note(
    damage: str, both: Path, old: bytes, new: bytes, capsys: pytest.CaptureFixture[str]
):
    do_damage(damage, both, new)
    slots = Slots(both)
    got = slots.open(threads=1)(IMAGES)
    assert same(got, new if damage == "pointer" else old)
    assert slots.note is not None
    assert "\n" not in slots.note
    assert not slots.changed()
    code = main(["predict", "--slot", str(both), str(both / "nothing.png")])
    said = capsys.readouterr().err.strip().splitlines()
    assert (code, said[0]) == (10, f"edge-stl: {slots.note}")
    assert len(said) == 2
    assert main(["deploy", "--status", str(both)]) == 0
    capsys.readouterr()
    # and the next deployment mends it
    if damage == "folder":
        next(both.glob("b-*.onnx")).rmdir()
    deploy(both.parent / "new.onnx", both)
    mended = Slots(both)
    assert same(mended.open(threads=1)(IMAGES), new)
    assert mended.note is None


def test_going_back_to_a_damaged_slot_is_refused_and_the_serving_stays(
    both: Path, new: bytes, capsys: pytest.CaptureFixture[str]
):
    (path,) = both.glob("a-*.onnx")
    path.write_bytes(path.read_bytes()[:-1])
    assert main(["deploy", "--back", str(both)]) == 60
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"edge-stl: {path}: damaged, its sha256 is not the recorded")
    assert same(answer(both), new)


def test_two_damaged_slots_are_exit_code_60(both: Path, capsys: pytest.CaptureFixture[str]):
    for path in both.glob("?-*.onnx"):
        path.write_bytes(b"")
    assert main(["predict", "--slot", str(both), "x.png"]) == 60
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "no slot works" in line
    assert main(["deploy", "--status", str(both), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["serving"] is None


def test_a_running_process_learns_that_another_serves(both: Path, new: bytes):
    slots = Slots(both)
    slots.open(threads=1)
    assert not slots.changed()
    go_back(both)
    assert slots.changed()
    slots.open(threads=1)
    assert not slots.changed()
    (both.parent / "again.onnx").write_bytes(new)
    deploy(both.parent / "again.onnx", both)
    assert slots.changed()


def test_who_opens_while_another_is_deployed_looks_again(
    both: Path, old: bytes, monkeypatch: pytest.MonkeyPatch
):
    """Both files that were named when it began are gone before it reads them."""
    slots, real = Slots(both), Slots.bytes_of
    calls: list[str] = []

    def late(self: Slots, slot: str) -> bytes:
        if self is slots and len(calls) < 2:
            calls.append(slot)
            if len(calls) == 2:
                go_back(both)
            raise IntegrityError("the file is gone")
        return real(self, slot)

    monkeypatch.setattr(Slots, "bytes_of", late)
    got = slots.open(threads=1)(IMAGES)
    assert same(got, old)
    assert slots.note is None


@pytest.mark.parametrize("command", ["deploy", "back"])
def test_two_do_not_deploy_at_once(both: Path, command: str):
    descriptor = os.open(both / "lock", os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    before = {p.name: p.read_bytes() for p in both.iterdir()}
    with pytest.raises(ResourceError, match=r"slots: somebody else deploys here now; expected one"):
        deploy(both.parent / "old.onnx", both) if command == "deploy" else go_back(both)
    assert {p.name: p.read_bytes() for p in both.iterdir()} == before
    os.close(descriptor)
    go_back(both)


def test_a_lock_that_is_a_link_is_not_followed(both: Path):
    (both / "lock").unlink()
    (both / "lock").symlink_to(both.parent / "elsewhere")
    with pytest.raises(ResourceError, match=r"lock: cannot be used"):
        go_back(both)
    assert not (both.parent / "elsewhere").exists()


CHANGES = ("write", "fsync", "replace", "unlink", "ftruncate")


class Failing:
    """Stands in for `os`: the n-th call that changes the disk, and all after it, go wrong."""

    def __init__(self, at: int, wrong: Callable[[], None]) -> None:
        self.count, self.at, self.wrong = 0, at, wrong

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in CHANGES:
            return real

        def call(*arguments: Any) -> Any:
            self.count += 1
            if self.count > self.at:
                self.wrong()
            return real(*arguments)

        return call


def full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def off() -> None:
    os._exit(77)


def enumerated(both: Path, monkeypatch: pytest.MonkeyPatch, act: Callable[[Path], object]) -> int:
    """Return how many calls that change the disk an action makes."""
    counting = Failing(10**9, full)
    copied = both.with_name("counted")
    shutil.copytree(both, copied)
    monkeypatch.setattr(_files, "os", counting)
    act(copied)
    monkeypatch.setattr(_files, "os", os)
    return counting.count


ACTIONS: dict[str, Callable[[Path], object]] = {
    "deploy": lambda folder: deploy(folder.parent / "third.onnx", folder),
    "back": go_back,
}


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("how", ["power", "disk"])
def test_after_any_call_a_whole_ensemble_serves_and_the_next_try_succeeds(
    action: str,
    how: str,
    both: Path,
    old: bytes,
    new: bytes,
    merged: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
):
    """Power that goes, in a forked child; a disk full from some call on, in this process."""
    third = merged(weights="geometric")
    (both.parent / "third.onnx").write_bytes(third)
    act, after = ACTIONS[action], third if action == "deploy" else old
    wanted = Ensemble(after, threads=1)(IMAGES)
    before = Ensemble(new, threads=1)(IMAGES)
    total = enumerated(both, monkeypatch, act)
    assert total >= (11 if action == "deploy" else 3)
    served = set()
    for at in range(total):
        here = both.with_name(f"at{at}")
        shutil.copytree(both, here)
        if how == "disk":
            monkeypatch.setattr(_files, "os", Failing(at, full))
            with suppress(ResourceError):  # litter that cannot be removed is no error
                act(here)
            monkeypatch.setattr(_files, "os", os)
        else:
            child = os.fork()
            if child == 0:
                try:
                    _files.os = Failing(at, off)  # type: ignore[assignment]
                    act(here)
                finally:
                    os._exit(1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 77
        slots = Slots(here)
        got = slots.open(threads=1)(IMAGES)
        served.add(bool(np.array_equal(got, wanted)))
        assert np.array_equal(got, wanted) or np.array_equal(got, before), at
        assert slots.note is None, at
        assert {s.state for s in status(here).slots} == {"whole"}, at
        if np.array_equal(got, before) and at % 3 == 0:
            act(here)
            assert_parity(Slots(here).open(threads=1)(IMAGES), wanted, kind="same_input")
            assert len(list(here.glob("?-*.onnx"))) == 2, at
        shutil.rmtree(here)
    assert False in served


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["slots"], 2, "1 path; expected two, an ensemble file and the folder"),
        (["a", "b", "c"], 2, "3 paths; expected two"),
        (["a", "slots", "--back"], 2, "2 paths; expected the folder of the slots alone"),
        (["slots", "--back", "--status"], 2, "--back and --status together"),
        (["slots", "--back", "--max-ms", "3"], 2, "tests nothing"),
        (["a", "slots", "--max-ms", "-1"], 2, "--max-ms"),
        (["missing.onnx", "slots"], 10, "missing.onnx: there is no such file"),
        (["link.onnx", "slots"], 10, "link.onnx: is a link, which is not followed"),
        (["pipe.onnx", "slots"], 10, "pipe.onnx: not a regular file"),
        ([".", "slots"], 10, "not a regular file"),
        (["nowhere", "--status"], 10, "nowhere: no ensemble was deployed here"),
        (["nowhere", "--back"], 10, "nowhere: no ensemble was deployed here"),
        (["old.onnx", "new.onnx"], 20, "new.onnx: cannot be made"),
    ],
)
def test_wrong_use_is_one_line(
    arguments: list[str],
    code: int,
    words: str,
    files: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(files)
    (files / "link.onnx").symlink_to("old.onnx")
    os.mkfifo(files / "pipe.onnx")
    assert main(["deploy", *arguments]) == code
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line
    assert not (files / "slots").exists()


def test_a_file_over_the_cap_is_not_read_to_its_end(files: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_deploy, "MAX_FILE_BYTES", 1000)
    with pytest.raises(DataError, match="an ensemble has at most 1000"):
        deploy(files / "old.onnx", files / "slots")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["predict", "--slot", "slots"], "Missing argument"),
        (["predict", "e.onnx"], "1 path; expected an ensemble file and image files"),
        (["evaluate", "e.onnx"], "1 path; expected an ensemble file and one folder of images"),
        (["evaluate", "--slot", "s", "a", "b"], "2 paths; expected one folder of images"),
    ],
)
def test_too_few_or_too_many_paths_are_told(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
):
    assert main(arguments) == 2
    assert words in capsys.readouterr().err


def test_an_empty_folder_serves_nothing(tmp_path: Path):
    with pytest.raises(DataError, match="no ensemble was deployed here"):
        Slots(tmp_path).open()


@pytest.mark.parametrize(
    "name", ["../old.onnx", "a-0.onnx", "/etc/passwd", "b-0123456789ab.onnx\n"]
)
def test_a_record_that_names_another_file_is_no_record(name: str, both: Path):
    from edge_stl.durable import write_record

    document = json.loads((both / "a.record").read_bytes().split(b"\n", 1)[1])
    write_record(both / "a.record", json.dumps(document | {"file": name}).encode())
    assert Slots(both).record("a") is None


def test_a_full_disk_is_one_line_and_exit_code_20(
    both: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(_files, "os", Failing(2, full))
    assert main(["deploy", str(both.parent / "old.onnx"), str(both)]) == 20
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "No space left on device" in line

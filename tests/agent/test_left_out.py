"""What a box leaves out is named on the box, whatever its name, and never in a branch file."""

import json
import os
import socket
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_stl.cli import main
from edge_stl.plan import new_plan, plan_toml


ODD = (
    "new\nline.jpg", "tab\t.jpg", "שלום.jpg", "\u202egpj.exe.jpg", "😀.jpg", "quote\"'.jpg",
    "-rf.jpg", "back\\slash.jpg", "x" * 251 + ".jpg", unicodedata.normalize("NFC", "é.jpg"),
    unicodedata.normalize("NFD", "é.jpg"),
)  # fmt: skip


@pytest.fixture
def box(pictures: Callable[..., Path], tmp_path: Path) -> Path:
    """A folder with a plan and images, and much beside them."""
    (tmp_path / "plan.toml").write_text(
        plan_toml(
            new_plan(classes=["bus", "car"], resolution=8, levels=1, network="mlp-s", epochs=1)
        )
    )
    photos = pictures(tmp_path / "photos", ["bus", "car"], count=12, side=8)
    for name in ODD:
        (photos / "bus" / name).write_bytes(b"no image")
    (photos / os.fsdecode(b"car/\xff\xfe.jpg")).write_bytes(b"\xff\xd8\xff")
    os.mkfifo(photos / "bus/pipe.jpg")
    (photos / "bus/folder.jpg").mkdir()
    (photos / "bus/loop.jpg").symlink_to("loop.jpg")
    (photos / "bus/dangling.jpg").symlink_to("nowhere")
    (photos / "bus/device.jpg").symlink_to("/dev/zero")
    (photos / "bus/round.jpg").symlink_to("..")
    with (photos / "bus/sparse.jpg").open("wb") as file:
        file.truncate(10 << 30)
    (photos / "stray.png").touch()
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(photos / "bus")  # the path of a socket is a hundred bytes at most
        server.bind("socket.jpg")
        os.chdir(here)
    return tmp_path


EXPECTED = {
    **{f"bus/{name}": "not_an_image" for name in ODD},
    "car/\\xff\\xfe.jpg": "truncated",
    "bus/pipe.jpg": "not_a_file",
    "bus/loop.jpg": "not_a_file",
    "bus/device.jpg": "not_a_file",
    "bus/socket.jpg": "not_a_file",
    "bus/dangling.jpg": "vanished",
    "bus/sparse.jpg": "too_many_bytes",
    "stray.png": "no_class",
}


def arguments(box: Path) -> list[str]:
    places = [str(box / "plan.toml"), str(box / "photos"), "-o", str(box / "out")]
    return ["train", *places, "--box", "cam07", "--work", str(box / "work"), "--threads", "1"]


def test_json_names_every_file_once_with_its_reason_and_the_branch_file_none(
    box: Path, capsys: pytest.CaptureFixture[str], assert_schema: Callable[[Any, str], None]
):
    for _ in range(2):  # built, then opened
        assert main([*arguments(box), "--branch", "all", "--json"]) == 0
        text = capsys.readouterr().out
        document = json.loads(text)

        assert_schema(document, "train")
        named = [(row["file"], row["reason"]) for row in document["left_out_files"]]
        assert sorted(named) == sorted(EXPECTED.items())
        assert named[:3] == sorted(named)[:3]
        assert text.count("sparse.jpg") == 1  # not once more for every branch
        counts = document["files"][0]["left_out"]
        assert sum(counts.values()) == len(named)
        assert len(document["files"]) > 1

    for path in (box / "out").iterdir():
        data = path.read_bytes()
        for name in EXPECTED:
            assert Path(name).name.encode() not in data, name
            assert name.encode() not in data, name
        assert b"photos" not in data
        assert b".jpg" not in data


def test_text_output_counts_and_stays_printable(box: Path, capsys: pytest.CaptureFixture[str]):
    assert main(arguments(box)) == 0

    said = capsys.readouterr().err
    assert "left out: 1 no_class, 4 not_a_file, 11 not_an_image, 1 too_many_bytes, 1 trunc" in said
    assert "(--json names them)" in said


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_json_is_valid_on_any_standard_output(box: Path, encoding: str):
    done = subprocess.run(
        [sys.executable, "-m", "edge_stl", *arguments(box), "--json"],
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": encoding}
        | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    named = {row["file"]: row["reason"] for row in json.loads(done.stdout)["left_out_files"]}
    assert named == EXPECTED


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(box: Path, capsys: pytest.CaptureFixture[str]):
    (box / "photos/bus/000.png").chmod(0)

    assert main([*arguments(box), "--json"]) == 0

    rows = json.loads(capsys.readouterr().out)["left_out_files"]
    assert {"file": "bus/000.png", "reason": "permission_denied"} in rows

"""`merge`, `inspect` and signatures of branch files that boxes trained together."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_stl.cli import main
from edge_stl.plan import new_plan, plan_toml
from exporter.cotrained import Cotrained, Settings


PLAN = new_plan(classes=["bus", "car", "van"], resolution=16, channels=1, levels=1, network="mlp-s")
SETTINGS = Settings(
    ranks=(0, 2, 1),
    steps=2,
    batch=2,
    rate=0.1,
    schedule="cosine",
    momentum=0.0123456789,
    nesterov=True,
    weight_decay=0.0,
    edges=((0, 1), (1, 2)),
    own={"shares": (0.1, 1.0) * 5, "probabilities": None, "level": 4, "wavelet": "bior1.3"},
)
GROUP = Cotrained(method="jwins", boxes=("cam01", "cam02", "cam03"), rounds=1500, graph="ring")
LINE = (
    "a1.gate-west: trained together by cam01, cam02, cam03 with jwins, 1,500 rounds, graph ring\n"
)
Told = Callable[..., tuple[int, str, str]]


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Told:
    """Run the command: exit code, stdout, stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def desk(tmp_path: Path, fabricate: Callable[..., bytes]) -> Path:
    """A folder with the file of a group and one of a box that is no member."""
    group = fabricate(PLAN, "a1", box="gate-west", cotrained=GROUP)
    (tmp_path / "a1.gate-west.onnx").write_bytes(group)
    (tmp_path / "d1.cam09.onnx").write_bytes(fabricate(PLAN, "d1", box="cam09", seed=1))
    (tmp_path / "plan.toml").write_text(plan_toml(PLAN))
    return tmp_path


def files(desk: Path) -> list[Path]:
    return [desk / "a1.gate-west.onnx", desk / "d1.cam09.onnx"]


def test_merge_and_inspect_name_the_group(
    desk: Path, told: Told, assert_schema: Callable[[Any, str], None]
):
    out = desk / "e.onnx"
    code, said, err = told("merge", *files(desk), "-o", out)
    assert (code, said.count(LINE), err) == (0, 1, "")
    assert "trained together" not in told("merge", *files(desk), "-o", out, "-q")[1]

    for verb, arguments in (("merge", [*files(desk), "-o", out]), ("inspect", [out])):
        document = json.loads(told(verb, *arguments, "--json")[1])
        assert_schema(document, verb)
        made = {row["box"]: row["cotrained"] for row in document["branches"]}
        assert made == {"gate-west": GROUP.model_dump(mode="json"), "cam09": None}
    for path in (out, desk / "a1.gate-west.onnx"):
        assert told("inspect", path)[1].count(LINE) == 1
    assert "trained together" not in told("inspect", desk / "d1.cam09.onnx")[1]


def test_inspect_shows_the_settings_of_a_group_and_merge_carries_them(
    tmp_path: Path,
    fabricate: Callable[..., bytes],
    told: Told,
    assert_schema: Callable[[Any, str], None],
):
    made = GROUP.model_copy(update={"graph": "file", "settings": SETTINGS})
    file, out = tmp_path / "a1.gate-west.onnx", tmp_path / "e.onnx"
    data = fabricate(PLAN, "a1", box="gate-west", cotrained=made)
    file.write_bytes(data)

    said = told("merge", file, "-o", out)
    assert (said[0], said[2], "steps" in said[1]) == (0, "", False)
    document = json.loads(told("merge", file, "-o", out, "--json")[1])
    assert_schema(document, "merge")
    assert document["branches"][0]["cotrained"] == made.model_dump(mode="json")
    for path in (file, out):
        assert (
            "  ranks 0 2 1, steps 2, batch 2, rate 0.1, schedule cosine, momentum 0.0123456789, "
            "nesterov yes, weight_decay 0, 2 edges; jwins: level 4, probabilities none, "
            "shares 0.1 1 0.1 1 0.1 1 0.1 1 and 2 more, wavelet bior1.3\n"
        ) in told("inspect", path)[1]
        document = json.loads(told("inspect", path, "--json")[1])
        assert_schema(document, "inspect")
        assert document["branches"][0]["cotrained"] == made.model_dump(mode="json")
    assert told("split", out, "-o", tmp_path / "back")[0] == 0
    assert (tmp_path / "back" / file.name).read_bytes() == data


def test_removing_a_member_is_asked_back_in_one_line(desk: Path, told: Told):
    out, left = desk / "e.onnx", desk / "left.onnx"
    assert told("merge", *files(desk), "-o", out)[0] == 0

    code, said, err = told("merge", out, "--remove", "cam01", "-o", left)

    assert (code, said) == (2, "")
    assert err == (
        "edge-stl: cam01 has no file of its own here; it trained a1.gate-west together with cam02, "
        "cam03; removing it removes that file. Add --force to remove it\n"
    )
    assert not left.exists()
    assert told("merge", out, "--remove", "cam01", "--force", "-o", left)[0] == 0
    alone = desk / "alone.onnx"
    assert told("merge", files(desk)[1], "-o", alone)[0] == 0
    assert left.read_bytes() == alone.read_bytes()
    assert told("merge", out, "--remove", "gate-west", "-o", left)[0] == 0
    assert left.read_bytes() == alone.read_bytes()


def test_the_last_file_is_not_removed_even_when_forced(desk: Path, told: Told):
    out, left = desk / "e.onnx", desk / "left.onnx"
    assert told("merge", files(desk)[0], "-o", out)[0] == 0

    code, _, err = told("merge", out, "--remove", "cam01", "--force", "-o", left)

    assert code == 2
    assert "removing cam01 leaves no branch; delete the file instead" in err
    assert not left.exists()


def test_force_without_remove_is_wrong_use(desk: Path, told: Told):
    code, said, err = told("merge", *files(desk), "--force", "-o", desk / "e.onnx")

    assert (code, said) == (2, "")
    assert err == "edge-stl: --force: is for --remove; expected that beside it. Leave it out\n"
    assert not (desk / "e.onnx").exists()


def test_a_group_signs_with_a_key_of_its_own_and_is_enrolled_like_a_box(desk: Path, told: Told):
    trust = desk / "trust.toml"
    for name in ("gate-west", "cam01"):
        assert told("keygen", "-o", desk / f"{name}.key")[0] == 0
        enrol = ["trust", "add", name, desk / f"{name}.key.pub", "--trust", trust]
        assert told(*enrol)[0] == 0
    file, out = files(desk)[0], desk / "e.onnx"
    work = ["--work", desk / "work"]
    merge = ["merge", file, "-o", out, "--trust", trust]

    assert told("sign", file, "--key", desk / "cam01.key", *work)[0] == 0
    code, _, err = told(*merge)
    assert code == 60
    assert "cam01" in err
    assert "gate-west" in err
    assert told("sign", file, "--key", desk / "gate-west.key", *work)[0] == 0
    assert told(*merge)[0] == 0
    assert "branches: signed, gate-west with key" in told("inspect", out)[1]
    assert told("trust", "revoke", "cam01", "--trust", trust, "--reason", "sold")[0] == 0
    assert told(*merge)[0] == 0
    assert told("trust", "revoke", "gate-west", "--trust", trust, "--reason", "sold")[0] == 0
    assert told(*merge)[0] == 60

"""The verbs that sign and trust, as a newcomer calls them: one line and an exit code each."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_stl.cli import main
from edge_stl.errors import IntegrityError
from edge_stl.plan import Plan, plan_toml


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("EDGE_STL_KEY", raising=False)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return call


@pytest.fixture
def run_json(run: Run, assert_schema: Callable[[Any, str], None]) -> Callable[..., Any]:
    def call(schema: str, *arguments: object, code: int = 0) -> Any:
        got, out, err = run(*schema.split("-"), *arguments, "--json")
        assert got == code, err
        document = json.loads(out)
        assert_schema(document, schema)
        return document

    return call


@pytest.fixture
def fleet(run: Run, branch: Callable[..., bytes], tmp_path: Path) -> Path:
    """Two boxes with keys and unsigned files, and a desk that trusts them."""
    (tmp_path / "out").mkdir()
    for box in ("cam01", "cam02"):
        (tmp_path / "out" / f"a1.{box}.onnx").write_bytes(branch(box))
        assert run("keygen", "-o", f"{box}.key")[0] == 0
        assert run("trust", "add", box, f"{box}.key.pub")[0] == 0
    return tmp_path


FILES = ["out/a1.cam01.onnx", "out/a1.cam02.onnx"]


def sign_both(run: Run) -> None:
    for file, box in zip(FILES, ("cam01", "cam02"), strict=True):
        assert run("sign", file, "--key", f"{box}.key")[0] == 0


def test_the_whole_way_from_keys_to_a_verified_answer(
    run: Run, run_json: Callable[..., Any], fleet: Path, pictures: Callable[..., Path]
):
    made = run_json("keygen", "-o", "hq.key")
    added = run_json("trust-add", "hq", "hq.key.pub", "--desk")
    assert (added["kind"], added["key"], added["added"]) == ("desk", made["id"], True)
    assert not run_json("trust-add", "hq", "hq.key.pub", "--desk")["added"]
    signed = run_json("sign", FILES[0], "--key", "cam01.key")["files"]
    assert (signed[0]["counter"], signed[0]["signature"]) == (1, f"{FILES[0]}.sig")
    sign_both(run)

    merged = run_json("merge", *FILES, "-o", "e.onnx", "--trust", "trust.toml", "--key", "hq.key")
    assert merged["weights"] == "uniform"
    assert merged["signature"] == {"file": "e.onnx.sig", "key": made["id"], "counter": 1}
    assert list(merged["signed"]) == ["cam01", "cam02"]

    told = run_json("verify", "e.onnx", *FILES)
    assert told["ok"]
    assert [(f["kind"], f["signer"], f["branch"]) for f in told["files"]] == [
        ("ensemble", "hq", None), ("branch", "cam01", "a1"), ("branch", "cam02", "a1"),
    ]  # fmt: skip
    listed = run_json("trust-list")
    assert [box["id"] for box in listed["boxes"]] == ["cam01", "cam02"]
    assert [m["of"] for m in listed["seen"]] == ["a1.cam01", "a1.cam02"]
    assert "branches: signed, cam01 with key " in run("inspect", "e.onnx")[1]

    photos = pictures(fleet / "photos", ["bus", "car", "van"], count=1, side=8, channels=1)
    photo = photos / "bus" / "000.png"
    plain = run("predict", "e.onnx", photo)
    assert run("predict", "e.onnx", photo, "--trust", "trust.toml") == plain
    assert run("evaluate", "e.onnx", photos, "--trust", "trust.toml")[0] == 0
    gone = run_json("trust-revoke", "hq", "--reason", "moved")
    assert [o["key"] for o in gone["revoked"]] == [made["id"]]
    assert run("predict", "e.onnx", photo, "--trust", "trust.toml")[0] == 60


def test_a_wrong_ensemble_is_refused_before_onnxruntime_sees_a_byte(
    run: Run, fleet: Path, monkeypatch: pytest.MonkeyPatch
):
    sign_both(run)
    run("keygen", "-o", "hq.key")
    run("merge", *FILES, "-o", "e.onnx", "--trust", "trust.toml", "--key", "hq.key", "-q")
    shown = []
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda *a, **_: shown.append(a))
    for verb in ("predict", "evaluate"):
        code, _, err = run(verb, "e.onnx", "photo.png", "--trust", "trust.toml")
        assert (code, err.count("\n")) == (60, 1)
        assert "which trust.toml does not have" in err
    run("trust", "add", "--desk", "hq", "hq.key.pub")
    data = bytearray((fleet / "e.onnx").read_bytes())
    data[-1] ^= 1
    (fleet / "e.onnx").write_bytes(data)
    code, _, err = run("predict", "e.onnx", "photo.png", "--trust", "trust.toml")
    assert (code, shown) == (60, [])
    assert "e.onnx: is not the file that was signed" in err


def test_what_was_verified_is_what_is_loaded(
    run: Run, fleet: Path, monkeypatch: pytest.MonkeyPatch
):
    """The file is swapped after it was read: nobody looks at it again."""
    sign_both(run)
    run("keygen", "-o", "hq.key")
    run("trust", "add", "--desk", "hq", "hq.key.pub")
    run("merge", *FILES, "-o", "e.onnx", "--trust", "trust.toml", "--key", "hq.key", "-q")
    good = (fleet / "e.onnx").read_bytes()
    loaded = []

    def session(data: Any, *_: Any, **__: Any) -> None:
        loaded.append(data)
        raise RuntimeError

    from edge_stl.trust import _verdict

    real = _verdict.judge

    def judge(*arguments: Any, **options: Any) -> Any:
        (fleet / "e.onnx").write_bytes(b"evil")
        return real(*arguments, **options)

    monkeypatch.setattr("onnxruntime.InferenceSession", session)
    monkeypatch.setattr("edge_stl.trust._verdict.judge", judge)
    assert run("predict", "e.onnx", "photo.png", "--trust", "trust.toml")[0] == 10
    assert loaded == [good]


def test_unsigned_is_said_and_merges_only_without_trust(run: Run, fleet: Path):
    code, _, err = run("merge", *FILES, "-o", "e.onnx", "--trust", "trust.toml")
    assert (code, err.count("\n")) == (60, 1)
    assert "2 of 2 files" in err or "no file may be merged" in err
    assert not (fleet / "e.onnx").exists()
    assert run("merge", *FILES, "-o", "e.onnx")[0] == 0
    assert "branches: unsigned\n" in run("inspect", "e.onnx")[1]
    code, out, err = run("verify", "e.onnx", *FILES)
    assert (code, out.count("is not signed"), err.count("\n")) == (60, 3, 1)


def test_verify_gives_every_verdict_though_one_file_is_missing(
    run: Run, run_json: Callable[..., Any], fleet: Path
):
    sign_both(run)
    assert fleet.exists()
    told = run_json("verify", "none.onnx", *FILES, code=60)
    assert [f["ok"] for f in told["files"]] == [False, True, True]
    assert "there is no such file" in told["files"][0]["reasons"][0]


def test_with_trust_no_box_talks_its_weight_up(
    run: Run, run_json: Callable[..., Any], fleet: Path, pictures: Callable[..., Path]
):
    """Uniform where nobody said otherwise; on a holdout fitted; what was named stays."""
    sign_both(run)
    merge = ["merge", *FILES, "-o", "e.onnx"]
    holdout = pictures(fleet / "h", ["bus", "car", "van"], count=8, side=8, channels=1)
    trust = ["--trust", "trust.toml"]
    for more, rule in (
        ([], "reliability"),
        (trust, "uniform"),
        ([*trust, "--weights", "reliability"], "reliability"),
        ([*trust, "--holdout", holdout], "fitted"),
    ):
        assert run_json(*merge, *more)["weights"] == rule
    assert run_json(*merge, *trust, "--robust", "median")["weights"] is None


def test_deploy_takes_only_what_a_trusted_desk_signed(run: Run, fleet: Path):
    sign_both(run)
    run("keygen", "-o", "hq.key")
    merge = ["merge", *FILES, "--trust", "trust.toml"]
    assert run(*merge, "-o", "e.onnx", "--key", "hq.key")[0] == 0
    deploy = ["deploy", "e.onnx", "slots", "--trust", "trust.toml"]
    code, _, err = run(*deploy)
    assert (code, err.count("\n")) == (60, 1)
    assert not (fleet / "slots").exists()
    run("trust", "add", "--desk", "hq", "hq.key.pub")
    assert run(*deploy)[0] == 0
    assert run(*merge, "-o", "other.onnx", "--layout", "nchw")[0] == 0
    assert run("deploy", "other.onnx", "slots", "--trust", "trust.toml")[0] == 60
    code, _, err = run("deploy", "--back", "slots", "--trust", "trust.toml")
    assert (code, "no --trust" in err) == (2, True)


def test_the_numbers_are_kept_after_the_ensemble_and_not_before(run: Run, fleet: Path):
    sign_both(run)
    before = (fleet / "trust.toml.seen").read_bytes()
    code, _, err = run("merge", *FILES, "-o", "no/e.onnx", "--trust", "trust.toml")
    assert code == 20, err
    assert (fleet / "trust.toml.seen").read_bytes() == before
    assert run("merge", *FILES, "-o", "e.onnx", "--trust", "trust.toml")[0] == 0
    assert (fleet / "trust.toml.seen").read_bytes() != before


def test_an_ensemble_is_changed_only_if_a_desk_signed_it(run: Run, fleet: Path):
    sign_both(run)
    trust = ["--trust", "trust.toml"]
    run("keygen", "-o", "hq.key")
    run("merge", *FILES, "-o", "e.onnx", *trust)
    change = ["merge", "e.onnx", "--remove", "cam02", "-o", "f.onnx", *trust]
    code, _, err = run(*change)
    assert code == 60
    assert "e.onnx: is not signed" in err
    run("sign", "e.onnx", "--key", "hq.key")
    assert "which trust.toml does not have" in run(*change)[2]
    run("trust", "add", "--desk", "hq", "hq.key.pub")
    assert run(*change)[0] == 0
    assert run("merge", FILES[0], "-o", "g.onnx", *trust)[0] == 0
    assert (fleet / "f.onnx").read_bytes() == (fleet / "g.onnx").read_bytes()


CALLS: list[tuple[int, list[str], str]] = [
    (2, ["keygen"], "Missing option '-o'"),
    (2, ["keygen", "-o", "cam01.key"], "is there already, and a"),
    (20, ["keygen", "-o", "no/where.key"], "cannot be written there"),
    (2, ["sign", "out/a1.cam01.onnx"], "Missing option '--key'"),
    (2, ["sign", "out/a1.cam01.onnx", "--key", "none.key"], "none.key: there is no such file"),
    (2, ["sign", "out/a1.cam01.onnx", "--key", "cam01.key.pub"], "holds no private key"),
    (10, ["sign", "none.onnx", "--key", "cam01.key"], "none.onnx: there is no such file"),
    (10, ["sign", "trust.toml", "--key", "cam01.key"], "is not an ONNX file"),
    (2, ["verify", "out/a1.cam01.onnx", "--trust", "none.toml"], "expected a trust file"),
    (2, ["verify", "out/a1.cam01.onnx", "--trust", "out"], "out: not a regular file"),
    (2, ["trust", "add", "Cam 01", "cam01.key.pub"], "expected a name of lower-case letters"),
    (2, ["trust", "add", "cam01", "cam01.key"], "is a private key, which stays on its machine"),
    (2, ["trust", "add", "cam02", "cam01.key.pub"], "is that of box cam01"),
    (2, ["trust", "revoke", "cam01"], "Missing option '--reason'"),
    (2, ["trust", "revoke", "cam09", "--reason", "x"], "is neither a box, a desk nor the id"),
    (2, ["trust", "list", "--trust", "none.toml"], "none.toml: there is no such file"),
    (2, ["merge", *FILES, "-o", "e.onnx", "--trust", "none.toml"], "none.toml: there is no such"),
    (2, ["merge", *FILES, "-o", "e.onnx", "--start-numbers-anew"], "is for --trust"),
    (2, ["merge", *FILES, "-o", "e.onnx", "--key", "none.key"], "none.key: there is no such file"),
    (2, ["predict", "e.onnx", "x.png", "--trust", "none.toml"], "none.toml: there is no such file"),
    (10, ["predict", "e.onnx", "x.png", "--trust", "trust.toml"], "e.onnx: there is no such file"),
    (2, ["predict", "x.png", "--slot", "s", "--trust", "trust.toml"], "a slot keeps no signature"),
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, branch: Callable[..., bytes]) -> Path:
    made = tmp_path_factory.mktemp("calls")
    (made / "out").mkdir()
    for box in ("cam01", "cam02"):
        (made / "out" / f"a1.{box}.onnx").write_bytes(branch(box))
        assert main(["keygen", "-o", str(made / f"{box}.key")]) == 0
        key, trust = str(made / f"{box}.key.pub"), str(made / "trust.toml")
        assert main(["trust", "add", box, key, "--trust", trust]) == 0
    return made


@pytest.mark.parametrize(("code", "call", "said"), CALLS, ids=[" ".join(c) for _, c, _ in CALLS])
def test_a_wrong_call_is_one_line_and_its_exit_code(
    code: int, call: list[str], said: str, run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(folder)
    got, out, err = run(*call)
    assert (got, err.count("\n")) == (code, 1), err
    assert out == ""
    assert said in err


# -- train --------------------------------------------------------------------------------------


@pytest.fixture
def box(run: Run, plan: Plan, pictures: Callable[..., Path], tmp_path: Path) -> list[str]:
    (tmp_path / "plan.toml").write_text(plan_toml(plan))
    pictures(tmp_path / "photos", plan.classes, count=4, side=8, channels=1)
    assert run("keygen", "-o", "cam01.key")[0] == 0
    return ["train", "plan.toml", "photos", "-o", "out", "--box", "cam01", "--work", "w",
            "--epochs", "1", "--threads", "1", "--branch", "d1", "-q"]  # fmt: skip


def test_train_signs_what_it_writes_and_the_desk_takes_it(
    run: Run, run_json: Callable[..., Any], box: list[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    (row,) = run_json(*box, "--key", "cam01.key")["files"]
    assert sorted(p.name for p in Path("out").iterdir()) == ["d1.cam01.onnx", "d1.cam01.onnx.sig"]
    assert row["signature"]["counter"] == 1
    first = (tmp_path / "out/d1.cam01.onnx.sig").read_bytes()
    run("trust", "add", "cam01", "cam01.key.pub")
    assert run("merge", "out/d1.cam01.onnx", "-o", "e.onnx", "--trust", "trust.toml")[0] == 0

    (tmp_path / "out/d1.cam01.onnx.sig").unlink()
    monkeypatch.setenv("EDGE_STL_KEY", "cam01.key")
    (again,) = run_json(*box)["files"]  # goes on, and is done
    assert again["signature"]["counter"] == 1
    assert (tmp_path / "out/d1.cam01.onnx.sig").read_bytes() == first
    monkeypatch.delenv("EDGE_STL_KEY")
    (unsigned,) = run_json(*box, "--fresh", "--seed", "6")["files"]
    assert unsigned["signature"] is None
    # the signature of the file before is still there, and is none of this one
    assert "is not the file that was signed" in run("verify", "out/d1.cam01.onnx")[1]


def test_the_signature_is_written_last(
    run: Run, box: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    written = []
    real = os.replace

    def replace(source: Any, target: Any) -> None:
        written.append(Path(target).name)
        real(source, target)

    monkeypatch.setattr("os.replace", replace)
    assert run(*box, "--key", "cam01.key")[0] == 0
    order = [n for n in written if n.startswith(("d1.cam01.onnx", "counter.record"))]
    assert order == ["d1.cam01.onnx", "counter.record", "d1.cam01.onnx.sig"]
    assert tmp_path.exists()


@pytest.mark.parametrize(
    ("key", "code", "said"),
    [
        ("none.key", 2, "none.key: there is no such file"),
        ("open.key", 20, "others may read this private key"),
        ("out/cam.key", 2, "lies in the output folder"),
    ],
)
def test_a_wrong_key_is_told_before_the_training(
    key: str, code: int, said: str, run: Run, box: list[str], tmp_path: Path
):
    (tmp_path / "out").mkdir()
    for name in ("open.key", "out/cam.key"):
        run("keygen", "-o", name)
    (tmp_path / "open.key").chmod(0o644)
    got, _, err = run(*box, "--key", key)
    assert (got, err.count("\n")) == (code, 1), err
    assert said in err
    assert not (tmp_path / "w" / "d1").exists()


def test_damaged_numbers_are_told_before_the_training(run: Run, box: list[str], tmp_path: Path):
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "counter.record").write_bytes(b"damaged")
    code, _, err = run(*box, "--key", "cam01.key")
    assert code == IntegrityError.exit_code
    assert "the numbers given so far are lost" in err


def test_the_key_of_one_box_does_not_sign_the_jobs_of_many(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    code, _, err = run("train", "--jobs", "jobs.jsonl", "--key", "cam01.key")
    assert code == 2
    assert "--jobs and --key: each line of the jobs file" in err
    monkeypatch.setenv("EDGE_STL_KEY", str(tmp_path / "cam01.key"))
    monkeypatch.setattr("edge_stl.cli._train.train_jobs", lambda *_, **__: None)
    code, _, err = run("train", "--jobs", "jobs.jsonl")
    assert (code, err) == (
        0, "note: EDGE_STL_KEY is the key of one box; jobs are not signed\n"
    )  # fmt: skip
    from edge_stl.fleet._task import Task, _environment

    task = Task(name="b1", arguments=())
    assert "EDGE_STL_KEY" not in _environment(task, None)

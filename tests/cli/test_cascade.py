"""`merge --cascade` and what the other verbs say of a cascade."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_stl.cli import main
from edge_stl.fusion import threshold
from edge_stl.plan import new_plan


CLASSES = ["bus", "car", "van"]
Told = Callable[..., Any]


@pytest.fixture(scope="module")
def desk(
    fabricate_fleet: Callable[..., list[Path]],
    pictures: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("desk")
    plan = new_plan(classes=CLASSES, resolution=16, levels=1, network="mlp-s")
    pictures(folder / "photos", CLASSES, count=8)
    fabricate_fleet(plan, folder / "branches")
    return folder


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str], assert_schema: Callable[[Any, str], None]) -> Told:
    """Run a verb; with --json return the document, held against its schema, else stdout."""

    def call(*arguments: object, code: int = 0) -> Any:
        capsys.readouterr()
        got = main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        assert got == code, err
        if code:
            return err
        if "--json" not in arguments:
            return out
        document = json.loads(out)
        assert_schema(document, str(arguments[0]))
        return document

    return call


def test_a_cascade_goes_the_whole_way(desk: Path, told: Told, tmp_path: Path):
    """Chosen on a holdout, told the same way by every verb, changed only with what it needs."""
    files, photos = sorted((desk / "branches").iterdir()), desk / "photos"
    out, less, again = (tmp_path / name for name in ("c.onnx", "less.onnx", "again.onnx"))
    how = ("--cascade", "--holdout", photos, "--cascade-loss", "0.5")
    document = told("merge", *files, "-o", out, *how, "--json")
    kept = document["cascade"]
    assert [s["resolution"] for s in kept["stages"]] == [8, 16]
    assert kept["holdout"]["images"] == 24
    assert sum(kept["holdout"]["stopped"]) == pytest.approx(1)
    full = sum(s["multiply_adds"] for s in kept["stages"])
    stopped = kept["holdout"]["stopped"][0]
    expected = stopped * kept["stages"][0]["multiply_adds"] + (1 - stopped) * full
    assert kept["holdout"]["multiply_adds"] == pytest.approx(expected)
    said = told("merge", *files, "-o", again, *how)
    assert "24 holdout images, none seen by its choice: accuracy " in said
    assert f"confidence threshold {kept['threshold']:g}" in said
    shown = told("inspect", out, "--json")["cascade"]
    assert (shown["threshold"], shown["images"], shown["loss"]) == (kept["threshold"], 24, 0.5)
    assert "chosen on 24 holdout images" in told("inspect", out)
    scored = told("evaluate", out, photos, "--threshold", "0", "--json")
    assert scored["cascade"]["stopped"] == [24, 0]
    assert [r["accuracy"] is None for r in scored["branches"]] == [
        b["branch"] != "a1" for b in document["branches"]
    ]
    assert "threshold 1: 100.00 % of the multiply-adds" in told(
        "evaluate", out, photos, "--threshold", "1"
    )
    coarse, all_of_them = (
        told("predict", out, photos / "bus" / "000.png", "--threshold", t, "--json") for t in "01"
    )
    assert coarse["predictions"][0]["probability"] != all_of_them["predictions"][0]["probability"]
    change = ("merge", out, "--remove", "box2", "-o", less)
    assert "expected --holdout IMAGES, --threshold X, or --no-cascade" in told(*change, code=2)
    rest = [f for f in files if "box2" not in f.name]
    for more in (("--threshold", "0.7"), ("--no-cascade",), ("--holdout", photos)):
        told(*change, *more)
        anew = more if more == ("--no-cascade",) else ("--cascade", "--cascade-loss", "0.5", *more)
        if "--threshold" in more:
            anew = ("--cascade", *more)
        told("merge", *rest, "-o", again, *anew)
        assert less.read_bytes() == again.read_bytes()


def test_a_threshold_that_saves_nothing_is_said(
    desk: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(threshold, "choose_threshold", lambda *_, **__: 1.0)
    files = [str(f) for f in sorted((desk / "branches").iterdir())]
    how = ["--cascade", "--holdout", str(desk / "photos"), "--cascade-loss", "0"]
    assert main(["merge", *files, "-o", str(tmp_path / "c.onnx"), *how]) == 0
    out, err = capsys.readouterr()
    assert "confidence threshold 1\n" in out
    assert "warning: no threshold below 1 keeps the accuracy" in err

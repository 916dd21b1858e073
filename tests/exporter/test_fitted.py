"""Weights fitted on a holdout: in the graph, honest about what they bought, gone with it."""

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from PIL import Image

from edge_stl.errors import CheckError, DataError, IntegrityError, UsageError
from edge_stl.fusion import fuse, largest_change, reliability_weights
from edge_stl.predict import Ensemble, evaluate
from edge_stl.testing import assert_parity
from exporter import fitting as fitting_room, merge as merge_room, names
from exporter._session import run
from exporter.ensemble import Fitted, build_ensemble
from exporter.inspect import inspect_path
from exporter.manifest import sha256
from exporter.merge import Merged, change_ensemble, merge_paths
from exporter.options import Options
from exporter.prove import branch_logits
from exporter.split import branch_bytes, ensemble_record, members_of
from exporter.verify import check_path


CLASSES = ["bus", "car", "van"]
KEEP = ("wrong",)  # the audit would leave it out, and there would be nothing to fit away
FITTED = Options(weights="fitted")
ROOT = Path(__file__).parents[2]


class Desk(NamedTuple):
    """What lies on a desk: branch files by box, and labelled images that no box has."""

    files: dict[str, list[Path]]
    holdout: Path
    test: Path

    def paths(self, *without: str) -> list[Path]:
        return [p for box, paths in self.files.items() if box not in without for p in paths]


@pytest.fixture(scope="module")
def desk(
    bar_box: Callable[..., Path],
    bar_photos: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Desk:
    """Two good boxes, one that guesses, one that is wrong, one of a single class; all claim L."""
    folder = tmp_path_factory.mktemp("desk")
    skills = {"good0": "right", "good1": "right", "guess": "random", "wrong": "wrong"}
    files = {
        box: [bar_box(folder / f"ca1.{box}.onnx", box, skill, seed=20 + i)]
        for i, (box, skill) in enumerate(skills.items())
    }
    counts = (0, 9, 0)
    files["lone"] = [
        bar_box(folder / "ca1.lone.onnx", "lone", "right", seed=30, counts=counts, loss=0.0)
    ]
    return Desk(
        files,
        bar_photos(folder / "holdout", count=40, seed=1),
        bar_photos(folder / "test", count=60, seed=2),
    )


@pytest.fixture(scope="module")
def merged(desk: Desk) -> Merged:
    return merge_paths(desk.paths(), options=FITTED, holdout=desk.holdout, keep=KEEP)


def weight_of(merged: Merged, box: str) -> float:
    """Return the mean over the classes."""
    rows = zip(merged.files, merged.weights, strict=True)
    return float(np.sum([np.mean(w) for f, w in rows if f.manifest.box == box]))


def initializers(model: bytes) -> dict[str, NDArray[Any]]:
    graph = onnx.load_from_string(model).graph
    return {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}


# -- the graph ----------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_the_graph_is_the_oracle_with_its_biases(layout: Any, desk: Desk):
    merged = merge_paths(
        desk.paths(),
        options=Options(weights="fitted", layout=layout),
        holdout=desk.holdout,
        keep=KEEP,
    )
    assert merged.fitted is not None
    assert max(map(abs, merged.fitted.bias)) > 0.01
    images = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 1)).astype(np.uint8)
    expected, rows = fuse(
        [branch_logits(f, images) for f in merged.files],
        [f.manifest.member() for f in merged.files],
        merged.weights,
        prior=np.array([0.5, 0.2, 0.3]),
        bias=np.array(merged.fitted.bias),
        scale=merged.scale,
    )
    got, got_rows = Ensemble(merged.model).run(images)
    assert_parity(got, expected, kind="probabilities")
    assert_parity(got_rows, rows, kind="probabilities")


def test_a_bias_that_the_formula_does_not_have_is_never_handed_out(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
):
    build = merge_room.build_ensemble

    def forgetful(*args: Any, fitted: Fitted, **rest: Any) -> bytes:
        return build(*args, fitted=Fitted(fitted.images, (0.0, 0.1, -0.1)), **rest)

    monkeypatch.setattr(merge_room, "build_ensemble", forgetful)
    with pytest.raises(CheckError, match=r"graph and the formulas differ by .*please report it"):
        merge_paths(desk.paths(), options=FITTED, holdout=desk.holdout, keep=KEEP)


def test_weights_and_biases_are_named_numbers_in_the_file(merged: Merged):
    tensors = initializers(merged.model)
    assert merged.fitted is not None
    np.testing.assert_array_equal(
        tensors["fusion/bias"], np.array(merged.fitted.bias, dtype=np.float32)
    )
    record = ensemble_record(onnx.load_from_string(merged.model), name="e")
    assert [tuple(m["weights"]) for m in record["members"]] == list(merged.weights)
    assert tensors["fusion/scale"] == np.float32(merged.scale) == np.float32(record["scale"])
    for file, own in zip(merged.files, merged.weights, strict=True):
        seen = list(file.manifest.member().seen)
        stored = tensors[f"{file.manifest.id}/weight"]
        np.testing.assert_array_equal(
            stored, np.array(own, np.float32)[seen] if len(seen) > 1 else np.float32(0)
        )


def test_a_fit_gives_one_factor_a_file_to_the_weights_it_starts_from(merged: Merged, desk: Desk):
    """So what a class that few boxes saw is divided by stays, and so does the scale."""
    start = merge_paths(desk.paths(), options=Options())
    assert merged.scale == start.scale
    told = np.array(merged.weights), np.array(start.weights)
    factors = [
        {round(float(a / b), 3) for a, b in zip(own, was, strict=True) if b}
        for own, was in zip(*told, strict=True)
    ]
    assert [len(f) for f in factors] == [int(f.manifest.box != "lone") for f in merged.files]
    assert len(set.union(*factors)) > 2
    assert not told[0][told[1] == 0].any()


def test_a_silenced_box_stays_in_the_file_and_every_branch_comes_back(merged: Merged, desk: Desk):
    assert weight_of(merged, "wrong") == 0
    assert weight_of(merged, "lone") == 0
    content = members_of(merged.model, name="e")
    back = {f.name: branch_bytes(f) for f in content.files}
    assert back == {p.name: p.read_bytes() for p in desk.paths()}
    assert (content.options, content.fitted) == (FITTED, merged.fitted)
    assert content.weights == merged.weights


def test_check_and_inspect_know_the_biases(merged: Merged, tmp_path: Path):
    path = tmp_path / "e.onnx"
    path.write_bytes(merged.model)
    assert check_path(path) == []
    assert merged.fitted is not None
    assert inspect_path(path)["holdout"] == {"images": 120, "bias": list(merged.fitted.bias)}
    model = onnx.load_from_string(merged.model)
    tensor = next(t for t in model.graph.initializer if t.name == "fusion/bias")
    tensor.raw_data = np.array([1, 0, 0], "<f4").tobytes()
    path.write_bytes(model.SerializeToString(deterministic=True))
    (finding,) = check_path(path)
    assert "not byte for byte what merge writes" in finding.what


def test_the_printed_bound_holds_for_weights_above_one_and_for_biases(desk: Desk):
    """Against the same graph with the branch silent; the two classes it weighs most in give it."""
    images = np.random.default_rng(1).integers(0, 256, (50, 16, 16, 1)).astype(np.uint8)
    start = merge_paths(desk.paths("lone"), options=Options())
    biases = Fitted(20, (0.7, -0.4, -0.3))
    others = [[0.8, 0.1, 0.3], [0.0, 0.0, 0.0], [1.3, 0.2, 0.6]]
    for own in ([0.2, 0.1, 0.0], [1.0, 1.0, 1.0], [2.5, 0.0, 1.5]):
        loud, silent = (
            run(
                build_ensemble(
                    start.files, [w, *others], options=FITTED, scale=start.scale, fitted=biases
                ),
                {names.ENSEMBLE_INPUT: images},
            )[0]
            for w in (own, [0.0, 0.0, 0.0])
        )
        bound = largest_change(own, scale=start.scale)
        assert 0 < np.abs(loud - silent).max() <= bound <= 1
        two = sum(sorted(own)[1:])
        assert bound == pytest.approx(np.tanh(start.scale * two * np.log(99) / 4))


def test_largest_change_is_told_for_the_fitted_weights_and_the_scale(merged: Merged):
    assert max(abs(np.array(merged.weights).sum(axis=0) - 1)) > 0.1
    for index, own in enumerate(merged.weights):
        assert merged.largest_change(index) == largest_change(own, scale=merged.scale)


# -- what the report says -----------------------------------------------------------------------


def test_fitting_improves_a_fleet_with_a_box_that_guesses_on_images_of_another_folder(
    merged: Merged, desk: Desk
):
    before = merge_paths(desk.paths(), options=Options())
    was, now = (evaluate(Ensemble(m.model), desk.test).scores for m in (before, merged))
    assert now.log_loss < was.log_loss - 0.1
    assert now.accuracy >= was.accuracy
    told = merged.holdout
    assert told is not None
    assert told.log_loss_before == pytest.approx(
        evaluate(Ensemble(before.model), desk.holdout).scores.log_loss, abs=1e-5
    )
    # what the report promises is what other images then show
    assert abs(told.log_loss_after - now.log_loss) < 0.1
    assert weight_of(merged, "guess") < 0.5 * weight_of(merged, "good0")


def test_the_report_is_of_images_that_the_fit_did_not_see(merged: Merged, desk: Desk):
    """Measured on its own images the final fit looks better than what is told."""
    seen = evaluate(Ensemble(merged.model), desk.holdout).scores
    assert merged.holdout is not None
    assert seen.log_loss + 1e-4 < merged.holdout.log_loss_after < merged.holdout.log_loss_before


def test_the_box_that_harms_is_named_with_what_it_weighed(merged: Merged):
    assert merged.holdout is not None
    worst = merged.holdout.harmful[0]
    assert worst.box == "wrong"
    assert not {"good0", "good1", "lone"} & {h.box for h in merged.holdout.harmful}
    members = [f.manifest.member() for f in merged.files]
    boxes = [m.box for m in members]
    before = reliability_weights(members)[boxes.index("wrong")].mean()
    assert worst.weight_before == pytest.approx(before, abs=1e-6) != 0
    assert worst.weight_after == 0
    assert worst.log_loss_change < -2 * worst.standard_error < 0


def test_a_class_without_a_holdout_image_keeps_its_bias_of_0_and_is_named(
    desk: Desk, tmp_path: Path
):
    shutil.copytree(desk.holdout, tmp_path / "h")
    shutil.rmtree(tmp_path / "h" / "car")
    merged = merge_paths(desk.paths(), options=FITTED, holdout=tmp_path / "h", keep=KEEP)
    assert merged.fitted is not None
    assert merged.holdout is not None
    assert merged.holdout.classes_without_images == ("car",)
    bus, car, van = merged.fitted.bias
    assert car == 0
    assert bus == pytest.approx(-van, abs=1e-4) != 0


def test_unreadable_and_small_images_are_counted_and_left_out(desk: Desk, tmp_path: Path):
    shutil.copytree(desk.holdout, tmp_path / "h")
    (tmp_path / "h" / "bus" / "bad.png").write_bytes(b"no picture")
    Image.new("L", (4, 4)).save(tmp_path / "h" / "bus" / "tiny.png")
    merged = merge_paths(desk.paths(), options=FITTED, holdout=tmp_path / "h", keep=KEEP)
    assert merged.holdout is not None
    assert merged.holdout.images == 120
    assert sum(merged.holdout.left_out.values()) == 2
    assert merged.holdout.left_out["too_small"] == 1


# -- the same bytes -----------------------------------------------------------------------------


def test_order_of_files_names_of_images_and_labels_csv_change_no_byte(
    merged: Merged, desk: Desk, tmp_path: Path
):
    rng = np.random.default_rng(5)
    folder = tmp_path / "table"
    folder.mkdir()
    rows = []
    for label in CLASSES:
        for path in sorted((desk.holdout / label).iterdir()):
            name = f"{rng.integers(1 << 40):x}.png"
            shutil.copy(path, folder / name)
            rows.append((name, label))
    rng.shuffle(rows)
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file_name", "label"), *rows])
    paths = [desk.paths()[i] for i in rng.permutation(len(desk.paths()))]
    again = merge_paths(paths, options=FITTED, holdout=folder, keep=KEEP)
    assert again.sha256 == merged.sha256
    assert again.holdout == merged.holdout


def test_an_ensemble_keeps_the_number_of_images_and_nothing_else_of_the_holdout(
    desk: Desk, bar_photos: Callable[..., Path], tmp_path: Path
):
    folder = bar_photos(tmp_path / "secret-yard", count=8, seed=7, name="zitronenfalter-{:03}.png")
    model = merge_paths(desk.paths(), options=FITTED, holdout=folder, keep=KEEP).model
    for trace in (b"secret", b"zitronenfalter", b"png", str(tmp_path).encode()):
        assert trace not in model
    (prop,) = [
        p for p in onnx.load_from_string(model).metadata_props if p.key == names.KEY_ENSEMBLE
    ]
    record = json.loads(prop.value)
    assert set(record["holdout"]) == {"images", "bias"}
    assert record["holdout"]["images"] == 24
    assert record["options"]["weights"] == "fitted"


def test_an_ensemble_without_a_holdout_says_nothing_of_one(desk: Desk):
    merged = merge_paths(desk.paths(), options=Options())
    assert b'"holdout"' not in merged.model
    assert (merged.fitted, merged.holdout) == (None, None)
    assert not initializers(merged.model)["fusion/bias"].any()


# -- change -------------------------------------------------------------------------------------


def test_removing_a_box_needs_the_holdout_again_or_weights_that_need_none(
    merged: Merged, desk: Desk
):
    for change in ({"remove": ["wrong"]}, {"add": desk.paths()[:1]}):
        with pytest.raises(
            UsageError,
            match=r"e\.onnx: its weights were fitted on a holdout of 120 images.*expected "
            r"--holdout IMAGES, or --weights .*reliability, uniform, geometric, plan",
        ):
            change_ensemble(merged.model, name="e.onnx", **change)  # type: ignore[arg-type]
    rest = desk.paths("wrong")
    again = change_ensemble(merged.model, name="e", remove=["wrong"], holdout=desk.holdout)
    assert again.model == merge_paths(rest, options=FITTED, holdout=desk.holdout).model
    free = change_ensemble(merged.model, name="e", remove=["wrong"], options=Options())
    assert free.model == merge_paths(rest, options=Options()).model
    back = change_ensemble(
        again.model, name="e", add=desk.files["wrong"], holdout=desk.holdout, keep=KEEP
    )
    assert back.model == merged.model


# -- refusals -----------------------------------------------------------------------------------


def test_fitted_weights_and_a_holdout_come_together(desk: Desk):
    with pytest.raises(UsageError, match=r"--weights fitted: .*expected --holdout IMAGES"):
        merge_paths(desk.paths(), options=FITTED)


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"bus": 10, "car": 9}, "a holdout of 19 readable images of 2 classes; expected at least"),
        ({"van": 30}, "a holdout of 30 readable images of 1 classes; .*2 classes or more"),
        ({}, "holds no image of a class"),
    ],
)
def test_a_holdout_that_cannot_teach_is_refused(
    counts: dict[str, int], said: str, desk: Desk, tmp_path: Path
):
    for name, count in counts.items():
        (tmp_path / name).mkdir()
        for path in sorted((desk.holdout / name).iterdir())[:count]:
            shutil.copy(path, tmp_path / name)
    with pytest.raises(DataError, match=said):
        merge_paths(desk.paths(), options=FITTED, holdout=tmp_path)


def test_twenty_images_of_two_classes_are_enough(desk: Desk, tmp_path: Path):
    assert fitting_room.FEWEST == 20
    for name in ("bus", "van"):
        (tmp_path / name).mkdir()
        for path in sorted((desk.holdout / name).iterdir())[:10]:
            shutil.copy(path, tmp_path / name)
    assert merge_paths(desk.paths(), options=FITTED, holdout=tmp_path).holdout is not None


DAMAGED: dict[str, tuple[str, str]] = {
    "no holdout": ('"holdout":', '"oldhout":'),
    "no bias": ('"bias":', '"bios":'),
    "too few biases": ('"bias":[', '"bias":[1],"x":['),
    "a bias that is no number": ('"bias":[', '"bias":[NaN,0,0],"x":['),
    "a text for a bias": ('"bias":[', '"bias":["x",0,0],"x":['),
    "no images": ('"images":120', '"images":0'),
    "endless images": ('"images":120', '"images":Infinity'),
    "another rule": ('"weights":"fitted"', '"weights":"uniform"'),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_record_of_a_holdout_that_cannot_be_is_refused(damage: str, merged: Merged):
    model = onnx.load_from_string(merged.model)
    (prop,) = [p for p in model.metadata_props if p.key == names.KEY_ENSEMBLE]
    old, new = DAMAGED[damage]
    assert prop.value.count(old) == 1
    prop.value = prop.value.replace(old, new)
    with pytest.raises(IntegrityError, match=r"e\.onnx: its record is incomplete"):
        members_of(model.SerializeToString(deterministic=True), name="e.onnx")


def test_fitting_never_loads_torch(desk: Desk):
    """In a fresh interpreter; the same check sees scipy, so it would see torch."""
    program = (
        "import sys; from pathlib import Path\n"
        "from exporter.ensemble import Options\n"
        "from exporter.merge import merge_paths\n"
        "*files, holdout = map(Path, sys.argv[1:])\n"
        "assert 'scipy' not in sys.modules\n"
        "o = Options(weights='fitted')\n"
        "m = merge_paths(files, options=o, holdout=holdout, keep=['wrong'])\n"
        "print(m.sha256, *sorted({'torch', 'scipy'} & set(sys.modules)))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, *map(str, desk.paths()), str(desk.holdout)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    digest, *loaded = ran.stdout.split()
    assert loaded == ["scipy"]
    merged = merge_paths(desk.paths(), options=FITTED, holdout=desk.holdout, keep=KEEP)
    assert digest == merged.sha256 == sha256(merged.model)

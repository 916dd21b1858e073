"""An ensemble answers arrays and files with numpy and onnxruntime, and refuses what it must."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from PIL import Image

from edge_stl.errors import DataError
from edge_stl.images import fit_square
from edge_stl.plan import Plan, new_plan
from edge_stl.predict import Ensemble, evaluate
from edge_stl.testing import assert_parity


def plan_of(channels: int = 3, fit: str = "crop") -> Plan:
    return new_plan(
        classes=["bus", "car", "van"],
        resolution=16,
        levels=1,
        channels=channels,
        network="mlp-s",
        fit=fit,
    )


def pixels(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


@pytest.fixture(scope="session")
def make(
    fabricate_fleet: Callable[..., list[Path]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Merge fabricated branches of a plan and return the ensemble's path."""
    from exporter.merge import merge_paths
    from exporter.options import Options

    def ensemble(plan: Plan, layout: Any = "nhwc") -> Path:
        folder = tmp_path_factory.mktemp("ensemble")
        merged = merge_paths(fabricate_fleet(plan, folder), options=Options(layout=layout))
        (folder / "ensemble.onnx").write_bytes(merged.model)
        return folder / "ensemble.onnx"

    return ensemble


@pytest.fixture(scope="session")
def path(make: Callable[..., Path]) -> Path:
    return make(plan_of())


@pytest.fixture(scope="session")
def model(path: Path) -> Ensemble:
    return Ensemble(path, threads=1)


def test_it_says_what_it_takes_and_gives(model: Ensemble):
    assert model.classes == ("bus", "car", "van")
    assert (model.resolution, model.channels, model.fit, model.layout) == (16, 3, "crop", "nhwc")
    assert model.branches == ("a1.box0", "a1.box1", "a1.box2", "d1.box0", "d1.box2")


def test_it_answers_what_plain_onnxruntime_answers(model: Ensemble, path: Path):
    """The six lines of the README need none of our code."""
    images = pixels(5, 16, 16, 3)
    session = ort.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    plain, rows = session.run(None, {"image": images})
    got, got_rows = model.predict(images)
    assert_parity(got, plain, kind="same_input")
    assert_parity(got_rows, rows, kind="same_input")
    assert got.dtype == np.float32
    assert_parity(got.sum(axis=1), np.ones(5), kind="probabilities")


def test_one_image_a_sequence_and_a_stack_are_the_same_question(model: Ensemble):
    images = pixels(3, 16, 16, 3)
    stack = model(images)
    assert stack.shape == (3, 3)
    assert_parity(model(list(images)), stack, kind="same_input")
    assert_parity(model(tuple(images)), stack, kind="same_input")
    assert_parity(model(images[1]), stack[1:2], kind="same_input")


def test_files_and_arrays_are_the_same_question(model: Ensemble, tmp_path: Path):
    images = pixels(2, 16, 16, 3)
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    expected = model(images)
    assert_parity(model([tmp_path / "0.png", tmp_path / "1.png"]), expected, kind="same_input")
    assert_parity(model(str(tmp_path / "1.png")), expected[1:], kind="same_input")
    assert_parity(model([tmp_path / "0.png", images[1]]), expected, kind="same_input")


def test_no_image_is_no_row(model: Ensemble):
    probabilities, rows = model.predict([])
    assert probabilities.shape == (0, 3)
    assert rows.shape == (0, 5, 3)


@pytest.mark.parametrize("shape", [(32, 32), (48, 64), (17, 16), (40, 25)])
def test_a_larger_image_is_area_averaged(shape: tuple[int, int], model: Ensemble):
    image = pixels(*shape, 3)
    assert_parity(model(image), model(fit_square(image, 16, "crop")), kind="same_input")
    if shape == (32, 32):
        mean = image.reshape(16, 2, 16, 2, 3).mean(axis=(1, 3))
        assert np.abs(model.prepare(image) - mean).max() <= 0.5


@pytest.mark.parametrize(("fit", "refused"), [("crop", True), ("stretch", True), ("pad", False)])
def test_a_smaller_image_is_refused_by_the_side_that_counts(
    fit: str, refused: bool, make: Callable[..., Path]
):
    own = Ensemble(make(plan_of(fit=fit)), threads=1)
    narrow = pixels(16, 15, 3)
    if refused:
        with pytest.raises(DataError, match=r"15x16 pixels; this ensemble takes 16x16 and larger"):
            own(narrow)
    else:
        padded = np.zeros((16, 16, 3), np.uint8)
        padded[:, :15] = narrow
        assert_parity(own(narrow), own(padded), kind="same_input")
    with pytest.raises(DataError, match="images are never enlarged"):
        own(pixels(15, 15, 3))


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((16, 16, 3), np.float32), "dtype float32; expected uint8"),
        (np.zeros((16, 16, 3), np.int64), "dtype int64; expected uint8"),
        (np.zeros((16, 16, 1), np.uint8), r"shape \(16, 16, 1\); expected \(rows, columns, 3\)"),
        (np.zeros((16, 16), np.uint8), r"shape \(16, 16\); expected"),
        (np.zeros((3, 16, 16), np.uint8), r"shape \(3, 16, 16\); expected"),
        (np.zeros((16, 16, 4), np.uint8), r"shape \(16, 16, 4\); expected"),
        (np.zeros((2, 2, 16, 16, 3), np.uint8), r"shape \(2, 2, 16, 16, 3\); expected"),
        (np.zeros((0, 0, 3), np.uint8), "0x0 pixels"),
    ],
)
def test_what_is_no_image_array_is_refused(image: NDArray[Any], said: str, model: Ensemble):
    with pytest.raises(DataError, match=said):
        model(image)


def test_what_is_no_image_file_is_refused(model: Ensemble, tmp_path: Path):
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(DataError, match=r"a\.png: is not an image"):
        model(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"b\.png: is not there"):
        model(tmp_path / "b.png")


def test_the_caps_of_the_plan_hold_at_prediction(fabricate: Callable[..., bytes], tmp_path: Path):
    from edge_stl.plan import plan_from_document
    from exporter.merge import merge_paths
    from exporter.options import Options

    limits = {"limits": {"max_image_pixels": 16 * 20}}
    plan = plan_from_document(plan_of().to_document() | limits, where="test")
    (tmp_path / "d1").write_bytes(fabricate(plan, "d1"))
    (tmp_path / "e").write_bytes(merge_paths([tmp_path / "d1"], options=Options()).model)
    Image.fromarray(pixels(16, 21, 3)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="more pixels than allowed"):
        Ensemble(tmp_path / "e")(tmp_path / "a.png")


def test_grey_images_need_no_channel_axis(make: Callable[..., Path], tmp_path: Path):
    own = Ensemble(make(plan_of(channels=1)), threads=1)
    grey = pixels(16, 16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert_parity(own(grey), own(grey[:, :, None]), kind="same_input")
    assert_parity(own(grey), own(tmp_path / "a.png"), kind="same_input")


def test_both_layouts_answer_the_same(make: Callable[..., Path], model: Ensemble):
    images = pixels(3, 16, 16, 3)
    planes = Ensemble(make(plan_of(), "nchw"), threads=1)
    assert planes.layout == "nchw"
    assert_parity(planes(images), model(images), kind="same_input")


@pytest.mark.parametrize("count", [63, 64, 65, 130])
def test_batches_equal_one_by_one(count: int, model: Ensemble):
    images = pixels(count, 16, 16, 3)
    probabilities, rows = model.predict(images)
    assert probabilities.shape == (count, 3)
    last = [model.predict(image) for image in images[-3:]]
    assert_parity(probabilities[-3:], np.concatenate([p for p, _ in last]), kind="probabilities")
    assert_parity(rows[-3:], np.concatenate([r for _, r in last]), kind="probabilities")


def test_what_is_no_ensemble_is_refused(
    path: Path, fabricate: Callable[..., bytes], tmp_path: Path
):
    with pytest.raises(DataError, match="there is no such file; expected an ensemble"):
        Ensemble(tmp_path / "none.onnx")
    with pytest.raises(DataError, match="not a regular file; expected an ensemble"):
        Ensemble(tmp_path)
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"cut\.onnx: is not an ONNX file, or is truncated"):
        Ensemble(cut)
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(DataError, match=r"text\.onnx: is not an ONNX file, or is trunc"):
        Ensemble(tmp_path / "text.onnx")
    (tmp_path / "branch.onnx").write_bytes(fabricate(plan_of(), "d1"))
    with pytest.raises(DataError, match=r"branch\.onnx: not an ensemble of edge-stl"):
        Ensemble(tmp_path / "branch.onnx")


LIMITS = '{"plan":{"classes":["a"],"input":{"resolution":4},"limits":3},"options":{"layout":"x"}}'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[1]",
        '{"plan":3}',
        "null",
        pytest.param("[" * 20_000, id="deep"),
        pytest.param(LIMITS, id="limits"),
    ],
)
def test_damaged_metadata_is_refused(text: str, path: Path, tmp_path: Path):
    import onnx

    damaged = onnx.load(path)
    (prop,) = [p for p in damaged.metadata_props if p.key == "edge_stl.ensemble"]
    prop.value = text
    (tmp_path / "e.onnx").write_bytes(damaged.SerializeToString())
    with pytest.raises(DataError, match="its metadata is damaged"):
        Ensemble(tmp_path / "e.onnx")


# -- evaluate -----------------------------------------------------------------------------------


def test_evaluate_scores_the_images_and_counts_the_others(
    model: Ensemble, pictures: Callable[..., Path], tmp_path: Path
):
    folder = pictures(tmp_path / "test", ["bus", "car", "van"], count=25)
    Image.fromarray(pixels(15, 40, 3)).save(folder / "bus" / "small.png")
    (folder / "car" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n junk")
    (folder / "car" / "notes.txt").write_text("no image")
    told: list[tuple[int, int]] = []
    result = evaluate(model, folder, progress=lambda done, total: told.append((done, total)))
    assert result.scores.images == 75
    assert result.left_out["too_small"] == 1
    assert sum(result.left_out.values()) == 3
    assert told[-1] == (77, 77)
    assert np.bincount(result.labels).tolist() == [25, 25, 25]
    right = result.probabilities.argmax(axis=1) == result.labels
    assert result.scores.accuracy == pytest.approx(right.mean())
    files = sorted((folder / "van").glob("*.png"))
    assert_parity(result.probabilities[-25:], model(files), kind="probabilities")
    assert list(result.branches) == list(model.branches)


def test_the_accuracy_of_every_branch_is_its_own(
    model: Ensemble, pictures: Callable[..., Path], tmp_path: Path
):
    folder = pictures(tmp_path / "test", ["bus", "car", "van"], count=4)
    result = evaluate(model, folder)
    files = [p for name in ("bus", "car", "van") for p in sorted((folder / name).glob("*.png"))]
    rows = model.predict(files)[1]
    labels = np.repeat([0, 1, 2], 4)
    for i, name in enumerate(model.branches):
        right = rows[:, i].argmax(axis=1) == labels
        assert result.branches[name] == pytest.approx(right.mean())
    assert result.branches["d1.box2"] == pytest.approx(1 / 3)  # it knows one class alone


def test_evaluate_refuses_a_folder_without_a_usable_image(
    model: Ensemble, pictures: Callable[..., Path], tmp_path: Path
):
    small = pictures(tmp_path / "small", ["bus"], count=2, side=8)
    with pytest.raises(DataError, match=r"no image can be used \(2 too_small\); .* at least 16 px"):
        evaluate(model, small)
    other = pictures(tmp_path / "other", ["tram"], count=1)
    with pytest.raises(DataError, match="not a class of the plan"):
        evaluate(model, other)


# -- what it may import -------------------------------------------------------------------------


ALONE = """
import sys
for name in {blocked!r}:
    sys.modules[name] = None
import numpy as np
from edge_stl.predict import Ensemble
model = Ensemble(sys.argv[1], threads=1)
print(model(np.zeros((2, {side}, {side}, 3), np.uint8)).shape)
"""
HEAVY = ["torch", "onnx", "pywt", "pydantic", "typer", "rich", "safetensors", "scipy"]


def alone(path: Path, blocked: list[str], side: int) -> subprocess.CompletedProcess[str]:
    code = ALONE.format(blocked=blocked, side=side)
    return subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("side", [16, 32])
def test_arrays_need_numpy_and_onnxruntime_alone(side: int, path: Path):
    """Not even Pillow, where the ratio is an integer."""
    ran = alone(path, [*HEAVY, "PIL"], side)
    assert (ran.stdout.strip(), ran.stderr) == ("(2, 3)", "")


def test_a_missing_extra_is_said(path: Path):
    assert "pip install 'edge-stl[predict]'" in alone(path, ["onnxruntime"], 16).stderr
    ran = alone(path, [*HEAVY, "PIL"], 17)
    assert "UsageError" in ran.stderr
    assert "illow" in ran.stderr


def test_bytes_answer_as_the_file_does_and_are_refused_without_a_path(path: Path, model: Ensemble):
    images = pixels(3, 16, 16, 3)
    again = Ensemble(path.read_bytes())
    np.testing.assert_array_equal(again(images), model(images))
    with pytest.raises(DataError, match="ensemble: is not an ONNX file, or is truncated"):
        Ensemble(path.read_bytes()[:-40])

"""The benchmarks read whatever form of a set a user has, and refuse what is malformed."""

import contextlib
import gzip
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from benchmarks._data import Folders, default_data, image_folders
from benchmarks._readers import store
from benchmarks._readers.cifar import read_binary, read_python
from benchmarks._readers.idx import read_idx
from benchmarks._readers.pickled import PickledArray, read_pickled
from benchmarks._readers.sets import ROADSIDE_WNIDS, SETS
from edge_stl.errors import DataError, ResourceError


Pixels = npt.NDArray[np.uint8]

LABELS = [*range(10), 3, 7]
CIFAR_BATCHES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
ONE_JPEG = b"\xff\xd8\xff"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def _pixels(rng: np.random.Generator, *shape: int) -> Pixels:
    return rng.integers(0, 256, shape, dtype=np.uint8)


def _read(path: Path) -> Pixels:
    with Image.open(path) as image:
        return np.asarray(image)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- writers of tiny sets ----


def _idx(values: Pixels) -> bytes:
    head = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    return head + values.tobytes()


def _write_idx(
    folder: Path, rng: np.random.Generator, *, dot: bool = False, packed: bool = False
) -> Pixels:
    """Write the four files and return the training images."""
    images = _pixels(rng, len(LABELS), 28, 28)
    dash, suffix = "." if dot else "-", ".gz" if packed else ""
    for prefix in ("train", "t10k"):
        for kind, axes, values in (
            ("images", 3, images),
            ("labels", 1, np.array(LABELS, np.uint8)),
        ):
            content = _idx(values)
            name = f"{prefix}-{kind}{dash}idx{axes}-ubyte{suffix}"
            (folder / name).write_bytes(gzip.compress(content) if packed else content)
    return images


def _write_tree(folder: Path, classes: tuple[str, ...]) -> None:
    for split in ("train", "test"):
        for name in classes:
            (folder / split / name).mkdir(parents=True)
            Image.new("L", (4, 4)).save(folder / split / name / "a.png")


def _text(value: str) -> bytes:
    """Python 2's SHORT_BINSTRING."""
    return b"U" + bytes([len(value)]) + value.encode("latin-1")


def _python_batch(rows: Pixels, labels: list[int], *, old: bool = True) -> bytes:
    """Assemble a batch opcode by opcode: Python 2's protocol 2, or Python 3's protocol 4."""
    text: Callable[[str], bytes]
    if old:
        head, text = b"\x80\x02", _text
        reconstruct = b"cnumpy.core.multiarray\n_reconstruct\n"
        ndarray, dtype = b"cnumpy\nndarray\n", b"cnumpy\ndtype\n"
        content = b"T" + struct.pack("<I", rows.size) + rows.tobytes()  # BINSTRING
    else:
        head, text = b"\x80\x04", lambda value: b"\x8c" + bytes([len(value)]) + value.encode()
        reconstruct = text("numpy._core.multiarray") + text("_reconstruct") + b"\x93"
        ndarray, dtype = (text("numpy") + text(name) + b"\x93" for name in ("ndarray", "dtype"))
        content = b"B" + struct.pack("<I", rows.size) + rows.tobytes()  # BINBYTES
    shape = b"".join(b"J" + struct.pack("<i", side) for side in rows.shape) + b"\x86"
    array = (
        (reconstruct + ndarray + b"K\x00\x85" + text("b") + b"\x87Rq\x0b")
        + (b"(K\x01" + shape)
        + (dtype + text("u1") + b"K\x00K\x01\x87Rq\x11(K\x03" + text("|") + b"NNN")
        + (b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb")
        + (b"\x89" + content + b"tb")
    )
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    names = b"](" + text("a.png") + b"q\x20h\x20e"
    return (
        (head + b"}q\x01(")
        + (text("batch_label") + text("one batch"))
        + (text("labels") + numbers)
        + (text("data") + array)
        + (text("filenames") + names + b"u.")
    )


def _write_cifar(folder: Path, rng: np.random.Generator, *, form: str) -> Pixels:
    """Write six batches with all classes in each, and return the rows of the first."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = _pixels(rng, len(LABELS), 3072)
    classes = SETS["cifar10"].classes
    if form == "binary":
        labels = np.array(LABELS, np.uint8)[:, None]
        for name in CIFAR_BATCHES:
            (folder / f"{name}.bin").write_bytes(np.hstack([labels, rows]).tobytes())
        (folder / "batches.meta.txt").write_text("\n".join(classes) + "\n\n")
    else:
        for name in CIFAR_BATCHES:
            (folder / name).write_bytes(_python_batch(rows, LABELS, old=form == "old"))
        # protocol 0, with its LIST, DICT and text memo numbers
        listed = "".join(f"S'{name}'\np{index + 5}\na" for index, name in enumerate(classes))
        meta = f"(dp1\nS'num_cases_per_batch'\np2\nI10000\nsS'label_names'\np3\n(lp4\n{listed}s."
        (folder / "batches.meta").write_text(meta)
    return rows


def _write_tiny_imagenet(folder: Path) -> None:
    """Write the ten classes and one more, 500 + 2 images each, every file's bytes its own name."""
    lines = []
    for number, wnid in enumerate([*ROADSIDE_WNIDS, "n01443537"]):
        images = folder / "train" / wnid / "images"
        images.mkdir(parents=True)
        for index in range(500):
            name = f"{wnid}_{index}.JPEG"
            (images / name).write_bytes(ONE_JPEG + name.encode())
        lines += [f"val_{number + 20 * k}.JPEG\t{wnid}\t0\t32\t44\t62\n" for k in range(2)]
    (folder / "val" / "images").mkdir(parents=True)
    for line in lines:
        name = line.partition("\t")[0]
        (folder / "val" / "images" / name).write_bytes(ONE_JPEG + name.encode())
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))


@pytest.fixture(scope="module")
def tiny_imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "tiny-imagenet-200"
    _write_tiny_imagenet(folder)
    return folder


UNPACK = """
import sys
from pathlib import Path
name, out = sys.argv[1], Path(sys.argv[2])
for split in ("train", "test"):
    for digit in "0123456789":
        (out / split / digit).mkdir(parents=True)
        (out / split / digit / "00000.png").write_bytes(b"png")
"""


# ---- ImageFolder ----


@pytest.mark.parametrize("name", ["mnist", "cifar10", "roadside64"])
def test_an_image_folder_tree_is_used_where_it_is(name: Any, data: Path, out: Path) -> None:
    _write_tree(data, SETS[name].classes)

    folders = image_folders(name, data, out)

    assert folders == Folders(
        train=data / "train",
        test=data / "test",
        classes=SETS[name].classes,
        source=f"{SETS[name].title}, ImageFolder tree in {data}",
    )
    assert not out.exists()


def test_classes_are_the_digits_in_order_or_in_text_order() -> None:
    assert SETS["mnist"].classes == tuple("0123456789")
    for images in SETS.values():
        assert list(images.classes) == sorted(images.classes)
        assert len(images.classes) == 10


def test_a_tree_with_a_folder_too_many_is_copied_without_it(data: Path, out: Path) -> None:
    _write_tree(data, (*SETS["mnist"].classes, ".thumbnails"))

    folders = image_folders("mnist", data, out)

    assert folders.train == out / "train"
    assert _names(folders.train) == list("0123456789")
    assert (folders.test / "9" / "00000.png").read_bytes() == (
        data / "test" / "9" / "a.png"
    ).read_bytes()


def test_a_tree_of_other_classes_is_not_taken_for_the_set(data: Path, out: Path) -> None:
    _write_tree(data, SETS["cifar10"].classes)

    with pytest.raises(DataError, match="no MNIST found"):
        image_folders("mnist", data, out)


def test_an_empty_class_folder_is_refused(data: Path, out: Path) -> None:
    _write_tree(data, SETS["mnist"].classes)
    (data / "test" / "4" / "a.png").unlink()

    with pytest.raises(DataError, match="no images for test/4; expected every class"):
        image_folders("mnist", data, out)
    assert not out.exists()


# ---- MNIST's IDX files ----


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("dot", [False, True], ids=["dash", "dot"])
def test_idx_images_come_out_as_the_same_pixels(
    packed: bool, dot: bool, data: Path, out: Path, rng: np.random.Generator
) -> None:
    images = _write_idx(data, rng, dot=dot, packed=packed)

    folders = image_folders("mnist", data, out)

    assert folders.train == out / "train"
    assert folders.source == f"MNIST, IDX files in {data}"
    assert _names(folders.train / "3") == ["00000.png", "00001.png"]
    np.testing.assert_array_equal(_read(folders.train / "3" / "00000.png"), images[3])
    np.testing.assert_array_equal(_read(folders.train / "3" / "00001.png"), images[10])
    assert _names(folders.test) == list("0123456789")


def test_idx_files_are_found_where_torchvision_keeps_them(
    data: Path, out: Path, rng: np.random.Generator
) -> None:
    (data / "MNIST" / "raw").mkdir(parents=True)
    _write_idx(data / "MNIST" / "raw", rng)

    assert image_folders("mnist", data, out).source.endswith("raw")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        pytest.param(
            lambda raw: raw[:0], "begins with nothing; expected the IDX magic 00000803", id="0"
        ),
        pytest.param(lambda raw: b"PK" + raw[2:], "begins with 504b0803; expected", id="magic"),
        pytest.param(
            lambda raw: raw[:9], "ends in its header after 9 bytes; expected 16", id="head"
        ),
        pytest.param(
            lambda raw: raw[:-1], "9407 bytes after the header; expected 9408", id="short"
        ),
        pytest.param(
            lambda raw: raw + b"x", "more bytes after the header; expected 9408", id="long"
        ),
        pytest.param(
            lambda raw: raw[:4] + struct.pack(">I", 2**31) + raw[8:],
            r"claims shape \(2147483648, 28, 28\); expected at most \(60000, 28, 28\)",
            id="2^31 images",
        ),
        pytest.param(
            lambda raw: raw[:4] + struct.pack(">I", 60_000) + raw[8:],
            "9408 bytes after the header; expected 47040000",
            id="60000 images",
        ),
        pytest.param(
            lambda raw: raw[:8] + struct.pack(">II", 65_536, 65_536) + raw[16:],
            r"claims shape \(12, 65536, 65536\)",
            id="huge images",
        ),
    ],
)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
def test_a_malformed_idx_file_is_refused(
    change: Callable[[bytes], bytes],
    sentence: str,
    packed: bool,
    data: Path,
    rng: np.random.Generator,
) -> None:
    path = data / "train-images-idx3-ubyte"
    raw = change(_idx(_pixels(rng, len(LABELS), 28, 28)))
    path.write_bytes(gzip.compress(raw) if packed else raw)

    with pytest.raises(DataError, match=f"train-images-idx3-ubyte: .*{sentence}") as refusal:
        read_idx(path, axes=3)
    assert "\n" not in str(refusal.value)
    assert refusal.value.exit_code == 10


def test_a_cut_gzip_file_is_refused(data: Path, rng: np.random.Generator) -> None:
    path = data / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(_idx(_pixels(rng, 12, 28, 28)))[:-200])

    with pytest.raises(DataError, match="broken gzip data"):
        read_idx(path, axes=3)


def test_labels_that_do_not_fit_the_images_are_refused(
    data: Path, out: Path, rng: np.random.Generator
) -> None:
    _write_idx(data, rng)
    labels = data / "train-labels-idx1-ubyte"

    labels.write_bytes(_idx(np.zeros(11, np.uint8)))
    with pytest.raises(DataError, match="11 labels for 12 images; expected one each"):
        image_folders("mnist", data, out)
    labels.write_bytes(_idx(np.full(12, 10, np.uint8)))
    with pytest.raises(DataError, match="label 10; expected 0 to 9"):
        image_folders("mnist", data, out)
    assert _names(out.parent) == ["data"]


def test_a_missing_idx_file_is_named(data: Path, out: Path, rng: np.random.Generator) -> None:
    _write_idx(data, rng)
    (data / "t10k-labels-idx1-ubyte").unlink()

    with pytest.raises(DataError, match="the IDX files t10k-labels are missing"):
        image_folders("mnist", data, out)


# ---- CIFAR-10 ----


@pytest.mark.parametrize(
    ("form", "folder"),
    [
        ("binary", "."),
        ("binary", "cifar-10-batches-bin"),
        ("old", "."),
        ("old", "cifar-10-batches-py"),
        ("new", "."),
    ],
)
def test_cifar_images_come_out_as_the_same_pixels(
    form: str, folder: str, data: Path, out: Path, rng: np.random.Generator
) -> None:
    rows = _write_cifar(data / folder, rng, form=form)

    folders = image_folders("cifar10", data, out)

    cats = folders.train / "cat"
    assert len(_names(cats)) == 10  # two in each of five batches
    assert len(_names(folders.test / "cat")) == 2
    red = _read(cats / "00000.png")[:, :, 0]
    np.testing.assert_array_equal(red, rows[3, :1024].reshape(32, 32))
    blue = _read(cats / "00001.png")[:, :, 2]
    np.testing.assert_array_equal(blue, rows[10, 2048:].reshape(32, 32))
    kind = "binary" if form == "binary" else "Python"
    assert folders.source == f"CIFAR-10, {kind} batches in {data / folder}"


@pytest.mark.parametrize("form", ["binary", "old"])
def test_batches_with_the_names_of_another_set_are_refused(
    form: str, data: Path, out: Path, rng: np.random.Generator
) -> None:
    _write_cifar(data, rng, form=form)
    meta = data / ("batches.meta.txt" if form == "binary" else "batches.meta")
    meta.write_text(meta.read_text().replace("airplane", "../../oops"))

    with pytest.raises(DataError, match=r"batches\.meta.*expected airplane, automobile, bird"):
        image_folders("cifar10", data, out)
    assert _names(out.parent) == ["data"]


def test_missing_batches_are_named(data: Path, out: Path, rng: np.random.Generator) -> None:
    _write_cifar(data, rng, form="binary")
    (data / "data_batch_3.bin").unlink()

    with pytest.raises(
        DataError, match=r"data_batch_3\.bin missing; expected data_batch_1\.bin to"
    ):
        image_folders("cifar10", data, out)


@pytest.mark.parametrize("size", [0, 3072, 3074, 3073 * 10_001])
def test_a_binary_batch_of_a_wrong_length_is_refused(size: int, data: Path) -> None:
    path = data / "test_batch.bin"
    with path.open("wb") as stream:
        stream.truncate(size)

    with pytest.raises(DataError, match=f"{size} bytes; expected 1 to 10000 records of 3073"):
        read_binary(path)


def test_a_binary_label_that_is_no_class_is_refused(data: Path) -> None:
    path = data / "test_batch.bin"
    path.write_bytes(b"\x0a" + bytes(3072))

    with pytest.raises(DataError, match=r"test_batch\.bin: label 10; expected 0 to 9"):
        read_binary(path)


# ---- the reader that does not unpickle ----


def test_the_array_of_a_batch_is_read_as_plain_bytes(data: Path, rng: np.random.Generator) -> None:
    rows = _pixels(rng, 2, 3072)
    (data / "batch").write_bytes(_python_batch(rows, [1, 2]))

    batch = read_pickled(data / "batch")

    assert batch["data"] == PickledArray(shape=(2, 3072), data=rows.tobytes())
    assert batch["labels"] == [1, 2]
    assert batch["batch_label"] == "one batch"
    assert batch["filenames"] == ["a.png", "a.png"]


def _runs(command: str) -> list[Any]:
    """The ways in which a pickle asks for ``os.system(command)``."""
    text = _text(command)
    return [
        pytest.param(b"\x80\x02cos\nsystem\n" + text + b"\x85R.", "names 'os system'", id="global"),
        pytest.param(
            b"\x80\x04" + _text("os") + _text("system") + b"\x93" + text + b"\x85R.",
            "names 'os system'",
            id="stack-global",
        ),
        pytest.param(b"(S'" + command.encode() + b"'\nios\nsystem\n.", "opcode INST", id="inst"),
        pytest.param(
            b"\x80\x02cnumpy\nndarray\n" + text + b"\x85R.", "a call other than", id="ndarray call"
        ),
        pytest.param(b"\x80\x02cnumpy\nndarray\n)\x81.", "opcode NEWOBJ", id="newobj"),
        pytest.param(b"\x80\x02\x82\x01.", "opcode EXT1", id="extension"),
        pytest.param(b"Pos.system\n.", "opcode PERSID", id="persistent id"),
    ]


@pytest.mark.parametrize(("program", "sentence"), _runs("touch ran-by-the-pickle"))
def test_a_pickle_that_wants_to_run_something_is_refused_and_not_run(
    program: bytes, sentence: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(command: str) -> int:
        pytest.fail(f"the pickle ran {command}")

    monkeypatch.setattr(os, "system", never)
    monkeypatch.chdir(data)
    Path("data_batch_1").write_bytes(program)

    with pytest.raises(
        DataError, match=f"data_batch_1: not read .{sentence}.*Nothing of it was run"
    ):
        read_python(Path("data_batch_1"))
    assert _names(data) == ["data_batch_1"]


def _array_of(*, shape: bytes, size: bytes = b"U\x04abcd") -> bytes:
    dtype = b"cnumpy\ndtype\n" + _text("u1") + b"K\x00K\x01\x87R"
    new = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + _text("b") + b"\x87R"
    )
    return b"\x80\x02}" + _text("data") + new + b"(K\x01" + shape + dtype + b"\x89" + size + b"tbs."


@pytest.mark.parametrize(
    ("program", "sentence"),
    [
        pytest.param(b"", "no opcode|exhausted", id="empty"),
        pytest.param(b"\x80\x02}", "exhausted", id="no stop"),
        pytest.param(b"\x80\x02].", "the value is a list", id="no dict"),
        pytest.param(b"\x80\x02.", "takes from an empty stack", id="empty stack"),
        pytest.param(b"\x80\x02}u.", "there is no mark", id="no mark"),
        pytest.param(b"\x80\x02}(K\x01u.", "a key without a value", id="odd"),
        pytest.param(b"\x80\x02}K\x01K\x02s.", "a int where text belongs", id="key"),
        pytest.param(b"\x80\x02h\x05.", "reads a memo entry that was never written", id="memo"),
        pytest.param(b"\x80\x02T\xff\xff\xff\x7fab.", "expected 2147483647 bytes", id="lying text"),
        pytest.param(b"\x80\x02" + b"]" * 200_001 + b".", "more than 200000 opcodes", id="many"),
        pytest.param(
            _array_of(shape=b"J\xff\xff\xff\x00J\xff\xff\xff\x00\x86"),
            r"an array of 4 bytes claims shape \(16777215, 16777215\)",
            id="lying shape",
        ),
        pytest.param(
            _array_of(shape=b"\x8a\xff" + b"\x7f" * 255 + b"\x85"),
            "an array shape that is not at most 4 sizes",
            id="endless size",
        ),
        pytest.param(
            _array_of(shape=b"K\x04\x85", size=b"K\x04"), "an array state other than", id="no bytes"
        ),
    ],
)
def test_a_malformed_pickle_is_refused(program: bytes, sentence: str, data: Path) -> None:
    (data / "batch").write_bytes(program)

    with pytest.raises(DataError, match=f"batch: not read .*({sentence})") as refusal:
        read_pickled(data / "batch")
    assert "\n" not in str(refusal.value)


def test_a_pickle_larger_than_any_batch_is_not_read(data: Path) -> None:
    with (data / "batch").open("wb") as stream:
        stream.truncate(1 << 40)

    with pytest.raises(DataError, match="1099511627776 bytes; expected a CIFAR-10 batch"):
        read_pickled(data / "batch")


@settings(deadline=None, max_examples=150, derandomize=True)
@given(st.data())
def test_whatever_bytes_a_pickle_has_it_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, draw: st.DataObject
) -> None:
    whole = _python_batch(np.zeros((1, 12), np.uint8), [1])
    opcodes = st.sampled_from([bytes([code]) for code in b"(.]})tsuaeldRb0N\x85\x86\x87\x88\x93"])
    parts = st.lists(opcodes | st.binary(max_size=4) | st.just(whole[:-1]), max_size=20)
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(b"".join(draw.draw(parts)) + b".")

    with contextlib.suppress(DataError):
        assert isinstance(read_pickled(path), dict)


@pytest.mark.parametrize(
    ("rows", "labels", "sentence"),
    [
        pytest.param((2, 3072), [1], r"data of shape \(2, 3072\) with 1 labels", id="labels"),
        pytest.param((2, 12), [1, 2], r"data of shape \(2, 12\) with 2 labels", id="pixels"),
        pytest.param((0, 3072), [], r"data of shape \(0, 3072\) with 0 labels", id="none"),
        pytest.param((1, 3072), [10], "a label that is no class", id="class"),
    ],
)
def test_a_python_batch_that_does_not_fit_together_is_refused(
    rows: tuple[int, int], labels: list[int], sentence: str, data: Path
) -> None:
    (data / "batch").write_bytes(_python_batch(np.zeros(rows, np.uint8), labels))

    with pytest.raises(DataError, match=sentence):
        read_python(data / "batch")


def test_a_dict_that_is_no_batch_is_refused(data: Path) -> None:
    (data / "batch").write_bytes(b"\x80\x02}" + _text("fine_labels") + b"]s.")

    with pytest.raises(DataError, match=r"keys \['fine_labels'\]; expected an array 'data'"):
        read_python(data / "batch")


# ---- tiny-imagenet-200 ----


def test_roadside64_is_taken_from_tiny_imagenet_by_the_rule(tiny_imagenet: Path, out: Path) -> None:
    folders = image_folders("roadside64", tiny_imagenet.parent, out)

    assert _names(folders.train) == sorted(ROADSIDE_WNIDS.values())
    for wnid, name in ROADSIDE_WNIDS.items():
        inputs = sorted(f"{wnid}_{index}.JPEG" for index in range(500))
        train, test = (
            [
                (folder / name / entry).read_bytes().removeprefix(ONE_JPEG).decode()
                for entry in _names(folder / name)
            ]
            for folder in (folders.train, folders.test)
        )
        assert train == inputs[:400]
        assert test[2:] == inputs[400:]
        assert [entry.startswith("val_") for entry in test[:2]] == [True, True]
        assert len(test) == 102


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("../../x.JPEG\tn03444034\t0\t0\t1\t1", "line 1 names '../../x.JPEG'"),
        ("val_a/../../../x.JPEG\tn03444034\t0\t0\t1\t1", r"line 1 names 'val_a/\.\./\.\./\.\./x"),
        ("val_99999.JPEG\tn03444034\t0\t0\t1\t1", "line 1 names 'val_99999.JPEG'"),
        ("<html>", "line 1 is '<html>'; expected a file name, a tab"),
    ],
)
def test_an_annotation_that_leads_elsewhere_is_refused(
    line: str, sentence: str, data: Path, out: Path
) -> None:
    (data / "val" / "images" / "val_a").mkdir(parents=True)
    (data / "x.JPEG").write_bytes(ONE_JPEG)  # it is there: only the name speaks against it
    (data / "val" / "val_annotations.txt").write_text(line + "\n")

    with pytest.raises(DataError, match=rf"val_annotations\.txt: {sentence}"):
        image_folders("roadside64", data, out)


def test_a_class_without_its_500_images_is_refused(data: Path, out: Path) -> None:
    (data / "val").mkdir()
    (data / "val" / "val_annotations.txt").write_text("")
    (data / "train" / "n02917067" / "images").mkdir(parents=True)

    with pytest.raises(DataError, match="0 JPEG images; expected 500"):
        image_folders("roadside64", data, out)


def test_a_tree_without_its_annotations_is_refused(data: Path, out: Path) -> None:
    (data / "train" / "n02917067" / "images").mkdir(parents=True)

    with pytest.raises(DataError, match=r"val_annotations\.txt: missing; expected the list"):
        image_folders("roadside64", data, out)


# ---- packs ----


def test_a_pack_is_unpacked_by_the_program_beside_it(data: Path, out: Path) -> None:
    (data / "mnist.npz").write_bytes(b"only unpack.py knows")
    (data / "unpack.py").write_text(UNPACK)

    folders = image_folders("mnist", data, out)

    assert (folders.test / "9" / "00000.png").read_bytes() == b"png"
    assert folders.source == f"MNIST, pack in {data}"


@pytest.mark.parametrize(
    ("program", "sentence"),
    [
        pytest.param(
            "raise SystemExit('no such pack')", r"ended with 1 .*\(no such pack\)", id="no"
        ),
        pytest.param(UNPACK.replace("789", "78x"), "unpacked to classes .*'x'", id="classes"),
        pytest.param("", r"unpacked to classes \[\]; expected 0, 1, 2", id="nothing"),
    ],
)
def test_a_pack_that_does_not_unpack_to_the_set_is_refused(
    program: str, sentence: str, data: Path, out: Path
) -> None:
    (data / "mnist.npz").write_bytes(b"")
    (data / "unpack.py").write_text(program)

    with pytest.raises(DataError, match=sentence):
        image_folders("mnist", data, out)
    assert _names(out.parent) == ["data"]


def test_the_shared_roadside64_pack_has_4000_and_1500_images(out: Path) -> None:
    data = default_data()
    if not (data / "roadside64.npz").is_file():
        pytest.skip(f"{data} has no roadside64.npz; name its folder in EDGE_STL_DATA")

    folders = image_folders("roadside64", data, out)

    for folder, count in ((folders.train, 400), (folders.test, 150)):
        assert [len(_names(folder / name)) for name in folders.classes] == [count] * 10
    assert _read(folders.train / "tractor" / "00000.jpg").shape == (64, 64, 3)


# ---- which form, where ----


def test_forms_are_preferred_in_their_documented_order(
    data: Path, out: Path, rng: np.random.Generator
) -> None:
    (data / "mnist.npz").write_bytes(b"")
    (data / "unpack.py").write_text(UNPACK)
    assert "pack" in image_folders("mnist", data, out / "1").source
    _write_idx(data, rng)
    assert "IDX files" in image_folders("mnist", data, out / "2").source
    _write_tree(data / "mnist", SETS["mnist"].classes)
    assert "ImageFolder tree" in image_folders("mnist", data, out / "3").source


def test_a_folder_named_like_the_set_comes_before_the_folder_around_it(
    data: Path, out: Path
) -> None:
    _write_tree(data, SETS["mnist"].classes)
    _write_tree(data / "mnist", SETS["mnist"].classes)

    assert image_folders("mnist", data, out).train == data / "mnist" / "train"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "mnist",
            (
                r"no MNIST found; .*IDX files, or mnist\.npz with unpack\.py\. It is published at "
                r"yann\.lecun\.com/exdb/mnist \(mirror: ossci-datasets\.s3\.amazonaws\.com/mnist\)"
            ),
        ),
        ("cifar10", r"no CIFAR-10 found; .*published at www\.cs\.toronto\.edu/~kriz/cifar\.html"),
        ("roadside64", r"no roadside64 found; .*cs231n\.stanford\.edu/tiny-imagenet-200\.zip"),
    ],
)
@pytest.mark.parametrize("exists", [True, False], ids=["empty", "no folder"])
def test_a_missing_set_is_said_with_where_it_is_published(
    name: Any, sentence: str, exists: bool, data: Path, out: Path
) -> None:
    place = data if exists else data / "nowhere"

    with pytest.raises(DataError, match=sentence) as refusal:
        image_folders(name, place, out)
    assert str(refusal.value).startswith(f"{place}: ")
    assert "\n" not in str(refusal.value)


def test_the_default_folder_is_the_one_the_environment_names(
    monkeypatch: pytest.MonkeyPatch, data: Path
) -> None:
    monkeypatch.setenv("EDGE_STL_DATA", str(data))

    assert default_data() == data


@pytest.mark.parametrize("value", ["", None], ids=["empty", "unset"])
def test_without_the_variable_the_default_is_the_folder_beside_the_repository(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_STL_DATA", value or "")
    if value is None:
        monkeypatch.delenv("EDGE_STL_DATA")
    repository = Path(__file__).resolve().parents[2]

    assert default_data() == repository.parent / "shared" / "data"


# ---- publishing ----


def test_a_second_run_writes_nothing(
    data: Path, out: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write_idx(data, rng)
    first = image_folders("mnist", data, out)
    monkeypatch.setattr(store.ImageWriter, "pixels", lambda *_, **__: pytest.fail("wrote again"))

    assert image_folders("mnist", data, out) == first


def test_the_same_bytes_elsewhere_are_the_same_source(
    data: Path, out: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write_idx(data, rng)
    image_folders("mnist", data, out)
    moved = data.rename(data.with_name("moved"))
    monkeypatch.setattr(store.ImageWriter, "pixels", lambda *_, **__: pytest.fail("wrote again"))

    assert image_folders("mnist", moved, out).source.endswith("moved")


def test_images_of_other_bytes_are_not_reused(
    data: Path, out: Path, rng: np.random.Generator
) -> None:
    _write_idx(data, rng)
    image_folders("mnist", data, out)
    _write_idx(data, rng)  # the same names and sizes, as those of Fashion-MNIST would be

    with pytest.raises(DataError, match=r"out: holds images of IDX files in .* \(other sha256\)"):
        image_folders("mnist", data, out)


def test_a_published_folder_that_lost_an_image_is_refused(
    data: Path, out: Path, rng: np.random.Generator
) -> None:
    _write_idx(data, rng)
    (image_folders("mnist", data, out).train / "3" / "00001.png").unlink()

    with pytest.raises(DataError, match="some of the images written there are gone"):
        image_folders("mnist", data, out)


@pytest.mark.parametrize("marker", [None, b"no json", b"[]", b"[" * 60_000, b" " * 70_000])
def test_a_folder_with_other_files_is_left_alone(
    marker: bytes | None, data: Path, out: Path, rng: np.random.Generator
) -> None:
    _write_idx(data, rng)
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    if marker is not None:
        (out / store.MARKER).write_bytes(marker)

    with pytest.raises(DataError, match="holds files that this benchmark did not write"):
        image_folders("mnist", data, out)
    assert (out / "thesis.txt").read_text() == "mine"


def test_an_interrupted_write_leaves_nothing_behind(
    data: Path, out: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write_idx(data, rng)

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", stop)
        with pytest.raises(KeyboardInterrupt, match="stopped"):
            image_folders("mnist", data, out)

    assert _names(out.parent) == ["data"]
    assert image_folders("mnist", data, out).train == out / "train"


def test_an_empty_folder_may_be_published_into(
    data: Path, out: Path, rng: np.random.Generator
) -> None:
    _write_idx(data, rng)
    out.mkdir()

    image_folders("mnist", data, out)

    found = json.loads((out / store.MARKER).read_bytes())
    assert found["images"]["train"] == [1, 1, 1, 2, 1, 1, 1, 2, 1, 1]
    assert found["source"] == f"IDX files in {data}"


def test_a_run_that_comes_second_uses_what_the_first_published(
    data: Path, out: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write_idx(data, rng)
    rename = Path.rename

    def late(path: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "rename", rename)
        image_folders("mnist", data, out)  # the other run is done just before
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", late)

    assert image_folders("mnist", data, out).train == out / "train"
    assert _names(out.parent) == ["data", "out"]


def test_a_disk_that_does_not_take_the_images_is_a_resource_error(
    data: Path, out: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write_idx(data, rng)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)

    with pytest.raises(ResourceError, match=r"MNIST cannot be prepared from .*No space left"):
        image_folders("mnist", data, out)

"""A folder becomes the same list of files and labels, whatever made it and in whatever order."""

import os
import random  # noqa: TID251  (hypothesis hands out seeded instances of it)
import shutil
import socket
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from edge_stl.errors import DataError, ResourceError
from edge_stl.images import ImageList, class_names, scan


CLASSES = ("car", "tractor")


def put(root: Path, *names: str) -> Path:
    """Write files; their contents do not matter, no image is opened by a scan."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def table(root: Path, text: str | bytes) -> Path:
    root.mkdir(exist_ok=True)
    data = text if isinstance(text, bytes) else text.encode()
    (root / "labels.csv").write_bytes(data)
    return root


def pairs(images: ImageList) -> list[tuple[str, int]]:
    return list(zip(images.paths, images.labels.tolist(), strict=True))


def test_class_folders_are_read_at_any_depth_in_a_fixed_order(tmp_path: Path):
    put(tmp_path, "tractor/b.PNG", "tractor/a.jpg", "car/z/deep/1.webp", "car/y.gif", "car/Z.bmp")

    images = scan(tmp_path, CLASSES)

    expected = [("car/Z.bmp", 0), ("car/y.gif", 0), ("car/z/deep/1.webp", 0)]
    assert pairs(images) == [*expected, ("tractor/a.jpg", 1), ("tractor/b.PNG", 1)]
    assert images.labels.dtype == np.int64
    assert not images.labels.flags.writeable
    assert images.left_out == {}
    assert len(images) == 5
    assert images.path(0) == tmp_path / "car/Z.bmp"


def test_the_order_of_the_plan_gives_the_labels(tmp_path: Path):
    put(tmp_path, "tractor/a.png", "car/a.png")

    assert pairs(scan(tmp_path, ("tractor", "car"))) == [("tractor/a.png", 0), ("car/a.png", 1)]


def test_a_class_without_images_is_fine(tmp_path: Path):
    put(tmp_path, "tractor/a.png")
    (tmp_path / "car").mkdir()

    assert pairs(scan(tmp_path, (*CLASSES, "bus"))) == [("tractor/a.png", 1)]


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    names=st.sets(
        st.builds(
            "{}/{}.png".format,
            st.sampled_from(["car", "tractor", "car/in", "tractor/x/y"]),
            st.text(st.sampled_from("aZ0 é\u0301-😀"), min_size=1, max_size=6),
        ),
        min_size=1,
    ),
    rng=st.randoms(use_true_random=False),
)
def test_the_list_does_not_depend_on_the_order_of_creation(
    tmp_path: Path, names: set[str], rng: random.Random
):
    lists = []
    for root in (tmp_path / "first", tmp_path / "second"):
        shutil.rmtree(root, ignore_errors=True)
        order = sorted(names)
        rng.shuffle(order)
        put(root, *order)
        for name in names:
            os.utime(root / name, ns=(0, 7))
        lists.append(scan(root, CLASSES))

    assert lists[0].paths == lists[1].paths
    assert sorted(lists[0].paths) == sorted(names)
    assert lists[0].digest == lists[1].digest


def test_the_digest_sees_names_labels_sizes_and_times(tmp_path: Path):
    put(tmp_path, "car/a.png", "tractor/b.png")
    digests = {scan(tmp_path, CLASSES).digest, scan(tmp_path, (*CLASSES, "bus")).digest}
    assert len(digests) == 1

    digests.add(scan(tmp_path, ("bus", *CLASSES)).digest)
    os.utime(tmp_path / "car/a.png", ns=(0, 1))
    digests.add(scan(tmp_path, CLASSES).digest)
    (tmp_path / "car/a.png").write_bytes(b"longer")
    os.utime(tmp_path / "car/a.png", ns=(0, 1))
    digests.add(scan(tmp_path, CLASSES).digest)
    (tmp_path / "car/a.png").rename(tmp_path / "car/c.png")
    digests.add(scan(tmp_path, CLASSES).digest)

    assert len(digests) == 5


def test_litter_is_ignored_and_everything_else_is_counted(tmp_path: Path):
    put(tmp_path, "car/a.png", "car/.a.png", ".git/x.png", "car/Thumbs.db", "car/desktop.ini")
    put(tmp_path, "__MACOSX/car/a.png", "car/__MACOSX/a.png", ".DS_Store")
    put(tmp_path, "README.md", "car/notes.txt", "car/model.onnx", "stray.jpg", "stray2.png")
    os.mkfifo(tmp_path / "car/fifo.png")
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "car/gone.png").symlink_to("nowhere")
    (tmp_path / "car/loop.png").symlink_to("loop.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "car/s.png"))

        images = scan(tmp_path, CLASSES)

    assert images.paths == ("car/a.png",)
    expected = {"no_class": 2, "not_a_file": 4, "not_an_image": 3, "vanished": 1}
    assert images.left_out == expected


@pytest.mark.parametrize(
    "name", ["a\nb.png", "😀.png", "-rf.png", " .png", "a'b\".png", "x" * 251 + ".png", "é,;.PnG"]
)
def test_odd_names_are_names(tmp_path: Path, name: str):
    put(tmp_path, f"car/{name}")

    assert scan(tmp_path, CLASSES).paths == (f"car/{name}",)


def test_a_name_that_is_not_utf_8_is_a_name(tmp_path: Path):
    put(tmp_path, "car/a.png")
    try:
        (tmp_path / os.fsdecode(b"car/\xff.png")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")

    assert len(scan(tmp_path, CLASSES)) == 2


def test_links_are_followed_and_loops_end(tmp_path: Path):
    outside = put(tmp_path / "outside", "more/c.png", "d.png")
    root = put(tmp_path / "root", "car/a.png", "stray.png")
    (root / "car/link.png").symlink_to(outside / "d.png")
    (root / "car/folder").symlink_to(outside)
    (root / "car/again").symlink_to(outside)
    (root / "car/up").symlink_to("..")
    (root / "car/self").symlink_to(".")
    (outside / "more/back").symlink_to(root / "car")
    (root / "tractor").symlink_to(outside / "more")

    images = scan(root, CLASSES)

    expected = [("car/a.png", 0), ("car/link.png", 0), ("tractor/c.png", 1)]
    assert pairs(images) == [*expected[:1], ("car/again/d.png", 0), *expected[1:]]
    assert images.left_out == {"no_class": 1}


def test_names_are_compared_in_one_unicode_form(tmp_path: Path):
    composed = unicodedata.normalize("NFC", "Äcker")
    decomposed = unicodedata.normalize("NFD", "Äcker")
    put(tmp_path, f"{decomposed}/a.png")

    assert scan(tmp_path, [composed]).paths == (f"{decomposed}/a.png",)
    assert class_names(tmp_path) == [composed]


@pytest.mark.parametrize(
    ("folder", "hint"), [("tracktor", "tractor"), ("Tractor", "tractor"), ("cars", "car")]
)
def test_an_unknown_class_folder_is_refused_by_name(tmp_path: Path, folder: str, hint: str):
    put(tmp_path, "car/a.png", f"{folder}/b.png")

    sentence = (
        rf"/{folder}: not a class of the plan \(did you mean '{hint}'\?\); "
        r"classes are car, tractor. Rename or remove the folder\."
    )
    with pytest.raises(DataError, match=sentence):
        scan(tmp_path, CLASSES)


def test_all_unknown_folders_are_named_on_one_line(tmp_path: Path):
    put(tmp_path, "car/a.png", "qqq/b.png", "www\n/b.png")

    with pytest.raises(DataError, match=r"/qqq: not a class of the plan \(nor are www\\n\)"):
        scan(tmp_path, CLASSES)


def test_many_classes_do_not_make_a_long_line(tmp_path: Path):
    put(tmp_path, "qqq/b.png")

    with pytest.raises(DataError, match=r"c10, c11 and 988 more. Rename") as caught:
        scan(tmp_path, [f"c{i}" for i in range(1000)])

    assert len(str(caught.value)) < 400


def test_a_folder_of_splits_gets_the_right_folder_suggested(tmp_path: Path):
    put(tmp_path, "train/car/a.png", "test/car/b.png")

    with pytest.raises(DataError, match=r"are test, train, not classes .* Use /.*/train\."):
        scan(tmp_path, CLASSES)


def test_a_class_may_be_called_train(tmp_path: Path):
    put(tmp_path, "train/a.png")

    assert pairs(scan(tmp_path, ("bus", "train"))) == [("train/a.png", 1)]


@pytest.mark.parametrize(
    ("names", "counts"),
    [
        ((), "it is empty"),
        (("a.png",), "1 no_class"),
        (("car/a.txt", "car/b.txt"), "2 not_an_image"),
    ],
)
def test_a_folder_without_images_says_what_was_expected(tmp_path: Path, names: tuple, counts: str):
    put(tmp_path, *names)

    sentence = rf"holds no image of a class \({counts}\); expected folders named car, tractor, or"
    with pytest.raises(DataError, match=sentence):
        scan(tmp_path, CLASSES)


def test_what_is_no_folder_is_refused(tmp_path: Path):
    put(tmp_path, "a.png")

    for name in ("missing", "a.png"):
        with pytest.raises(DataError, match=f"{name}: is no folder; expected a folder of class"):
            scan(tmp_path / name, CLASSES)


def test_a_folder_that_may_not_be_read_is_a_matter_of_resources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def forbidden(path: object) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", forbidden)

    with pytest.raises(ResourceError, match=r"cannot be listed .Permission denied.; expected a"):
        scan(tmp_path, CLASSES)


@pytest.mark.parametrize(
    "text",
    [
        "file_name,label\nx/a.png,car\nb.png,tractor\n",
        b"\xef\xbb\xbffile_name,label\r\nx/a.png,car\r\nb.png,tractor\r\n",
        'label,file_name,note\ntractor,"b.png",\n car ,./x//a.png,"two\nlines"\n\n',
        "file_name,label\nb.png,tractor\nx/a.png,car\nb.png,tractor\n",
    ],
)
def test_a_table_of_labels_is_read_in_its_variants(tmp_path: Path, text: str | bytes):
    put(table(tmp_path, text), "x/a.png", "b.png", "unlisted.png", "unknown_folder/c.png")

    images = scan(tmp_path, CLASSES)

    assert pairs(images) == [("x/a.png", 0), ("b.png", 1)]
    assert images.left_out == {}
    assert class_names(tmp_path) == ["car", "tractor"]


def test_rows_of_a_table_without_a_usable_file_are_counted(tmp_path: Path):
    rows = "a.png,car\ngone.png,car\nnotes.txt,car\nfolder.png,tractor\n"
    put(table(tmp_path, "file_name,label\n" + rows), "a.png", "notes.txt", "folder.png/x")

    images = scan(tmp_path, CLASSES)

    assert images.paths == ("a.png",)
    assert images.left_out == {"not_a_file": 1, "not_an_image": 1, "vanished": 1}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", r"first line is ''; expected 'file_name,label'\. Add this line"),
        ("a.png,car\n", "first line is 'a.png,car'; expected 'file_name,label'"),
        ("file_name;label\na.png;car\n", "first line is 'file_name;label'"),
        ("file_name,label\na.png\n", r"labels\.csv line 2: has 1 fields; expected 2"),
        ("file_name,label\na.png,cars\n", r"line 2: label 'cars' is not .*did you mean 'car'\?"),
        ("file_name,label\na.png,\n", "line 2: label '' is not a class of the plan"),
        ("file_name,label\n../a.png,car\n", r"line 2: file name '\.\./a\.png' leaves the folder"),
        ("file_name,label\nx/../../a.png,car\n", "line 2: .* leaves the folder"),
        ("file_name,label\n/etc/a.png,car\n", "line 2: file name '/etc/a.png' leaves"),
        ("file_name,label\nC:\\a.png,car\n", "line 2: .* leaves the folder"),
        ("file_name,label\n,car\n", "line 2: file name '' leaves the folder or is empty"),
        ("file_name,label\na.png,car\na.png,tractor\n", "line 3: 'a.png' is 'tractor' here and"),
        (b"file_name,label\n\xff.png,car\n", "byte 16 is not UTF-8"),
        ('file_name,label\n"a.png,car\n', "is no well-formed table"),
        ("file_name,label\n" + "x" * 200_000 + ",car\n", "is no well-formed table .field larger"),
        ("file_name,label\na\0.png,car\n", "leaves the folder|line contains NUL"),
        ("file_name,label\nb.png,car\n", "holds no image of a class .1 vanished."),
    ],
)
def test_a_wrong_table_is_refused_with_its_line(tmp_path: Path, text: str | bytes, sentence: str):
    put(table(tmp_path, text), "a.png")

    with pytest.raises(DataError, match=sentence) as caught:
        scan(tmp_path, CLASSES)

    assert "\n" not in str(caught.value)


def test_a_table_that_is_a_fifo_does_not_block(tmp_path: Path):
    os.mkfifo(tmp_path / "labels.csv")

    with pytest.raises(DataError, match=r"labels\.csv: is not a regular file"):
        scan(tmp_path, CLASSES)


def test_a_table_that_is_a_broken_link_is_named(tmp_path: Path):
    (tmp_path / "labels.csv").symlink_to("nowhere")

    with pytest.raises(ResourceError, match=r"labels\.csv: cannot be read"):
        scan(tmp_path, CLASSES)


def test_class_names_are_the_folders_as_text(tmp_path: Path):
    put(tmp_path, "b/x.png", "B/x.png", "a/x.png", ".hidden/x.png", "stray.png")

    assert class_names(tmp_path) == ["B", "a", "b"]


def test_a_folder_without_class_names_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"names no class; expected class folders, or labels.csv"):
        class_names(tmp_path)

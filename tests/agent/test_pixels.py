"""Rows come off the disk as they were written, or not at all."""

import errno
import gc
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from device_agent._cache_digest import Digests, digests_of
from device_agent.pixels import DamagedRows, PixelFile
from edge_stl.errors import ResourceError


SHAPE = (40, 5, 5, 3)
ROW = 75


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("cache") / "images.u8"
    found.write_bytes(np.random.default_rng(0).integers(0, 256, SHAPE).astype(np.uint8).tobytes())
    return found


@pytest.fixture(scope="module")
def mapped(path: Path) -> np.ndarray:
    return np.memmap(path, dtype=np.uint8, mode="r", shape=SHAPE)


@pytest.fixture(scope="module")
def digests(mapped: np.ndarray) -> Digests:
    return digests_of(mapped.reshape(len(mapped), ROW))


def rows(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  (a descriptor's name is enough)


@settings(deadline=None)
@given(index=st.lists(st.integers(0, SHAPE[0] - 1), max_size=60))
def test_any_rows_in_any_order_are_those_of_a_mapped_file(
    path: Path, mapped: np.ndarray, index: list[int], digests: Digests
):
    with PixelFile(path, SHAPE, digests) as pixels:
        found = pixels[rows(*index)]

    assert found.dtype == np.uint8
    assert np.array_equal(found, mapped[rows(*index)])


@settings(deadline=None)
@given(
    index=st.lists(st.integers(0, SHAPE[0] - 1), min_size=1, max_size=60),
    most=st.integers(1, 3 * ROW),
    at_once=st.integers(1, 4),
)
def test_a_disk_that_gives_little_at_a_time_gives_the_same_rows(
    path: Path, mapped: np.ndarray, index: list[int], most: int, at_once: int, digests: Digests
):
    def short(descriptor: int, buffers: Sequence[memoryview], offset: int) -> int:
        data = os.pread(descriptor, min(most, sum(len(b) for b in buffers)), offset)
        got = len(data)
        for buffer in buffers:
            part, data = data[: len(buffer)], data[len(buffer) :]
            buffer[: len(part)] = part
        return got

    with pytest.MonkeyPatch.context() as patch, PixelFile(path, SHAPE, digests) as pixels:
        patch.setattr(os, "preadv", short)
        patch.setattr("device_agent.pixels._MOST_BUFFERS", at_once)
        found = pixels[rows(*index)]

    assert np.array_equal(found, mapped[rows(*index)])


def test_neighbours_are_read_in_one_call(
    path: Path, mapped: np.ndarray, monkeypatch: pytest.MonkeyPatch, digests: Digests
):
    calls: list[tuple[int, int]] = []
    whole = os.preadv

    def counting(descriptor: int, buffers: Sequence[memoryview], offset: int) -> int:
        calls.append((len(buffers), offset))
        return whole(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", counting)
    with PixelFile(path, SHAPE, digests) as pixels:
        found = pixels[rows(9, 3, 7, 8, 3, 30)]

    assert calls == [(1, 3 * ROW), (1, 3 * ROW), (3, 7 * ROW), (1, 30 * ROW)]
    assert np.array_equal(found, mapped[[9, 3, 7, 8, 3, 30]])


def test_a_batch_belongs_to_who_asked_for_it(path: Path, mapped: np.ndarray, digests: Digests):
    with PixelFile(path, SHAPE, digests) as pixels:
        first = pixels[rows(0, 1)]
        first[:] = 0

        assert np.array_equal(pixels[rows(0, 1)], mapped[:2])


def test_it_says_its_shape_as_an_array_does(path: Path, mapped: np.ndarray, digests: Digests):
    with PixelFile(path, SHAPE, digests) as pixels:
        assert (pixels.shape, pixels.dtype, len(pixels)) == (SHAPE, mapped.dtype, len(mapped))


@pytest.mark.parametrize("row", [-1, -40, 40, 10**12])
def test_a_row_that_is_not_there_is_refused(path: Path, row: int, digests: Digests):
    with (
        PixelFile(path, SHAPE, digests) as pixels,
        pytest.raises(IndexError, match=r"images.u8: .*; expected 0 to 39"),
    ):
        pixels[rows(3, row)]


@pytest.mark.parametrize(
    "index", [3, [[1]], [0.5], [True] * 40, slice(2), None], ids=lambda index: str(index)[:9]
)
def test_what_is_no_list_of_rows_is_refused(path: Path, index: object, digests: Digests):
    with (
        PixelFile(path, SHAPE, digests) as pixels,
        pytest.raises(TypeError, match="expected a 1-D array of integers"),
    ):
        pixels[index]  # type: ignore[index]


def test_it_never_turns_into_an_array_of_all_images_by_accident(path: Path, digests: Digests):
    with PixelFile(path, SHAPE, digests) as pixels:
        with pytest.raises(TypeError, match="is no array; read the rows of one batch"):
            np.asarray(pixels)
        with pytest.raises(TypeError, match="expected a 1-D array of integers"):
            list(pixels)  # type: ignore[call-overload]


def test_a_file_that_is_cut_off_under_it_is_said(path: Path, tmp_path: Path, digests: Digests):
    own = tmp_path / "own.u8"
    own.write_bytes(path.read_bytes())
    with PixelFile(own, SHAPE, digests) as pixels:
        os.truncate(own, 10 * ROW + 4)

        assert len(pixels[rows(9)]) == 1
        with pytest.raises(DamagedRows, match=r"own.u8: ends before byte 754; expected 3000"):
            pixels[rows(9, 10)]


def test_a_disk_that_fails_is_said_in_one_line(
    path: Path, monkeypatch: pytest.MonkeyPatch, digests: Digests
):
    def failing(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", failing)
    with (
        PixelFile(path, SHAPE, digests) as pixels,
        pytest.raises(DamagedRows, match=r"\A\S*images.u8: cannot be read .Input.*--work\Z"),
    ):
        pixels[rows(0)]


def test_memory_that_is_not_there_is_no_damage(
    path: Path, monkeypatch: pytest.MonkeyPatch, digests: Digests
):
    def failing(*_: object) -> int:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(os, "preadv", failing)
    with (
        PixelFile(path, SHAPE, digests) as pixels,
        pytest.raises(ResourceError, match="Cannot allocate memory") as raised,
    ):
        pixels[rows(0)]
    assert not isinstance(raised.value, DamagedRows)


@settings(deadline=None)
@given(at=st.integers(0, SHAPE[0] * ROW - 1), bit=st.integers(0, 7))
def test_no_flipped_bit_is_ever_handed_out(path: Path, digests: Digests, at: int, bit: int):
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    row = at // ROW
    others = np.delete(np.arange(SHAPE[0]), row)
    with tempfile.NamedTemporaryFile() as own:
        own.write(data)
        own.flush()
        with PixelFile(Path(own.name), SHAPE, digests) as pixels:
            assert np.array_equal(
                pixels[others].reshape(-1, ROW)[:, 0], data[::ROW][:row] + data[::ROW][row + 1 :]
            )
            said = (
                rf"\A\S*: row {row} is not as it was written, 1 damaged .*expected .*Check the disk"
            )
            with pytest.raises(DamagedRows, match=said):
                pixels[rows(row)]
            with pytest.raises(DamagedRows, match=said):
                pixels[rows(*others, row, row)]


def test_a_row_in_the_place_of_another_is_refused(path: Path, tmp_path: Path, digests: Digests):
    data = path.read_bytes()
    own = tmp_path / "own.u8"
    own.write_bytes(data[ROW : 2 * ROW] + data[:ROW] + data[2 * ROW :])
    with PixelFile(own, SHAPE, digests) as pixels:
        with pytest.raises(DamagedRows, match=r"own.u8: row 0 is not .* 2 damaged in this batch"):
            pixels[rows(5, 1, 0)]
        assert len(pixels[rows(5, 2)]) == 2


def test_damage_under_an_open_file_is_found_at_the_next_reading(
    path: Path, tmp_path: Path, digests: Digests
):
    own = tmp_path / "own.u8"
    own.write_bytes(path.read_bytes())
    with PixelFile(own, SHAPE, digests) as pixels:
        pixels[rows(7)]
        with own.open("r+b") as file:
            file.seek(7 * ROW + 3)
            file.write(bytes([path.read_bytes()[7 * ROW + 3] ^ 128]))
        with pytest.raises(DamagedRows, match=r"own.u8: row 7 is not as it was written"):
            pixels[rows(7)]


@pytest.mark.parametrize("count", [0, 39, 41])
def test_every_row_has_its_digest(path: Path, digests: Digests, count: int):
    before = open_files()

    with pytest.raises(ValueError, match=rf"digests .{count},.; expected .40,., one a row"):
        PixelFile(path, SHAPE, np.resize(digests, count))

    assert open_files() == before


@pytest.mark.parametrize("size", [0, 2999, 3001])
def test_a_file_of_another_size_is_refused_and_closed(tmp_path: Path, size: int, digests: Digests):
    own = tmp_path / "own.u8"
    own.write_bytes(b"0" * size)
    before = open_files()

    with pytest.raises(ValueError, match=f"own.u8: {size} bytes; expected a regular file of 3000"):
        PixelFile(own, SHAPE, digests)

    assert open_files() == before


def test_what_is_no_file_is_refused(tmp_path: Path, path: Path, digests: Digests):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(path)
    before = open_files()

    with pytest.raises(ValueError, match="pipe: 0 bytes; expected a regular file"):
        PixelFile(tmp_path / "pipe", SHAPE, digests)
    with pytest.raises(OSError, match="symbolic links"):
        PixelFile(tmp_path / "link", SHAPE, digests)
    with pytest.raises(FileNotFoundError, match="nothing"):
        PixelFile(tmp_path / "nothing", SHAPE, digests)

    assert open_files() == before


def test_a_closed_file_is_read_no_more(path: Path, digests: Digests):
    before = open_files()
    pixels = PixelFile(path, SHAPE, digests)
    assert open_files() == before + 1

    pixels.close()
    pixels.close()

    assert open_files() == before
    with pytest.raises(ValueError, match="is closed"):
        pixels[rows(0)]


def test_the_last_reference_closes_the_file(path: Path, digests: Digests):
    before = open_files()
    pixels = PixelFile(path, SHAPE, digests)

    del pixels
    gc.collect()

    assert open_files() == before

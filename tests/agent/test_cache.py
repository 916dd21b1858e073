"""The cache holds every usable image once, counts the others, and never trusts a changed byte."""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from device_agent import _cache_build, _cache_digest, _cache_files, cache as cache_module
from device_agent._cache_files import CacheFiles
from device_agent._cache_reasons import text_of
from device_agent.cache import ImageCache, build_cache
from device_agent.pixels import DamagedRows
from edge_stl.errors import DataError, Interrupted, ResourceError
from edge_stl.images import ImageReader, ReadLimits, _reader_process, decode, fit_square, scan


CLASSES = ("car", "tractor")
SETTINGS: dict[str, Any] = {
    "resolution": 32,
    "levels": 2,
    "channels": 3,
    "fit": "crop",
    "max_pixels": 10_000,
    "max_bytes": 1_000_000,
}
ROW_BYTES = 32 * 32 * 3


def image(path: Path, *, side: int = 40, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 256, (side, side + 3, 3)).astype(np.uint8)).save(path)


def folder_of(root: Path, count: int = 12) -> Path:
    for seed in range(count):
        image(root / CLASSES[seed % 2] / f"{seed:03}.png", seed=seed)
    return root


def build(root: Path, work: Path, **changes: Any) -> ImageCache:
    return build_cache(scan(root, CLASSES), **{**SETTINGS, "folder": work, **changes})


def rows(cache: ImageCache) -> np.ndarray:
    return cache.pixels[np.arange(len(cache.pixels))]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "images")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "state" / "cache"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were decoded, in order."""
    names: list[str] = []
    rows_of = ImageReader.rows

    def counting(self: ImageReader, paths: Iterable[Path], **how: Any) -> Iterator[Any]:
        asked = list(paths)
        for path, answer in zip(asked, rows_of(self, asked, **how), strict=True):
            names.append(path.name)
            yield answer

    monkeypatch.setattr(ImageReader, "rows", counting)
    return names


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine the agent looks up while it waits; `stop_after` counts how often."""
    monkeypatch.setattr(_reader_process, "_LOOK_UP", 60.0)


def stop_after(steps: int) -> Callable[[], bool]:
    count = iter(range(steps))
    return lambda: next(count, None) is None


def published(work: Path) -> list[str]:
    return sorted(p.suffix for p in work.iterdir() if p.suffix in {".u8", ".rows", ".json"})


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_every_row_is_the_fitted_image_of_its_name(root: Path, work: Path):
    cache = build(root, work)

    assert cache.pixels.shape == (12, 32, 32, 3)
    assert cache.pixels.dtype == np.uint8
    assert cache.labels.tolist() == [0] * 6 + [1] * 6
    assert cache.native_resolution == 32
    assert cache.left_out == {}
    for name, row in zip(cache.names, rows(cache), strict=True):
        pixels = decode(root / name, channels=3, max_pixels=10_000, max_bytes=1_000_000)
        assert np.array_equal(fit_square(pixels, 32, "crop"), row)


def test_pixels_and_labels_are_read_only(root: Path, work: Path):
    cache = build(root, work)

    before = rows(cache)
    rows(cache)[:] = 0
    assert np.array_equal(rows(cache), before)
    with pytest.raises(TypeError, match="does not support item assignment"):
        cache.pixels[0] = 0  # type: ignore[index]
    with pytest.raises(ValueError, match="read-only"):
        cache.labels[0] = 1


def test_grey_rows_have_one_channel(root: Path, work: Path):
    assert build(root, work, channels=1).pixels.shape == (12, 32, 32, 1)


def test_nobody_else_may_read_the_cache(root: Path, work: Path):
    old = os.umask(0)
    try:
        build(root, work)
    finally:
        os.umask(old)

    assert work.stat().st_mode & 0o777 == 0o700
    assert {p.stat().st_mode & 0o777 for p in work.iterdir()} == {0o600}


def test_a_whole_cache_is_opened_without_decoding(root: Path, work: Path, decoded: list[str]):
    first = build(root, work)
    assert len(decoded) == 12

    second = build(root, work)

    assert len(decoded) == 12
    assert np.array_equal(rows(first), rows(second))
    assert first.names == second.names
    assert published(work) == [".json", ".rows", ".u8"]


@pytest.mark.parametrize("change", ["touched", "added", "removed"])
def test_a_changed_folder_is_decoded_again(root: Path, work: Path, decoded: list[str], change: str):
    build(root, work)
    if change == "touched":
        image(root / "car/000.png", seed=99)
        os.utime(root / "car/000.png", ns=(0, 5))
    elif change == "added":
        image(root / "car/new.png")
    else:
        (root / "car/000.png").unlink()
    decoded.clear()

    cache = build(root, work)

    assert len(decoded) == len(cache.names) == {"touched": 12, "added": 13, "removed": 11}[change]
    assert published(work) == [".json", ".rows", ".u8"]  # the stale one is gone


@pytest.mark.parametrize(
    "change", [{"resolution": 16}, {"levels": 1}, {"channels": 1}, {"fit": "pad"}]
)
def test_other_settings_make_another_cache(root: Path, work: Path, decoded: list[str], change: Any):
    build(root, work)
    build(root, work, **change)

    assert len(decoded) == 24


def test_what_cannot_be_used_is_counted_by_reason(tmp_path: Path, work: Path):
    root = folder_of(tmp_path / "images", 60)
    image(root / "car/small.png", side=20)
    image(root / "car/large.png", side=120)
    (root / "car/heavy.png").write_bytes(b"x" * 1_000_001)
    (root / "car/text.png").write_bytes(b"hello")
    (root / "tractor/half.png").write_bytes((root / "tractor/001.png").read_bytes()[:2000])
    (root / "notes.txt").touch()
    (root / "stray.png").touch()
    os.mkfifo(root / "car/fifo.png")

    for _ in range(2):  # built, then opened
        cache = build(root, work)

        assert cache.left_out == {
            "no_class": 1,
            "not_a_file": 1,
            "not_an_image": 2,
            "too_many_bytes": 1,
            "too_many_pixels": 1,
            "too_small": 1,
            "truncated": 1,
        }
        assert len(cache.names) == len(cache.pixels) == len(cache.labels) == 60
        assert cache.labels.tolist() == [CLASSES.index(name.split("/")[0]) for name in cache.names]
        last = decode(root / cache.names[-1], channels=3, max_pixels=10_000, max_bytes=1_000_000)
        assert np.array_equal(fit_square(last, 32, "crop"), rows(cache)[-1])


def test_a_coarse_camera_gives_a_coarse_native_resolution(tmp_path: Path, work: Path):
    for seed in range(20):
        image(tmp_path / "images/car" / f"{seed}.png", side=40 if seed < 18 else 18, seed=seed)

    cache = build(tmp_path / "images", work)

    assert cache.native_resolution == 16
    assert cache.pixels.shape == (20, 16, 16, 3)


def test_files_that_do_not_decode_do_not_count_for_the_95_percent(tmp_path: Path, work: Path):
    """2 of 38 headers say 18 px: 94.7 % reach 32 px. One of the two is truncated: 97.3 % do."""
    root = folder_of(tmp_path / "images", 36)
    image(root / "car/small.png", side=18)
    image(root / "car/half.png", side=18)
    (root / "car/half.png").write_bytes((root / "car/half.png").read_bytes()[:600])

    cache = build(root, work)

    assert cache.native_resolution == 32
    assert cache.left_out == {"too_small": 1, "truncated": 1}
    assert cache.pixels.shape == (36, 32, 32, 3)


def test_images_that_are_all_too_small_are_refused(tmp_path: Path, work: Path):
    image(tmp_path / "images/car/a.png", side=6)

    with pytest.raises(DataError, match=r"only 0 of 1 reach 8 px .* at least 95 % must"):
        build(tmp_path / "images", work)


def test_a_folder_of_broken_files_is_refused(tmp_path: Path, work: Path):
    (tmp_path / "images/car").mkdir(parents=True)
    (tmp_path / "images/car/a.png").write_bytes(b"x")

    with pytest.raises(DataError, match="images: none can be read"):
        build(tmp_path / "images", work)


@pytest.mark.parametrize("steps", [0, 5, 12, 13, 20, 23])
def test_a_stopped_build_publishes_nothing_and_goes_on(
    root: Path, work: Path, decoded: list[str], steps: int
):
    with pytest.raises(Interrupted, match=f"stopped at step {steps} of 24. Run the same command"):
        build(root, work, should_stop=stop_after(steps))
    assert published(work) == []

    cache = build(root, work)

    assert sorted(decoded) == sorted(Path(name).name for name in cache.names)  # none twice
    whole = build(root, work.with_name("other"))
    assert np.array_equal(rows(whole), rows(cache))
    assert not list(work.glob("*.part"))


def test_an_exception_keeps_what_was_decoded(
    root: Path, work: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
):
    rows_of = ImageReader.rows

    def failing(self: ImageReader, paths: Iterable[Path], **how: Any) -> Iterator[Any]:
        yield from islice(rows_of(self, paths, **how), 7)
        raise KeyboardInterrupt

    monkeypatch.setattr(ImageReader, "rows", failing)
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        build(root, work)
    monkeypatch.setattr(ImageReader, "rows", rows_of)
    assert published(work) == []
    decoded.clear()

    build(root, work)

    assert len(decoded) == 12 - 7


def test_headers_that_were_read_are_not_read_again(
    root: Path, work: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[str] = []
    sizes_of = ImageReader.sizes

    def counting(self: ImageReader, paths: Iterable[Path], **how: Any) -> Iterator[Any]:
        names = list(paths)
        for path, answer in zip(names, sizes_of(self, names, **how), strict=True):
            asked.append(path.name)
            yield answer

    monkeypatch.setattr(ImageReader, "sizes", counting)
    (root / "car/000.png").write_bytes(b"hello")
    image(root / "car/small.png", side=20)
    for count in range(14, 40):  # 95 % must reach 32 px
        image(root / "car" / f"{count:03}.png", seed=count)
    total = len(scan(root, CLASSES))
    for steps in (9, 3, 20, total - 32 + 5):
        with pytest.raises(Interrupted, match="stopped"):
            build(root, work, should_stop=stop_after(steps))

    cache = build(root, work)

    assert len(asked) == total == len(set(asked))
    assert cache.left_out == {"not_an_image": 1, "too_small": 1}
    whole = build(root, work.with_name("other"))
    assert np.array_equal(rows(whole), rows(cache))


def test_a_power_cut_costs_at_most_ten_seconds_of_either_pass():
    assert _cache_build._SAVE_EVERY <= 10


def test_both_passes_save_while_they_run(root: Path, work: Path, monkeypatch: pytest.MonkeyPatch):
    """After a power cut there is no last word: what was saved before it must be there."""
    monkeypatch.setattr(_cache_build, "_SAVE_EVERY", -1.0)
    seen: dict[int, set[str]] = {}

    def look(done: int, _: int) -> None:
        seen[done] = {"".join(p.suffixes) for p in work.iterdir()}

    build(root, work, progress=look)

    assert seen[0] == set()
    assert ".sides.part" in seen[1]
    assert {".sides.part", ".json.part", ".rows.part", ".u8.part"} <= seen[13]


def test_half_a_cache_is_proved_at_its_end_alone(
    root: Path, work: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(_cache_digest, "READ_BACK", 3 * ROW_BYTES - 100)  # two rows
    for row, decodings in ((5, 12), (6, 8 + 12), (7, 8 + 12)):  # of 8
        here = work.with_name(f"row{row}")
        decoded.clear()
        with pytest.raises(Interrupted, match="stopped"):
            build(root, here, should_stop=stop_after(20))
        (part,) = here.glob("*.u8.part")
        flip(part, row * ROW_BYTES + 10)
        notes: list[str] = []

        cache = build(root, here, told=notes.append)

        assert len(decoded) == decodings
        if row == 5:  # gone on with, and found when it is read
            assert notes == []
            with pytest.raises(DamagedRows, match=r"u8: row 5 is not as it was written, 1 damaged"):
                rows(cache)
            cache = build(root, here, anew=True)
        else:
            assert notes == [f"{part}: damaged; reading the images anew"]
        assert np.array_equal(rows(build(root, work)), rows(cache))


def test_a_row_larger_than_what_is_proved_at_the_end_is_proved(
    root: Path, work: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(_cache_digest, "READ_BACK", 10)
    with pytest.raises(Interrupted, match="stopped"):
        build(root, work, should_stop=stop_after(20))
    (part,) = work.glob("*.u8.part")
    flip(part, -1)

    build(root, work)

    assert len(decoded) == 8 + 12


def test_a_cache_is_opened_without_reading_a_pixel(root: Path, work: Path):
    """Its record, 8 bytes a row, and the sizes of the files: whatever the pixels weigh."""
    for seed in range(12):
        image(root / CLASSES[seed % 2] / f"{seed:03}.png", side=260, seed=seed)
    large = {"resolution": 256, "max_pixels": 100_000}
    expected = rows(build(root, work, **large))
    (path,) = work.glob("*.u8")
    assert path.stat().st_size == 12 * 256 * 256 * 3
    assert path.with_suffix(".rows").stat().st_size == 12 * 8

    before = bytes_read()
    cache = build(root, work, **large)
    opening = bytes_read() - before
    found = rows(cache)

    assert opening < 0.02 * path.stat().st_size
    assert bytes_read() - before >= path.stat().st_size  # what is read is counted
    assert np.array_equal(found, expected)


def bytes_read() -> int:
    """What this process has read from files so far, also where they were in memory."""
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.parametrize("renames", [1, 2, 3])
def test_a_build_that_ended_before_its_record_is_not_done_again(
    root: Path, work: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch, renames: int
):
    """Killed after the first, the second rename of publishing, or before the record is there."""
    left = iter(range(renames))
    publish, write = _cache_files.publish, CacheFiles.write

    def renaming(part: Path, path: Path) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        publish(part, path)

    def writing(files: CacheFiles, path: Path, body: dict[str, Any]) -> None:
        if path == files.record:
            raise KeyboardInterrupt
        write(files, path, body)

    with monkeypatch.context() as patch:
        patch.setattr(_cache_files, "publish", renaming)
        patch.setattr(CacheFiles, "write", writing)
        with pytest.raises(KeyboardInterrupt, match=r"^$"):
            build(root, work)
    assert ".u8" in published(work)
    assert ".json" not in published(work)
    decoded.clear()
    notes: list[str] = []

    cache = build(root, work, told=notes.append)

    assert (decoded, notes) == ([], [])
    assert sorted(p.suffix for p in work.iterdir()) == [".json", ".rows", ".u8"]
    assert np.array_equal(rows(build(root, work.with_name("other"))), rows(cache))


@pytest.mark.parametrize("how", ["anew", "its record is damaged"])
def test_a_cache_that_is_built_anew_needs_no_room_for_two(root: Path, work: Path, how: str):
    build(root, work)
    if how != "anew":
        flip(next(work.glob("*.json")), -1)
    seen: set[str] = set()

    def look(*_: object) -> None:
        seen.update("".join(p.suffixes) for p in work.iterdir() if ".u8" in p.suffixes)

    build(root, work, anew=how == "anew", progress=look)

    assert seen == {".u8.part"}


def test_a_cache_that_was_being_built_anew_is_gone_on_with(
    root: Path, work: Path, decoded: list[str]
):
    expected = rows(build(root, work))
    decoded.clear()
    with pytest.raises(Interrupted, match="stopped at step 20 of 24"):
        build(root, work, anew=True, should_stop=stop_after(20))
    notes: list[str] = []

    cache = build(root, work, told=notes.append)

    assert len(decoded) == 12
    assert notes == []
    assert np.array_equal(rows(cache), expected)


def test_the_same_rows_of_other_images_have_another_digest(root: Path, work: Path, tmp_path: Path):
    """Two images are alike, and one of them, or the other, cannot be read."""
    first = build(root, work)
    assert build(root, work).digest == first.digest == build(root, work, anew=True).digest
    shutil.copy(root / "car/000.png", root / "car/0000.png")
    caches = []
    for broken in ("000", "0000"):
        shutil.copytree(root, tmp_path / broken)
        (tmp_path / broken / "car" / f"{broken}.png").write_bytes(b"hello")
        caches.append(build(tmp_path / broken, tmp_path / f"cache-{broken}"))

    assert np.array_equal(rows(caches[0]), rows(caches[1]))
    assert caches[0].digest != caches[1].digest


def test_names_of_left_out_files_are_kept_and_sorted(tmp_path: Path, work: Path):
    root = folder_of(tmp_path / "images", 60)
    image(root / "tractor/aa-small.png", side=20)
    (root / "car/text.png").write_bytes(b"hello")
    (root / "stray.png").touch()

    for _ in range(2):  # built, then opened
        cache = build(root, work)

        assert list(cache.left_out_files) == [
            ("car/text.png", "not_an_image"),
            ("stray.png", "no_class"),
            ("tractor/aa-small.png", "too_small"),
        ]
        assert len(cache.left_out_files) == sum(cache.left_out.values())


CHILD = Path(__file__).parents[1] / "images" / "misbehaving_reader.py"


@pytest.mark.slow
def test_images_that_end_the_decoder_cost_themselves_and_nothing_else(
    tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch
):
    """Aborted, killed, endless, greedy: the others are as if these had never been there."""
    monkeypatch.setattr(_reader_process, "CHILD", (str(CHILD),))
    limits = ReadLimits.of(max_pixels=10_000, max_bytes=1_000_000)
    quick = replace(limits, cpu_seconds=0, wall_seconds=100.0)  # up to a second of processor time
    monkeypatch.setattr(ReadLimits, "of", lambda **_: quick)
    root = folder_of(tmp_path / "images", 80)
    bad = {"abort": "decoder_died", "kill": "decoder_died", "loop": "took_too_long"}
    bad["bomb"] = "too_much_memory"
    without = build(root, work.with_name("without"))
    for what in bad:
        image(root / "car" / f"{what}-.png")

    cache = build(root, work)

    named = dict(cache.left_out_files)
    assert named == {f"car/{what}-.png": reason for what, reason in bad.items()}
    assert cache.names == without.names
    assert cache.labels.tolist() == without.labels.tolist()
    assert without.pixels.path.read_bytes() == cache.pixels.path.read_bytes()


def test_leftovers_of_another_build_are_removed(root: Path, work: Path):
    with pytest.raises(Interrupted, match="stopped"):
        build(root, work, should_stop=stop_after(20))
    image(root / "car/new.png")

    build(root, work)

    assert published(work) == [".json", ".rows", ".u8"]
    assert len(list(work.iterdir())) == 3


def damage_missing(path: Path) -> None:
    path.unlink()


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


def damage_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def damage_long(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"0")


def damage_flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def damage_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def damage_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


@pytest.mark.parametrize("suffix", [".u8", ".rows", ".json"])
@pytest.mark.parametrize(
    "damage",
    [
        damage_missing,
        damage_empty,
        damage_short,
        damage_long,
        damage_flip,
        damage_fifo,
        damage_link,
    ],
)
def test_a_damaged_cache_is_built_again(
    root: Path, work: Path, decoded: list[str], suffix: str, damage: Callable[[Path], None]
):
    expected = rows(build(root, work))
    (path,) = work.glob(f"*{suffix}")
    damage(path)
    notes: list[str] = []

    cache = build(root, work, told=notes.append)

    if (suffix, damage) == (".u8", damage_flip):  # found where the row is read
        assert (len(decoded), notes) == (12, [])
        with pytest.raises(DamagedRows, match="u8: row 6 is not as it was written"):
            rows(cache)
        cache = build(root, work, anew=True)
    else:
        assert notes or (suffix, damage) == (".json", damage_missing)
    assert len(decoded) == 24
    assert np.array_equal(expected, rows(cache))


@pytest.mark.parametrize("damage", [damage_missing, damage_empty, damage_short, damage_fifo])
@pytest.mark.parametrize("suffix", [".u8.part", ".rows.part", ".json.part"])
def test_a_damaged_half_cache_starts_again(
    root: Path, work: Path, decoded: list[str], suffix: str, damage: Callable[[Path], None]
):
    with pytest.raises(Interrupted, match="stopped"):
        build(root, work, should_stop=stop_after(20))
    (path,) = work.glob(f"*{suffix}")
    damage(path)

    cache = build(root, work)

    assert len(decoded) == 8 + 12
    assert np.array_equal(rows(build(root, work.with_name("other"))), rows(cache))


def test_a_record_without_its_digest_does_not_count(root: Path, work: Path, decoded: list[str]):
    """A record moved by one image would move every label after it."""
    build(root, work)
    (path,) = work.glob("*.json")
    header, body = path.read_text().split("\n")
    changed = json.loads(body) | {"left_out": text_of(np.eye(12, dtype=np.uint8)[3])}
    path.write_text(f"{header}\n{json.dumps(changed, sort_keys=True)}")

    assert build(root, work).left_out == {}
    assert len(decoded) == 24


def test_progress_counts_headers_and_decodings(root: Path, work: Path):
    steps: list[tuple[int, int]] = []
    build(root, work, progress=lambda done, total: steps.append((done, total)))

    assert steps == [(done, 24) for done in range(25)]


def test_a_full_disk_is_a_matter_of_resources(
    root: Path, work: Path, monkeypatch: pytest.MonkeyPatch
):
    class Full:
        free = 5 << 20

    monkeypatch.setattr(_cache_build.shutil, "disk_usage", lambda _: Full)

    with pytest.raises(ResourceError, match="5 MiB are free; expected 16 MiB for the image cache"):
        build(root, work)


def test_a_failing_write_is_a_matter_of_resources(
    root: Path, work: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(ResourceError, match=r"cannot be made .No space left on device."):
        build(root, work)


def test_a_file_in_the_place_of_the_folder_is_named(root: Path, tmp_path: Path):
    (tmp_path / "file").touch()

    with pytest.raises(ResourceError, match=r"file: cannot be made .File exists.; expected"):
        build(root, tmp_path / "file")


def test_a_disk_that_lies_is_found_out(root: Path, work: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cache_module, "read_digests", lambda *_: None)

    with pytest.raises(ResourceError, match="does not read back as it was written"):
        build(root, work)

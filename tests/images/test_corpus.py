"""Every kind of image file, whole, strange and damaged, through the process that decodes."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_stl.images import REASONS, ImageReader, ReadLimits, _reader, _reader_process


NIGHT = bool(os.environ.get("EDGE_STL_NIGHT"))
LIMITS = ReadLimits(1_000_000, 1_000_000, (64 << 20) + 100_000_000, 2, 60.0)
"""Two seconds of processor time for one image, and 164 MB beside the interpreter's own."""

_LOST = {"decoder_died", "took_too_long", "too_much_memory"}


@pytest.fixture(autouse=True)
def own_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_reader, "ReaderProcess", _reader_process.ReaderProcess)


def peak(reader: ImageReader) -> tuple[int, int]:
    """Return the id of the process that decodes and the most memory it held, in MB."""
    assert reader._process is not None
    pid = reader._process._process.pid
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return pid, next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1000


def test_every_kind_gives_its_pixels_or_its_reason(tmp_path: Path, specimens: dict[str, Any]):
    paths = []
    for number, specimen in enumerate(specimens.values()):
        paths.append(tmp_path / f"{number}.jpg")  # whatever it is called
        paths[-1].write_bytes(specimen.data)
    wrong = {}
    with ImageReader(LIMITS) as reader:
        answers = list(reader.rows(paths, side=24, channels=3, fit="crop"))
        sizes = list(reader.sizes(paths, fit="crop"))
        _, memory = peak(reader)
    for kind, answer, size in zip(specimens, answers, sizes, strict=True):
        specimen = specimens[kind]
        if specimen.reason == "any":
            if answer.reason in _LOST:
                wrong[kind] = answer.reason
        elif answer.reason != specimen.reason:
            wrong[kind] = answer.reason
        elif answer.reason is None:
            row = np.frombuffer(answer.row, np.uint8).reshape(24, 24, 3)
            off = np.abs(row.astype(int) - specimen.pixels).max()
            if off > specimen.off or (size.width, size.height) != (24, 24):
                wrong[kind] = f"off by {off}, size {size[1:3]}"

    assert wrong == {}
    assert len(specimens) >= 100
    assert memory < 300


def mutant(seeds: list[bytes], rng: np.random.Generator) -> bytes:
    """Return a file with some bytes changed, some missing, or some of another in it."""
    data = bytearray(seeds[rng.integers(len(seeds))])
    way = rng.integers(10)
    if way == 0:
        return bytes(data[: rng.integers(len(data) + 1)])
    if way == 1:
        other = seeds[rng.integers(len(seeds))]
        at = rng.integers(len(data) + 1)
        return bytes(data[:at]) + other[rng.integers(len(other) + 1) :]
    if way == 2:
        start, stop = sorted(rng.integers(len(data) + 1, size=2))
        return bytes(data[:start] + data[stop:])
    # headers are where a byte does most, so half of the changes are there
    span = min(len(data), 64) if way % 2 else len(data)
    for at in rng.integers(span, size=rng.integers(1, 7)):
        data[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.integers(256)])
    return bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "seed"),
    [
        (10_000, 20_261_122),
        pytest.param(500_000, 1, marks=pytest.mark.skipif(not NIGHT, reason="make test-night")),
    ],
)
def test_no_mutant_ends_holds_up_or_fills_the_process_that_decodes(
    tmp_path: Path, specimens: dict[str, Any], count: int, seed: int
):
    print(f"{count} mutants, seed {seed}")  # noqa: T201  (shown where the test fails)
    seeds = [s.data for s in specimens.values() if 0 < len(s.data) < 6000 and s.pixels is not None]
    rng = np.random.default_rng(seed)

    def files() -> Iterator[Path]:
        for number in range(count):
            path = tmp_path / f"{number % 64}.png"  # fewer than 64 are asked for ahead
            path.write_bytes(mutant(seeds, rng))
            yield path

    with ImageReader(LIMITS) as reader:
        rows = reader.rows(files(), side=4, channels=3, fit="crop")
        first = next(rows)
        started = peak(reader)[0]
        kinds = Counter([first.reason, *(answer.reason for answer in rows)])
        pid, memory = peak(reader)

    print(kinds)  # noqa: T201
    assert sum(kinds.values()) == count
    assert set(kinds) <= {None, "too_small", *REASONS} - _LOST
    assert pid == started  # never a new one, so none ended
    assert memory < 300
    assert len(kinds) > 5  # pixels and reasons of many kinds

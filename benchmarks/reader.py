"""What reading images in a process of its own costs: the same cache, decoded here and there.

Photographs of 640 x 480 px, made from numbers, are decoded and fitted to ``--side`` pixels, hashed
and written to a file: once in this process, once through `edge_stl.images.ImageReader`, in turn.
"""

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from benchmarks._common import guarded, parser, report
from edge_stl.images import ImageReader, ReadLimits, decode, fit_square


LIMITS = {"max_pixels": 100_000_000, "max_bytes": 100_000_000}


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=2000, help="how many (default 2000)")
    options.add_argument("--side", type=int, default=64, help="of the rows, in px (default 64)")
    options.add_argument("--repeats", type=int, default=3, help="the best counts (default 3)")
    chosen = options.parse_args()
    with TemporaryDirectory() as folder:
        paths = photographs(Path(folder), chosen.images)
        out = Path(folder) / "rows"
        here: list[float] = []
        apart: list[float] = []
        for _ in range(chosen.repeats):
            here.append(timed(lambda: rows_here(paths, chosen.side), out))
            apart.append(timed(lambda: rows_apart(paths, chosen.side), out))
    row = {
        "images": chosen.images,
        "side": chosen.side,
        "seconds_here": round(min(here), 3),
        "seconds_apart": round(min(apart), 3),
        "ratio": round(min(apart) / min(here), 3),
    }
    report({"benchmark": "reader", "rows": [row]}, table(row), as_json=chosen.json)


def photographs(folder: Path, count: int) -> list[Path]:
    """Write JPEG files: smooth shapes and some noise, as a camera gives them."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:480, 0:640]
    paths: list[Path] = []
    for index in range(count):
        path = folder / f"{index:05}.jpg"
        if index < 50:  # noqa: PLR2004
            waves = np.sin(x / rng.integers(9, 99)) + np.cos(y / rng.integers(9, 99))
            pixels = 128 + 50 * waves[:, :, None] + rng.normal(0, 6, (480, 640, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)
        else:
            path.hardlink_to(paths[index % 50])
        paths.append(path)
    return paths


def rows_here(paths: list[Path], side: int) -> Iterator[bytes]:
    """Decode in this process."""
    for path in paths:
        yield fit_square(decode(path, channels=3, **LIMITS), side, "crop").tobytes()


def rows_apart(paths: list[Path], side: int) -> Iterator[bytes]:
    """Decode in another; its start counts."""
    with ImageReader(ReadLimits.of(**LIMITS)) as reader:
        for answer in reader.rows(paths, side=side, channels=3, fit="crop"):
            yield answer.row


def timed(rows: Callable[[], Iterator[bytes]], out: Path) -> float:
    """Return the seconds until all rows are hashed and in a file."""
    began = time.perf_counter()
    digest = hashlib.sha256()
    with out.open("wb") as file:
        for row in rows():
            digest.update(row)
            file.write(row)
    return time.perf_counter() - began


def table(row: dict[str, Any]) -> list[str]:
    """Return the row as Markdown."""
    return [
        "| images | in this process | in its own | ratio |",
        "|---|---|---|---|",
        f"| {row['images']} of 640 x 480 px to {row['side']} px | {row['seconds_here']:.2f} s "
        f"| {row['seconds_apart']:.2f} s | {row['ratio']:.2f} |",
    ]


if __name__ == "__main__":
    raise SystemExit(guarded(main))

"""Photographs that nobody took, in the size that is usual in ImageNet, made from numbers alone.

Light that changes smoothly, things with edges in front of it, texture and the noise of a sensor:
without the last two a JPEG would be small and quickly decoded; with them one of 500 x 400 weighs
about 85 KB. What a class looks like is its colours and its texture; nothing about accuracy can be
learned from these.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from edge_stl.errors import ResourceError


WIDTH, HEIGHT = 500, 400
_QUALITY = 94
_SHAPES = 14


def class_names(count: int) -> tuple[str, ...]:
    """Return the names of ``count`` classes."""
    return tuple(f"class{index:03}" for index in range(count))


def write_photos(folder: Path, *, count: int, classes: int, side: int) -> int:
    """Write photographs into class folders; those that are there stay.

    Args:
        folder: made when missing; gets ``class000/00000.jpg`` and so on.
        count: photographs in all.
        classes: they are dealt out in turn.
        side: the shorter side is at least this many pixels.

    Returns:
        bytes of all of them.

    Raises:
        ResourceError: the disk does not take them.
    """
    names = class_names(classes)
    total = 0
    try:
        for name in names:
            (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            path = folder / names[index % classes] / f"{index:05}.jpg"
            if not path.is_file():
                part = path.with_name(f".{path.name}.part")  # hidden: no scan takes half of one
                Image.fromarray(photo(index, label=index % classes, side=side)).save(
                    part, format="JPEG", quality=_QUALITY
                )
                part.rename(path)
            total += path.stat().st_size
    except OSError as error:
        raise ResourceError(
            f"{folder}: photographs cannot be written ({error.strerror}); expected about "
            f"{count // 10 + 1} MB free. Choose another --out"
        ) from error
    return total


def photo(index: int, *, label: int, side: int) -> npt.NDArray[np.uint8]:
    """Return one photograph, the same for the same numbers.

    Args:
        index: which one.
        label: its class.
        side: the shorter side is at least this.

    Returns:
        ``(H, W, 3)`` uint8, 400 x 500 or larger.
    """
    scale = max(1.0, side / HEIGHT)
    width, height = round(WIDTH * scale), round(HEIGHT * scale)
    own, kind = np.random.default_rng([index, 1]), np.random.default_rng([label, 2])
    colours = kind.integers(30, 226, (4, 3))
    grain = kind.uniform(0.6, 1.4)
    light = colours[own.integers(0, 4, (4, 5))] + own.normal(0, 25, (4, 5, 3))
    picture = Image.fromarray(_enlarged(light, width, height).clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for _ in range(_SHAPES):
        x, y = own.uniform(0, width), own.uniform(0, height)
        a, b = own.uniform(0.03, 0.2, 2) * height
        colour = tuple(
            int(v) for v in (colours[own.integers(4)] + own.normal(0, 30, 3)).clip(0, 255)
        )
        if own.random() < 0.5:  # noqa: PLR2004  (one half)
            draw.ellipse((x - a, y - b, x + a, y + b), fill=colour)
        else:
            draw.polygon([(x - a, y), (x, y - b), (x + b, y + a)], fill=colour)
    pixels = np.asarray(picture, dtype=np.float64)
    for step, strength in ((16, 14.0), (4, 9.0), (2, 9.0)):
        coarse = own.normal(0, strength * grain, (height // step, width // step, 1))
        pixels = pixels + _enlarged(coarse, width, height)
    pixels += own.normal(0, 5.0, pixels.shape)
    return pixels.clip(0, 255).astype(np.uint8)


def _enlarged(values: npt.NDArray[np.float64], width: int, height: int) -> npt.NDArray[np.float64]:
    """Enlarge ``(h, w, C)`` smoothly to ``(height, width, C)``."""
    planes = [
        Image.fromarray(values[:, :, c].astype(np.float32)).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        for c in range(values.shape[2])
    ]
    return np.stack([np.asarray(plane, dtype=np.float64) for plane in planes], axis=2)

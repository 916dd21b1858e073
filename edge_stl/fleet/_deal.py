"""One image folder dealt out to boxes: who gets which image, at which resolution."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_stl.errors import DataError
from edge_stl.fleet._camera import BOX, Camera, save, take
from edge_stl.images import ImageList, UnreadableImage, decode
from edge_stl.plan import Plan


def deal(labels: NDArray[np.int64], *, boxes: int, seed: int) -> list[NDArray[np.int64]]:
    """Deal images to boxes: independent, identically distributed and disjoint.

    Args:
        labels: ``(N,)`` class indices.
        boxes: number of boxes.
        seed: of the shuffle.

    Returns:
        per box sorted indices; sizes differ by at most one per class, and by at most one in all.
    """
    rng = np.random.default_rng([seed, 10])
    hands: list[list[int]] = [[] for _ in range(boxes)]
    turn = 0  # goes on from class to class, so that no box gets every remainder
    for c in np.unique(labels):
        for index in rng.permutation(np.flatnonzero(labels == c)):
            hands[turn % boxes].append(int(index))
            turn += 1
    return [np.sort(np.array(hand, dtype=np.int64)) for hand in hands]


def hold_out(
    labels: NDArray[np.int64], *, share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return sorted indices of the rest and of a test share of each class."""
    rng = np.random.default_rng([seed, 11])
    test = np.concatenate(
        [
            rng.permutation(own)[: max(1, round(share * len(own)))]
            for own in (np.flatnonzero(labels == c) for c in np.unique(labels))
            if len(own) > 1
        ]
        or [np.zeros(0, np.int64)]
    )
    return np.setdiff1d(np.arange(len(labels)), test), np.sort(test)


def write_box(
    plan: Plan,
    images: ImageList,
    index: NDArray[np.int64],
    *,
    resolution: int,
    folder: Path,
    camera: Camera = BOX,
) -> int:
    """Write a box's own image folder as its camera would have taken the pictures.

    At the plan's resolution the files are copied as they are; a coarser camera's are files of
    ``resolution`` pixels, PNG or the camera's JPEG.

    Args:
        plan: the plan.
        images: all images.
        index: which of them this box has.
        resolution: the box's native resolution.
        folder: where the class folders go.
        camera: how a coarser box's images came to be coarse.

    Returns:
        the number of images written; unreadable and too small ones are left out.

    Raises:
        DataError: none is left.
    """
    written = 0
    for i in index:
        source = images.path(int(i))
        target = folder / plan.classes[images.labels[i]] / f"{int(i):07d}{source.suffix.lower()}"
        target.parent.mkdir(parents=True, exist_ok=True)
        if resolution == plan.input.resolution:
            shutil.copyfile(source, target)
            written += 1
            continue
        try:
            pixels = decode(
                source,
                channels=plan.input.channels,
                max_pixels=plan.limits.max_image_pixels,
                max_bytes=plan.limits.max_image_bytes,
            )
            small = take(camera, pixels, resolution, plan.input.fit)
        except UnreadableImage:
            continue
        except DataError:  # smaller than the box's camera takes
            continue
        save(camera, small, target.with_suffix(camera.suffix))
        written += 1
    if not written:
        raise DataError(
            f"{images.root}: no image reaches {resolution} px for {folder.name}; give finer images"
        )
    return written


def write_png(pixels: NDArray[np.uint8], path: Path) -> None:
    """Write ``(H, W, C)`` uint8 pixels as PNG."""
    save(BOX, pixels, path)


def default_resolutions(plan: Plan) -> Sequence[int]:
    """Return the native resolutions at which some branch is a box's own, coarse to fine."""
    needed = {plan.required_resolution(branch) for branch in plan.branches}
    return sorted(needed)

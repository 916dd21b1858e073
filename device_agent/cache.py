"""The images of a box, decoded and fitted once, in one file that is read row by row.

Decoding is what costs time on a small board: an epoch must not do it again. `build_cache` reads
the headers of all images, chooses the native resolution and decodes image after image into a
file. Memory stays at one image, the names and eight bytes for each, whatever the number of them. A
build that is stopped goes on where it was. A cache that is there is opened without reading a pixel
of it: its record, eight bytes a row and the sizes of two files say that it is the right one, and
every row is proved when it is read.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from device_agent._cache_build import CacheBuild
from device_agent._cache_digest import array_of_digests, read_digests
from device_agent._cache_files import CacheFiles
from device_agent._cache_reasons import IN_USE, WORDS, array_of
from device_agent.pixels import PixelFile
from edge_stl.errors import ResourceError
from edge_stl.images import Chosen, Fit, ImageList, Ledger, LeftOutFiles


# raised when the same image would give other pixels, or the records say them in another way
_FORMAT = 3


@dataclass(frozen=True, eq=False)
class ImageCache:
    """What a box trains on.

    Attributes:
        pixels: (N, r, r, C) uint8, read and proved row by row, read-only; close it.
        labels: (N,) int64, indices into the plan's classes.
        native_resolution: r in pixels.
        left_out: Number of files that are not in ``pixels``, by reason: what the scan left out,
            what could not be read, and ``too_small``.
        names: The relative path of every row.
        left_out_files: The files that ``left_out`` counts, sorted as text.
        digest: Of the digests of all rows, and of which images they are; hex digits.
    """

    pixels: PixelFile
    labels: npt.NDArray[np.int64]
    native_resolution: int
    left_out: dict[str, int]
    names: Sequence[str]
    left_out_files: LeftOutFiles
    digest: str


def build_cache(
    images: ImageList,
    *,
    resolution: int,
    levels: int,
    channels: int,
    fit: Fit,
    max_pixels: int,
    max_bytes: int,
    folder: Path,
    anew: bool = False,
    told: Callable[[str], object] = lambda _: None,
    progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> ImageCache:
    """Open the cache of an image list, building it first if it is not there or not the right one.

    One folder holds one cache, and one process builds in it: lock the work folder before.

    Args:
        images: What `edge_stl.images.scan` found.
        resolution: The plan's reference resolution R.
        levels: The plan's levels; the native resolution is ``R / 2**k``, k = 0..levels.
        channels: 1 or 3.
        fit: ``crop``, ``pad`` or ``stretch``.
        max_pixels: Images with more pixels are left out.
        max_bytes: Larger files are left out.
        folder: Where the cache lives; made with mode 0700.
        anew: Read the images whatever is there: a row of it was found to be damaged.
        told: Called with a sentence for everything damaged that is built anew.
        progress: Called with (steps done, steps in all); reading a header is a step, decoding an
            image is another.
        should_stop: Asked before every step, and at least every second while an image is waited
            for.

    Returns:
        The cache.

    Raises:
        DataError: Fewer than 95 % of the images reach the coarsest resolution, or none is left.
        Interrupted: ``should_stop`` said so; nothing is published, the next call goes on.
        ResourceError: The folder or the disk does not take the cache.
        UsageError: Pillow is not installed.
    """
    settings = {
        "format": _FORMAT,
        "images": images.digest,
        "resolution": resolution,
        "levels": levels,
        "channels": channels,
        "fit": fit,
        "max_pixels": max_pixels,
        "max_bytes": max_bytes,
    }
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    files = CacheFiles(folder, key)
    cache = None if anew else _opened(files, images, channels, told)
    if anew or cache is not None:
        files.remove_part()
    if cache is None:
        files.remove_others()
        again = True
        while cache is None and again:
            build = CacheBuild(images, files, settings, told, progress, should_stop)
            try:
                files.withdraw()
                build.run()
            except OSError as error:
                raise ResourceError(
                    f"{folder}: the image cache cannot be written ({error.strerror}); expected a "
                    "writable disk with space. Free space or choose another --work."
                ) from error
            cache = _opened(files, images, channels, told)
            # what an earlier run wrote may have been damaged since, once
            again = build.resumed
    if cache is None:
        raise ResourceError(
            f"{files.pixels}: does not read back as it was written; expected the same bytes. "
            "Check the disk or choose another --work."
        )
    return cache


def _opened(
    files: CacheFiles,
    images: ImageList,
    channels: int,
    told: Callable[[str], object],
) -> ImageCache | None:
    """Open a published cache, once its record and its digests are proved; None without one."""
    record = files.read(files.record, told=told)
    if record is None or record["reasons"] != list(WORDS):
        return None
    r = int(record["native_resolution"])
    codes = array_of(record["left_out"], "u1")
    keep = codes == IN_USE
    shape = (int(keep.sum()), r, r, channels)
    digests = read_digests(files.rows, shape[0], record["rows_sha256"])
    if digests is None:
        told(f"{files.rows}: damaged; reading the images anew")
        return None
    try:
        pixels = PixelFile(files.pixels, shape, array_of_digests(digests))
    except (OSError, ValueError):
        told(f"{files.pixels}: damaged; reading the images anew")
        return None
    left_out, files_left_out = _left_out(images, codes)
    labels = images.labels[keep]
    labels.setflags(write=False)
    names = Chosen.where(images.paths, keep)
    digest = hashlib.sha256(digests + keep.tobytes()).hexdigest()
    return ImageCache(pixels, labels, r, left_out, names, files_left_out, digest)


def _left_out(
    images: ImageList, codes: npt.NDArray[np.uint8]
) -> tuple[dict[str, int], LeftOutFiles]:
    """Put what the scan and what the decoder left out together."""
    ledger = Ledger()
    for file, reason in images.left_out_files:
        ledger.note(file, reason)
    for index in np.flatnonzero(codes):
        ledger.note(images.paths[int(index)], WORDS[codes[index] - 1])
    return dict(sorted(ledger.counts.items())), ledger.files()

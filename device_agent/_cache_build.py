"""Building an image cache: two passes over the files, resumable in the second.

The first pass reads headers and chooses the native resolution, the second decodes image after
image and appends a row for each that can be used.
"""

import hashlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from device_agent._cache_files import (
    CacheFiles,
    is_regular,
    read_body,
    write_body,
)
from edge_stl.durable import PartFile
from edge_stl.errors import DataError, Interrupted, ResourceError
from edge_stl.images import (
    ImageList,
    UnreadableImage,
    decode,
    fit_square,
    fitted_side,
    native_resolution,
    read_size,
)


_SAVE_EVERY = 30.0  # seconds of decoding that a power cut may cost
_SPARE_BYTES = 16 << 20
_BLOCK = 1 << 20


class CacheBuild:
    """One build of one cache: sizes, native resolution, pixels, record."""

    def __init__(
        self,
        images: ImageList,
        files: CacheFiles,
        settings: dict[str, Any],
        told: Callable[[str], object],
        progress: Callable[[int, int], None] | None,
        should_stop: Callable[[], bool] | None,
    ) -> None:
        self.images = images
        self.files = files
        self.settings = settings
        self.limits = {name: settings[name] for name in ("max_pixels", "max_bytes")}
        self.told = told
        self.progress = progress
        self.should_stop = should_stop
        self.unreadable: dict[int, str] = {}  # index -> reason
        self.digest = hashlib.sha256()  # of the rows in the part file

    def run(self) -> None:
        """Build and publish."""
        sides = self._read_sides()
        resolution, levels = self.settings["resolution"], self.settings["levels"]
        while True:
            readable = [i for i in range(len(sides)) if i not in self.unreadable]
            r, _ = native_resolution(sides[readable], resolution=resolution, levels=levels)
            left_out = self._decode_all(sides, r)
            # files that have a header and no pixels are not readable either: without them the
            # 95 % may be other ones. Every further round has found at least one more such file.
            readable = [i for i in readable if i not in self.unreadable]
            again, _ = native_resolution(sides[readable], resolution=resolution, levels=levels)
            if again == r:
                break
        by_reason: dict[str, list[int]] = {}
        for index, reason in sorted(left_out.items()):
            by_reason.setdefault(reason, []).append(index)
        body = {
            "native_resolution": r,
            "left_out": by_reason,
            "pixels_sha256": self.digest.hexdigest(),
        }
        self.files.publish(body)

    def _read_sides(self) -> npt.NDArray[np.int64]:
        sides = np.zeros(len(self.images), dtype=np.int64)
        for index in range(len(self.images)):
            self._step(index)
            try:
                width, height = read_size(self.images.path(index), **self.limits)
                sides[index] = fitted_side(width, height, self.settings["fit"])
            except UnreadableImage as error:
                self.unreadable[index] = error.reason
        return sides

    def _decode_all(self, sides: npt.NDArray[np.int64], r: int) -> dict[int, str]:
        """Decode every image that is large enough to the part file; give what was left out."""
        row_bytes = r * r * self.settings["channels"]
        start, left_out = self._resumed(r, row_bytes)
        at = (start - len(left_out)) * row_bytes
        needed = len(sides) * row_bytes - at + _SPARE_BYTES
        free = shutil.disk_usage(self.files.folder).free
        if free < needed:
            raise ResourceError(
                f"{self.files.folder}: {free >> 20} MiB are free; expected {needed >> 20} MiB for "
                "the image cache. Free space or choose another --work."
            )
        done = start
        with PartFile(self.files.pixels_part, at=at) as file:
            try:
                saved = time.monotonic()
                for index in range(start, len(sides)):
                    self._step(len(sides) + index)
                    reason = self.unreadable.get(index)
                    if reason is None and sides[index] < r:
                        reason = "too_small"
                    if reason is None:
                        reason = self._append(file, index, r)
                    if reason is not None:
                        left_out[index] = reason
                    done = index + 1
                    if time.monotonic() - saved > _SAVE_EVERY:
                        self._save(file, done, r, left_out)
                        saved = time.monotonic()
            finally:
                self._save(file, done, r, left_out)
        if self.progress is not None:
            self.progress(2 * len(sides), 2 * len(sides))
        return left_out

    def _append(self, file: PartFile, index: int, r: int) -> str | None:
        """Write one row; give the reason if there is none to write."""
        path, channels = self.images.path(index), self.settings["channels"]
        try:
            pixels = decode(path, channels=channels, **self.limits)
            row = fit_square(pixels, r, self.settings["fit"])
        except UnreadableImage as error:
            self.unreadable[index] = error.reason
            return error.reason
        except DataError:  # the file was replaced by a smaller one since its header was read
            self.unreadable[index] = "too_small"
            return "too_small"
        data = row.tobytes()
        file.append(data)
        self.digest.update(data)
        return None

    def _save(self, file: PartFile, done: int, r: int, left_out: dict[int, str]) -> None:
        # the rows reach the disk before the record that promises them
        file.sync()
        body = {
            "native_resolution": r,
            "done": done,
            "left_out": sorted(left_out.items()),
            "pixels_sha256": self.digest.hexdigest(),
        }
        write_body(self.files.record_part, body)

    def _resumed(self, r: int, row_bytes: int) -> tuple[int, dict[int, str]]:
        """Give how many images an earlier build finished, and which of them it left out."""
        self.digest = hashlib.sha256()
        record = read_body(self.files.record_part, told=self.told)
        if record is None or record["native_resolution"] != r:
            return 0, {}
        done = int(record["done"])
        left_out = {int(index): str(reason) for index, reason in record["left_out"]}
        rows = done - len(left_out)
        digest = _digest_of_start(self.files.pixels_part, rows * row_bytes)
        if digest is None or digest.hexdigest() != record["pixels_sha256"]:
            self.told(f"{self.files.pixels_part}: damaged; reading the images anew")
            return 0, {}
        self.digest = digest
        self.unreadable.update({i: why for i, why in left_out.items() if why != "too_small"})
        return done, left_out

    def _step(self, done: int) -> None:
        total = 2 * len(self.images)
        if self.should_stop is not None and self.should_stop():
            raise Interrupted(
                f"{self.images.root}: the image cache stopped at step {done} of {total}. "
                "Run the same command again to go on."
            )
        if self.progress is not None:
            self.progress(done, total)


def _digest_of_start(path: Path, count: int) -> "hashlib._Hash | None":
    """Digest the first bytes of a file; None if it is no regular file or has fewer."""
    if not is_regular(path):
        return None
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while count and (block := file.read(min(count, _BLOCK))):
                digest.update(block)
                count -= len(block)
    except OSError:
        return None
    return None if count else digest

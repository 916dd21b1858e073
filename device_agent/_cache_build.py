"""Building an image cache: two passes over the files, both resumable.

The first pass reads headers and chooses the native resolution, the second decodes image after
image and appends a row for each that can be used. The files are read in a process of its own
(`edge_stl.images.ImageReader`), so that the next images decode while this one is written.
"""

import hashlib
import shutil
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from device_agent._cache_digest import DIGEST_BYTES, digest_of, end_holds, read_digests
from device_agent._cache_files import CacheFiles
from device_agent._cache_reasons import IN_USE, TOO_SMALL, WORDS, array_of, code_of, text_of
from edge_stl.durable import PartFile
from edge_stl.errors import Interrupted, ResourceError
from edge_stl.images import ImageList, ImageReader, ReadLimits, fitted_side, native_resolution


_SAVE_EVERY = 10.0  # seconds of reading that a power cut may cost
_SPARE_BYTES = 16 << 20


class CacheBuild:
    """One build of one cache: sizes, native resolution, pixels, record.

    Attributes:
        resumed: Whether pixels of an earlier run were taken up.
    """

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
        self.told = told
        self.progress = progress
        self.should_stop = should_stop
        self.resumed = False
        self._at = 0  # steps done
        # why an image cannot be read, whatever the resolution: (N,) codes
        self._unreadable = np.zeros(len(images), dtype=np.uint8)
        self._rows_sha256 = hashlib.sha256()  # of the digests of the rows in the part file

    def run(self) -> None:
        """Build and publish."""
        limits = ReadLimits.of(
            max_pixels=self.settings["max_pixels"], max_bytes=self.settings["max_bytes"]
        )
        resolution, levels = self.settings["resolution"], self.settings["levels"]
        with ImageReader(limits, poll=self._heed) as reader:
            sides = self._read_sides(reader)
            while True:
                readable = sides[self._unreadable == IN_USE]
                r, _ = native_resolution(readable, resolution=resolution, levels=levels)
                left_out = self._decode_all(reader, sides, r)
                # files that have a header and no pixels are not readable either: without them the
                # 95 % may be other ones. Every further round has found at least one more of them.
                readable = sides[self._unreadable == IN_USE]
                again, _ = native_resolution(readable, resolution=resolution, levels=levels)
                if again == r:
                    break
        self.files.publish(self._body(r, left_out))

    def _read_sides(self, reader: ImageReader) -> npt.NDArray[np.int32]:
        """Read every header; (N,) int32, 0 where there is none."""
        sides, start = self._resumed_sides()
        fit = self.settings["fit"]
        answers = reader.sizes(map(self.images.path, range(start, len(sides))), fit=fit)
        done = start
        saved = time.monotonic()
        try:
            for index in range(start, len(sides)):
                self._step(index)
                answer = next(answers)
                if answer.reason is None:
                    sides[index] = fitted_side(answer.width, answer.height, fit)
                else:
                    self._unreadable[index] = code_of(answer.reason)
                done = index + 1
                if time.monotonic() - saved > _SAVE_EVERY:
                    self._save_sides(sides, done)
                    saved = time.monotonic()
        finally:
            if done > start:
                self._save_sides(sides, done)
        return sides

    def _save_sides(self, sides: npt.NDArray[np.int32], done: int) -> None:
        body = {
            "done": done,
            "reasons": WORDS,
            "sides": text_of(sides[:done]),
            "unreadable": text_of(self._unreadable[:done]),
        }
        self.files.write(self.files.sides_part, body)

    def _resumed_sides(self) -> tuple[npt.NDArray[np.int32], int]:
        """Give the sides that an earlier build read, and how many they are."""
        sides = np.zeros(len(self.images), dtype=np.int32)
        record = self.files.read(self.files.sides_part, told=self.told)
        if record is None or record["reasons"] != list(WORDS):
            return sides, 0
        done = int(record["done"])
        sides[:done] = array_of(record["sides"], "i4")
        self._unreadable[:done] = array_of(record["unreadable"], "u1")
        return sides, done

    def _decode_all(
        self, reader: ImageReader, sides: npt.NDArray[np.int32], r: int
    ) -> npt.NDArray[np.uint8]:
        """Decode every image that is large enough to the part file; give (N,) codes."""
        channels = self.settings["channels"]
        row_bytes = r * r * channels
        start, left_out = self._resumed(sides, r, row_bytes)
        count = int(np.count_nonzero(left_out[:start] == IN_USE))
        needed = (len(sides) - count) * (row_bytes + DIGEST_BYTES) + _SPARE_BYTES
        free = shutil.disk_usage(self.files.folder).free
        if free < needed:
            raise ResourceError(
                f"{self.files.folder}: {free >> 20} MiB are free; expected {needed >> 20} MiB for "
                "the image cache. Free space or choose another --work."
            )
        wanted = (start + int(i) for i in np.flatnonzero(left_out[start:] == IN_USE))
        rows = reader.rows(
            map(self.images.path, wanted), side=r, channels=channels, fit=self.settings["fit"]
        )
        done = start
        with (
            PartFile(self.files.pixels_part, at=count * row_bytes) as pixels,
            PartFile(self.files.rows_part, at=count * DIGEST_BYTES) as digests,
        ):
            try:
                saved = time.monotonic()
                for index in range(start, len(sides)):
                    self._step(len(sides) + index)
                    if left_out[index] == IN_USE:
                        answer = next(rows)
                        if answer.reason is None:
                            digest = digest_of(answer.row)
                            pixels.append(answer.row)
                            digests.append(digest)
                            self._rows_sha256.update(digest)
                        else:
                            left_out[index] = self._unreadable[index] = code_of(answer.reason)
                    done = index + 1
                    if time.monotonic() - saved > _SAVE_EVERY:
                        self._save((pixels, digests), done, r, left_out)
                        saved = time.monotonic()
            finally:
                self._save((pixels, digests), done, r, left_out)
        if self.progress is not None:
            self.progress(2 * len(sides), 2 * len(sides))
        return left_out

    def _save(
        self, written: tuple[PartFile, ...], done: int, r: int, left_out: npt.NDArray[np.uint8]
    ) -> None:
        # the rows reach the disk before the record that promises them
        for file in written:
            file.sync()
        self.files.write(self.files.record_part, {"done": done, **self._body(r, left_out[:done])})

    def _body(self, r: int, left_out: npt.NDArray[np.uint8]) -> dict[str, Any]:
        return {
            "native_resolution": r,
            "reasons": WORDS,
            "left_out": text_of(left_out),
            "rows_sha256": self._rows_sha256.hexdigest(),
        }

    def _resumed(
        self, sides: npt.NDArray[np.int32], r: int, row_bytes: int
    ) -> tuple[int, npt.NDArray[np.uint8]]:
        """Give how many images an earlier build finished, and what is left out, (N,) codes."""
        self._rows_sha256 = hashlib.sha256()
        record = self.files.read(self.files.record_part, told=self.told)
        done = 0
        codes = self._unreadable[:0]
        if (
            record is not None
            and record["native_resolution"] == r
            and record["reasons"] == list(WORDS)
        ):
            done = int(record["done"])
            codes = array_of(record["left_out"], "u1")
            count = int(np.count_nonzero(codes == IN_USE))
            digests = read_digests(self.files.rows_part, count, record["rows_sha256"], more=True)
            if digests is not None and end_holds(self.files.pixels_part, row_bytes, digests):
                self._rows_sha256.update(digests)
                self.resumed = self.resumed or done > 0
                unreadable = (codes != IN_USE) & (codes != TOO_SMALL)
                self._unreadable[:done][unreadable] = codes[unreadable]
            else:
                damaged = self.files.rows_part if digests is None else self.files.pixels_part
                self.told(f"{damaged}: damaged; reading the images anew")
                done = 0
        left_out = self._unreadable.copy()
        left_out[(left_out == IN_USE) & (sides < r)] = TOO_SMALL
        left_out[:done] = codes[:done]
        return done, left_out

    def _step(self, done: int) -> None:
        self._at = done
        self._heed()
        if self.progress is not None:
            self.progress(done, 2 * len(self.images))

    def _heed(self) -> None:
        if self.should_stop is not None and self.should_stop():
            raise Interrupted(
                f"{self.images.root}: the image cache stopped at step {self._at} of "
                f"{2 * len(self.images)}. Run the same command again to go on."
            )

"""Opening one image file that anybody may have put there, as far as its header.

Never blocks (a FIFO is refused before it is opened), never decodes a pixel, never warns. The
quiet of `quiet` is that of `warnings.catch_warnings`, which is per process: one thread of a
process reads images at a time.
"""

import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from edge_stl.images._pillow import pillow_image
from edge_stl.images._reasons import UnreadableImage, reason_of_os_error


if TYPE_CHECKING:
    from PIL import Image

# nearly all of Pillow's holes were in formats that no camera writes, so only these are opened
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")

_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a")
_TIFF_LITTLE, _TIFF_BIG = b"II*\0", b"MM\0*"
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # TIFF tags
_ORIENTATION = 0x0112  # EXIF tag, 1..8
_TALL = 5  # orientations 5..8 swap the sides
_LEAST_TILE_CAP = 1 << 20  # a small image in one large tile is legal


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings: a broken file is counted by its reason, not printed by a library."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def open_regular(path: str | os.PathLike[str], *, max_bytes: int | None) -> BinaryIO:
    """Open a regular file for reading, without ever blocking.

    Args:
        path: The file; a symbolic link is followed.
        max_bytes: Larger files are refused; None means no limit.

    Returns:
        The open file, at its start.

    Raises:
        UnreadableImage: ``not_a_file``, ``permission_denied``, ``vanished``, ``read_error`` or
            ``too_many_bytes``.
    """
    where = os.fspath(path)
    # O_NONBLOCK: between the stat and the open somebody may swap the file for a FIFO
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116  (bytes of odd names stay)
            raise UnreadableImage("not_a_file", where)
        file = os.fdopen(os.open(path, flags), "rb")
    except OSError as error:
        raise UnreadableImage(reason_of_os_error(error), where) from error
    except ValueError as error:  # a NUL in the name
        raise UnreadableImage("not_a_file", where) from error
    found = os.fstat(file.fileno())
    reason = None
    if not stat.S_ISREG(found.st_mode):
        reason = "not_a_file"
    elif max_bytes is not None and found.st_size > max_bytes:
        reason = "too_many_bytes"
    if reason is not None:
        file.close()
        raise UnreadableImage(reason, where)
    return file


def identify(file: BinaryIO, *, where: str, max_pixels: int | None) -> "Image.Image":
    """Read the header of an image; call it inside `quiet`.

    Args:
        file: The open file, seekable; Pillow reads it on from here when the pixels are loaded.
        where: The name that errors give.
        max_pixels: Images with more pixels are refused; None leaves Pillow's own limit.

    Returns:
        The image of Pillow, not decoded.

    Raises:
        UnreadableImage: ``not_an_image``, ``truncated``, ``too_many_pixels`` or
            ``unsupported_mode``.
        UsageError: Pillow is not installed.
    """
    pillow = pillow_image()
    head = file.read(32)
    file.seek(0)
    canvas = _webp_canvas(head)
    # Pillow allocates the canvas of a WebP while it opens it, so this cap must come first
    if max_pixels is not None and canvas is not None and canvas > max_pixels:
        raise UnreadableImage("too_many_pixels", where)
    try:
        image: Image.Image = pillow.open(file, formats=FORMATS)
    except pillow.DecompressionBombError as error:
        raise UnreadableImage("too_many_pixels", where) from error
    except MemoryError:
        raise
    except Exception as error:
        raise UnreadableImage(_reason_of_header(file, head, error), where) from error
    if max_pixels is not None:
        tags = getattr(image, "tag_v2", {})
        tile = int(tags.get(_TILE_WIDTH, 0)) * int(tags.get(_TILE_LENGTH, 0))
        wide = image.width * image.height > max_pixels
        if wide or tile > max(max_pixels, _LEAST_TILE_CAP):
            raise UnreadableImage("too_many_pixels", where)
    return image


def orientation(image: "Image.Image") -> int:
    """Read how the camera was held.

    Args:
        image: An image of Pillow; what its header does not hold yet is not looked for.

    Returns:
        The EXIF orientation, 1..8; 1 when there is none, it is broken, or Pillow turns the image
        itself (it does so for TIFF, and reports the turned size).
    """
    if image.format == "TIFF":
        return 1
    try:
        # the method of the base class: that of PNG would decode all pixels to look behind them
        value = pillow_image().Image.getexif(image).get(_ORIENTATION, 1)
        return value if value in range(1, 9) else 1
    except Exception:  # noqa: BLE001  (broken EXIF is no reason to lose the picture)
        return 1


def turned_size(image: "Image.Image") -> tuple[int, int]:
    """Give width and height as a viewer would show the image.

    Args:
        image: An image of Pillow.

    Returns:
        (width, height) in pixels, after the EXIF orientation.
    """
    width, height = image.size
    return (height, width) if orientation(image) >= _TALL else (width, height)


def _reason_of_header(file: BinaryIO, head: bytes, error: Exception) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        return reason_of_os_error(error)
    if "unsupported" in str(error).lower():
        return "unsupported_mode"
    if head[:4] in {_TIFF_LITTLE, _TIFF_BIG}:
        return "unsupported_mode" if _has_tiff_directory(file, head) else "truncated"
    if head.startswith(_MAGIC) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return "truncated"
    return "not_an_image"


def _has_tiff_directory(file: BinaryIO, head: bytes) -> bool:
    """Say whether the directory, often the last part of a TIFF, is whole: Pillow could read it."""
    end = file.seek(0, os.SEEK_END)
    big = head[:4] == _TIFF_BIG
    at = int.from_bytes(head[4:8], "big" if big else "little")
    file.seek(min(at, end))
    entries = int.from_bytes(file.read(2), "big" if big else "little")
    return at + 2 + 12 * entries <= end  # a count, then 12 bytes for each entry


def _webp_canvas(head: bytes) -> int | None:
    """Count the pixels that a WebP header claims; None if this is no WebP header."""
    if head[:4] != b"RIFF" or head[8:12] != b"WEBP" or len(head) < 30:  # noqa: PLR2004
        return None
    kind = head[12:16]
    if kind == b"VP8X":  # 24-bit width - 1 and height - 1
        return (int.from_bytes(head[24:27], "little") + 1) * (
            int.from_bytes(head[27:30], "little") + 1
        )
    if kind == b"VP8L":  # 14-bit width - 1 and height - 1
        bits = int.from_bytes(head[21:25], "little")
        return ((bits & 0x3FFF) + 1) * (((bits >> 14) & 0x3FFF) + 1)
    if kind == b"VP8 ":  # 14-bit width and height
        return (int.from_bytes(head[26:28], "little") & 0x3FFF) * (
            int.from_bytes(head[28:30], "little") & 0x3FFF
        )
    return None

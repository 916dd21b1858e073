"""One image file to an array of 8-bit pixels, or one reason why not."""

import io
import os

import numpy as np
import numpy.typing as npt

from edge_stl.errors import ResourceError, UsageError
from edge_stl.images._convert import UnsupportedModeError, to_uint8
from edge_stl.images._open import identify, open_regular, orientation, quiet, turned_size
from edge_stl.images._reasons import UnreadableImage, reason_of_os_error
from edge_stl.images._text import shown


_PNG_END = b"IEND\xaeB`\x82"
_MORE = 1 << 16
_UPRIGHT = 1  # EXIF orientation


def read_size(
    path: str | os.PathLike[str],
    *,
    max_pixels: int | None = None,
    max_bytes: int | None = None,
) -> tuple[int, int]:
    """Read the size of an image from its header; no pixel is decoded.

    Args:
        path: The file.
        max_pixels: Images with more pixels are refused; None leaves Pillow's own limit.
        max_bytes: Larger files are refused; None means no limit.

    Returns:
        (width, height) in pixels after the EXIF orientation. A PNG that says its orientation
        behind its pixels is reported unturned.

    Raises:
        UnreadableImage: The header cannot be used; ``reason`` says why.
        UsageError: Pillow is not installed.
    """
    with quiet(), open_regular(path, max_bytes=max_bytes) as file:
        return turned_size(identify(file, where=os.fspath(path), max_pixels=max_pixels))


def decode(
    path: str | os.PathLike[str], *, channels: int, max_pixels: int, max_bytes: int
) -> npt.NDArray[np.uint8]:
    """Decode an image: PNG, JPEG, WebP, BMP, TIFF or GIF (first frame), turned upright.

    Alpha is composed over white; 16-bit grey is divided by 257 and rounded (all rules:
    `edge_stl/images/_convert.py`). A file whose end is missing is refused, not padded.

    Args:
        path: The file.
        channels: 1 for grey or 3 for RGB.
        max_pixels: Images with more pixels are refused before a pixel is decoded. Never above
            Pillow's own limit of 179 million.
        max_bytes: Larger files are refused before they are read.

    Returns:
        The pixels, (H, W, channels) uint8, values 0..255, owned and writable.

    Raises:
        UnreadableImage: The file is no usable image; ``reason`` says why.
        UsageError: Another number of channels, or Pillow is not installed.
        ResourceError: The machine has too little memory for this image.
    """
    if channels not in {1, 3}:
        raise UsageError(f"channels: is {channels}; expected 1 (grey) or 3 (RGB). Choose one.")
    where = os.fspath(path)
    with open_regular(path, max_bytes=max_bytes) as file:
        try:
            # asked for all that is allowed, Python would reserve all that is allowed
            data = file.read(min(os.fstat(file.fileno()).st_size, max_bytes) + 1)
            while len(data) <= max_bytes and (more := file.read(_MORE)):  # it is growing
                data += more
        except OSError as error:
            raise UnreadableImage(reason_of_os_error(error), where) from error
    if len(data) > max_bytes:  # it grew since it was opened
        raise UnreadableImage("too_many_bytes", where)
    with quiet():
        image = identify(io.BytesIO(data), where=where, max_pixels=max_pixels)
        try:
            image.load()
            pixels = to_uint8(image, channels=channels)
            turn = orientation(image)
        except UnsupportedModeError as error:
            raise UnreadableImage("unsupported_mode", where) from error
        except MemoryError as error:
            raise ResourceError(
                f"{shown(where)}: no memory for {image.width}x{image.height} pixels. "
                "Lower [limits] max_image_pixels in the plan or free memory."
            ) from error
        except Exception as error:  # Pillow raises more than OSError on damaged files
            known = "unsupported" in str(error).lower() or "not available" in str(error)
            reason = "unsupported_mode" if known else "truncated"
            raise UnreadableImage(reason, where) from error
    # Pillow takes a PNG without its end marker: half a file whose pixels happen to be there
    if image.format == "PNG" and _PNG_END not in data:
        raise UnreadableImage("truncated", where)
    del image, data  # as large as the pixels, which may be copied once more to be turned
    return pixels if turn == _UPRIGHT else np.array(_upright(pixels, turn), order="C")


def _upright(pixels: npt.NDArray[np.uint8], turn: int) -> npt.NDArray[np.uint8]:
    """Undo an EXIF orientation, 1..8; (H, W, C) -> (H, W, C) or (W, H, C)."""
    if turn in {5, 6, 7, 8}:
        pixels = pixels.transpose(1, 0, 2)
    # after the transposition, what is left is a flip of axis 0, of axis 1, of both or of none
    return pixels[:: -1 if turn in {3, 4, 7, 8} else 1, :: -1 if turn in {2, 3, 6, 7} else 1]

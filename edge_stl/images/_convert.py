"""From the pixel formats of image files to 8-bit grey or RGB.

* Alpha (LA, PA, RGBA, a transparent palette entry or colour) is composed over **white**: icons
  and cut-out pictures are drawn for light pages, and black would swallow dark objects.
* 16-bit grey is divided by 257 and rounded, so that 0 and 65535 become 0 and 255; a 12-bit TIFF
  is scaled by its own white.
* 32-bit integer and float pixels have no fixed white and are refused.
* Grey from colour uses Pillow's weights (ITU-R 601); colour from grey repeats the channel.
* CMYK goes by Pillow's plain formula, without an ICC profile; LAB by LittleCMS, if Pillow has it.
"""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edge_stl.images._pillow import pillow_image


if TYPE_CHECKING:
    from PIL import Image

_OPAQUE = frozenset({"1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr"})
_ALPHA = frozenset({"LA", "PA", "RGBA", "RGBa"})
_GREY16 = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})
_BITS_PER_SAMPLE = 258  # TIFF tag
_WHITE16 = 65535
_STRIP = 256  # rows that are copied at a time


class UnsupportedModeError(Exception):
    """The pixels of this image have no fixed meaning in 8 bits."""


def to_uint8(image: "Image.Image", *, channels: int) -> npt.NDArray[np.uint8]:
    """Convert a loaded image.

    Args:
        image: An image of Pillow.
        channels: 1 for grey or 3 for RGB.

    Returns:
        The pixels, (H, W, channels) uint8, owned and writable.

    Raises:
        UnsupportedModeError: The mode of the image is none of those above.
    """
    mode = image.mode
    # Pillow before 12 gives 16-bit PNG as "I"; an "I" from a TIFF is 32-bit, without a known white
    if mode in _GREY16 or (mode == "I" and image.format == "PNG"):
        grey = _grey_from_16_bit(image)
        return np.repeat(grey[:, :, np.newaxis], channels, axis=2)
    if mode in _ALPHA or (mode in _OPAQUE and image.has_transparency_data):
        image = _over_white(image)
    elif mode == "LAB":
        image = _rgb_from_lab(image)
    elif mode not in _OPAQUE:
        raise UnsupportedModeError(mode)
    if image.mode not in {"1", "L", "RGB"}:
        image = image.convert("RGB")
    wanted = "L" if channels == 1 else "RGB"
    # converting to the same mode would be one more copy
    return _copied(image if image.mode == wanted else image.convert(wanted), channels)


def _copied(image: "Image.Image", channels: int) -> npt.NDArray[np.uint8]:
    """Copy strip by strip: asked for all its pixels, Pillow holds them twice more on the way."""
    pixels = np.empty((image.height, image.width, channels), dtype=np.uint8)
    for top in range(0, image.height, _STRIP):
        strip = pixels[top : top + _STRIP]
        box = (0, top, image.width, top + len(strip))
        strip[:] = np.asarray(image.crop(box)).reshape(strip.shape)
    return pixels


def _grey_from_16_bit(image: "Image.Image") -> npt.NDArray[np.uint8]:
    bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))
    white = min((1 << int(bits[0])) - 1, _WHITE16)
    grey = np.empty((image.height, image.width), dtype=np.uint8)
    for top in range(0, image.height, _STRIP):
        strip = grey[top : top + _STRIP]
        crop = image.crop((0, top, image.width, top + len(strip)))
        values = np.clip(np.asarray(crop).astype(np.int64), 0, white)
        # v * 255 / white, rounded half up, without floating point
        strip[:] = (values * 510 + white) // (2 * white)
    return grey


def _over_white(image: "Image.Image") -> "Image.Image":
    pillow = pillow_image()
    front = image.convert("RGBA")
    white = pillow.new("RGBA", front.size, (255, 255, 255, 255))
    composed: Image.Image = pillow.alpha_composite(white, front).convert("RGB")
    return composed


def _rgb_from_lab(image: "Image.Image") -> "Image.Image":
    try:
        from PIL import ImageCms  # Pillow may be built without LittleCMS

        transform = ImageCms.buildTransform(
            ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB"
        )
        rgb = ImageCms.applyTransform(image, transform)
    except Exception as error:
        raise UnsupportedModeError(image.mode) from error
    if rgb is None:  # only with inPlace=True, but so it is typed
        raise UnsupportedModeError(image.mode)
    return rgb

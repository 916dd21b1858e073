"""How the images of a coarse box came to be coarse."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge_stl.errors import DataError, UsageError
from edge_stl.images import Fit, fit_square, fitted_side


_KERNELS = ("bilinear", "bicubic", "lanczos", "nearest")
_QUALITIES = range(1, 101)


@dataclass(frozen=True)
class Camera:
    """How a coarse box takes its images from fine ones.

    Attributes:
        kind: ``box``, area averaging; a resampling kernel of Pillow; or ``jpeg``, area averaging
            and then a JPEG file.
        quality: of the JPEG file, 1..100; 0 for the others.
    """

    kind: Literal["box", "bilinear", "bicubic", "lanczos", "nearest", "jpeg"] = "box"
    quality: int = 0

    def __str__(self) -> str:
        """Return it as it is written on the command line."""
        return f"jpeg:{self.quality}" if self.kind == "jpeg" else self.kind

    @property
    def suffix(self) -> str:
        """Return how its files' names end."""
        return ".jpg" if self.kind == "jpeg" else ".png"


BOX = Camera()


def read_camera(text: str) -> Camera:
    """Return what ``box``, a kernel's name or ``jpeg:Q`` means.

    Raises:
        UsageError: it is none of these.
    """
    kind, _, quality = text.partition(":")
    if kind == "jpeg" and quality.isdecimal() and int(quality) in _QUALITIES:
        return Camera("jpeg", int(quality))
    for known in ("box", *_KERNELS):
        if text == known:
            return Camera(known)  # type: ignore[arg-type]  # one of the kinds above
    raise UsageError(
        f"--camera {text}: is no camera; expected box, {', '.join(_KERNELS)}, or jpeg:Q with a "
        "quality Q from 1 to 100. Choose one"
    )


def take(camera: Camera, pixels: NDArray[np.uint8], side: int, fit: Fit) -> NDArray[np.uint8]:
    """Return what a camera of ``side`` pixels takes of a fine image.

    Args:
        camera: the camera.
        pixels: ``(H, W, C)`` uint8.
        side: rows and columns of the result; never more than the image has.
        fit: how the image becomes square, before anything is resampled.

    Returns:
        ``(side, side, C)`` uint8; a JPEG's losses come when the file is saved.

    Raises:
        DataError: the image is smaller than ``side``.
    """
    if camera.kind not in _KERNELS:
        return fit_square(pixels, side, fit)
    height, width, channels = pixels.shape
    square = fitted_side(width, height, fit)
    if square < side:
        raise DataError(
            f"image: is {width}x{height}, smaller than {side}; images are never enlarged. Use a "
            "larger image or a smaller resolution"
        )
    if fit != "stretch":  # which shrinks both axes at once, by the kernel
        pixels = fit_square(pixels, square, fit)
    from PIL import Image  # files only

    flat = np.ascontiguousarray(pixels[:, :, 0] if channels == 1 else pixels)
    kernel = Image.Resampling[camera.kind.upper()]
    small = np.array(Image.fromarray(flat).resize((side, side), kernel), dtype=np.uint8)
    return small.reshape(side, side, channels)


def save(camera: Camera, pixels: NDArray[np.uint8], path: Path) -> None:
    """Write ``(H, W, C)`` uint8 pixels as the camera's files are: PNG, or JPEG of its quality."""
    from PIL import Image  # files only

    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    if camera.kind == "jpeg":
        image.save(path, format="JPEG", quality=camera.quality)
    else:
        image.save(path, format="PNG")

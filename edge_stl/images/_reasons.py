"""Why a file is left out: a small fixed vocabulary, so that every skipped image is counted."""

import errno
from types import MappingProxyType

from edge_stl.errors import DataError
from edge_stl.images._text import shown


# reason -> what the sentence of the exception says; the keys are what reports count by
REASONS = MappingProxyType(
    {
        "not_an_image": "is not an image; expected PNG, JPEG, WebP, BMP, TIFF or GIF. "
        "Remove it or save it as one of these",
        "truncated": "ends early or is damaged; expected a whole image. Copy the file again",
        "too_many_pixels": "has more pixels than allowed. "
        "Shrink it or raise [limits] max_image_pixels in the plan",
        "too_many_bytes": "is larger than allowed. "
        "Compress it or raise [limits] max_image_bytes in the plan",
        "unsupported_mode": "has a pixel format that has no fixed meaning in 8 bits; expected grey "
        "or colour with 1 to 16 bit integers. Save it as an 8-bit PNG",
        "not_a_file": "is not a regular file; expected an image file. Remove it",
        "permission_denied": "may not be read by this user. Change the permissions of the file",
        "vanished": "is not there; expected an image file. Check the name",
        "read_error": "cannot be read from the disk. Check the disk and copy the file again",
        "decoder_died": "ended the process that decodes images, twice; expected an image that "
        "Pillow survives. Remove it or save it again",
        "took_too_long": "takes too long to decode; expected an ordinary image on a disk that "
        "answers. Save it again as a baseline JPEG, or check the disk",
        "too_much_memory": "takes more memory than its size allows; expected an ordinary image. "
        "Save it again as a baseline JPEG",
    }
)


class UnreadableImage(DataError):  # noqa: N818  (a reason that is counted, rarely an error shown)
    """One file that is no usable image; whoever reads many counts ``reason`` and goes on."""

    def __init__(self, reason: str, where: str = "image") -> None:
        """Store the reason.

        Args:
            reason: A key of `REASONS`.
            where: The file as the sentence shall name it.
        """
        # both go to args, so that the exception survives a trip between processes
        super().__init__(reason, where)
        self.reason = reason
        self.where = where

    def __str__(self) -> str:
        return f"{shown(self.where)}: {REASONS[self.reason]}."


def reason_of_os_error(error: OSError) -> str:
    """Name what the operating system said about a file.

    Args:
        error: The error of a stat, open or read.

    Returns:
        A key of `REASONS`.
    """
    if error.errno in {errno.ENOENT, errno.ESTALE}:
        return "vanished"
    if error.errno in {errno.EACCES, errno.EPERM}:
        return "permission_denied"
    if error.errno in {errno.ELOOP, errno.ENXIO, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG}:
        return "not_a_file"
    return "read_error"

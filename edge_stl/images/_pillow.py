"""The one place that imports Pillow, and only when an image is read.

``edge_stl.images`` must be importable on a machine without Pillow: the predictor that is given
arrays, or a desk that only merges, never opens an image file.
"""

from typing import TYPE_CHECKING

from edge_stl.errors import UsageError


if TYPE_CHECKING:
    from types import ModuleType

MISSING = "reading image files needs Pillow: pip install 'edge-stl'"


def pillow_image() -> "ModuleType":
    """Give the module ``PIL.Image``.

    Returns:
        The imported module.

    Raises:
        UsageError: Pillow is not installed; the sentence says what to install.
    """
    try:
        from PIL import Image  # lazy on purpose, see the module docstring
    except ImportError as error:
        raise UsageError(MISSING) from error
    return Image

"""A picture of an image's bands, as the transform sees them: coarse top left, fine bottom right."""

import io

import numpy as np
from numpy.typing import NDArray

from edge_stl.bands import bank
from edge_stl.plan import Plan


_LEAST = 512
_GAP = 4
_MARGIN = 18
_INK = (32, 32, 32)


def bands_picture(plan: Plan, pixels: NDArray[np.uint8]) -> bytes:
    """Return a PNG: the image on the left, its bands on the right.

    The approximation is shown as it is; details around mid grey, each level stretched so that
    its strongest per cent of coefficients fills the range.

    Args:
        plan: whose transform is used.
        pixels: ``(R, R, C)`` uint8.
    """
    from PIL import Image, ImageDraw  # pictures only

    unit = pixels.astype(np.float64).transpose(2, 0, 1) / 255
    bands = bank(plan.bank).analyze(unit)
    side = pixels.shape[0]
    zoom = max(1, -(-_LEAST // side))
    canvas = Image.new("RGB", (2 * side * zoom + 3 * _GAP, side * zoom + _GAP + _MARGIN), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((_GAP, 3), f"image, {side} px", fill=_INK)
    draw.text((side * zoom + 2 * _GAP, 3), f"its bands under {plan.bank}", fill=_INK)

    def paste(values: NDArray[np.floating], x: int, y: int, size: int) -> None:
        grey = np.clip(values.transpose(1, 2, 0) * 255, 0, 255).round().astype(np.uint8)
        tile = Image.fromarray(np.repeat(grey, 3, axis=2) if grey.shape[2] == 1 else grey)
        canvas.paste(tile.resize((size, size), Image.Resampling.NEAREST), (x, y))

    paste(unit, _GAP, _MARGIN, side * zoom)
    for name, values in bands.items():
        row, column, size = _place(plan, name)
        x = side * zoom + 2 * _GAP + int(column * side * zoom)
        y = _MARGIN + int(row * side * zoom)
        edge = max(1, int(size * side * zoom) - 1)
        lowpass = name == plan.bank.bands()[0]
        paste(values if lowpass else _stretched(values), x, y, edge)
        label = (255, 220, 0)
        draw.text((x + 3, y + 2), name, fill=label, stroke_width=1, stroke_fill=(0, 0, 0))
    file = io.BytesIO()
    canvas.save(file, format="PNG")
    return file.getvalue()


def _place(plan: Plan, band: str) -> tuple[float, float, float]:
    """Return row, column and size of a band's tile as shares of the square."""
    transform = plan.bank
    if transform.kind != "wavelet":
        share = 1 / transform.block
        # The polyphase bands have one index: they fill the square row by row.
        index = divmod(transform.order(band), transform.block)
        row, column = (int(band[3]), int(band[4])) if transform.kind == "dct" else index
        return row * share, column * share, share
    size = 1.0 / (1 << int(band[2:]))
    # Detail along rows lies below the approximation, detail along columns to its right.
    return size * (band[1] in "HD"), size * (band[1] in "VD"), size


def _stretched(values: NDArray[np.floating]) -> NDArray[np.floating]:
    strongest = max(float(np.quantile(np.abs(values), 0.99)), 1 / 255)
    return 0.5 + values / (2 * strongest)

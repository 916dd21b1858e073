"""Look at the bands of an image, and put the image together again.

    python samples/look_at_bands.py [IMAGE]

Analysis and synthesis are numpy alone; the picture of the bands needs Pillow.
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_stl.bands import bank
from edge_stl.fleet import bands_picture
from edge_stl.images import decode, fit_square
from edge_stl.plan import new_plan


SIDE = 64
OUT = Path("runs/samples")


def rings(side: int) -> NDArray[np.uint8]:
    """Return circles that get finer towards the edge, in three colours: ``(side, side, 3)``."""
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    radius = np.hypot(x, y)[:, :, None]
    waves = np.cos(12 * radius**2 + np.array([0.0, 0.7, 1.4]))
    return np.round(127.5 * (1 + waves)).astype(np.uint8)


if len(sys.argv) > 1:
    image = decode(Path(sys.argv[1]), channels=3, max_pixels=10**8, max_bytes=10**8)
    pixels = fit_square(image, SIDE, "crop")
else:
    pixels = rings(SIDE)

OUT.mkdir(parents=True, exist_ok=True)
for transform in ("haar", "db4", "dct:4"):
    plan = new_plan(classes=["a", "b"], resolution=SIDE, transform=transform)
    filters = bank(plan.bank)

    image = pixels.astype(np.float64).transpose(2, 0, 1) / 255  # (C, H, W) in 0..1
    bands = filters.analyze(image)
    back = filters.synthesize(bands)

    strongest = {name: float(np.abs(band).max()) for name, band in bands.items()}
    print(f"{plan.bank}: {len(bands)} bands, {sum(b.size for b in bands.values())} numbers")
    print("  " + "  ".join(f"{name} {value:.2f}" for name, value in list(strongest.items())[:7]))
    print(f"  largest reconstruction error {np.abs(back - image).max():.1e}")

    path = OUT / f"bands-{transform.replace(':', '')}.png"
    path.write_bytes(bands_picture(plan, pixels))
    print(f"  {path}")

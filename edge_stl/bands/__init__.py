"""Filter banks that split an image into bands, and which band exists at which resolution."""

from edge_stl.bands._bank import Band as Band, Bank as Bank, bank as bank
from edge_stl.bands._filter import Filter as Filter
from edge_stl.bands._resample import KERNELS as KERNELS, Kernel as Kernel, resampling as resampling
from edge_stl.bands._segment import assemble as assemble, segment as segment
from edge_stl.bands._sharpness import (
    FEWEST_IMAGES as FEWEST_IMAGES,
    Energies as Energies,
    Sharpness as Sharpness,
    most_images as most_images,
    sharpness as sharpness,
)
from edge_stl.bands._transform import Transform as Transform, wavelet_names as wavelet_names

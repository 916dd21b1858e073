"""Torch modules of the transforms: filter banks, and tensor layers under a tube transform."""

from edge_stl.layers._algebra import (
    block_matrix as block_matrix,
    identity_tensor as identity_tensor,
    tensor_product as tensor_product,
    tensor_transpose as tensor_transpose,
)
from edge_stl.layers._analysis import Analysis as Analysis, Synthesis as Synthesis
from edge_stl.layers._bandwise import (
    Bandwise as Bandwise,
    FromBands as FromBands,
    SpectralBatchNorm1d as SpectralBatchNorm1d,
    SpectralBatchNorm2d as SpectralBatchNorm2d,
    ToBands as ToBands,
)
from edge_stl.layers._branches import join as join, split as split
from edge_stl.layers._spectral import (
    SpectralConv2d as SpectralConv2d,
    SpectralLinear as SpectralLinear,
)
from edge_stl.layers._stable import (
    StableTensorBlock as StableTensorBlock,
    stable_tensor_network as stable_tensor_network,
)
from edge_stl.layers._tube_transforms import (
    dct as dct,
    dft as dft,
    from_matrix as from_matrix,
    haar as haar,
    identity as identity,
    tube_transform as tube_transform,
    wavelet as wavelet,
)
from edge_stl.layers._tubes import TubeTransform as TubeTransform

"""Torch modules of the transforms: analysis and synthesis filter banks."""

from edge_stl.layers._analysis import Analysis as Analysis, Synthesis as Synthesis

"""edge-stl: train image classifiers on edge boxes without moving an image or a gradient.

The rooms, each with its own door: `edge_stl.plan`, `edge_stl.bands`, `edge_stl.layers`,
`edge_stl.branch`, `edge_stl.fusion`, `edge_stl.images`, `edge_stl.predict`, `edge_stl.fleet`.
Importing `edge_stl` alone imports none of them.
"""

__version__ = "0.1.0"

"""Networks as declarative lists of layers.

A preset is one rule from (channels, size, classes) to a list of layers. The torch module, the
ONNX graph and the counts of `plan show` are all built from that list, so they cannot drift.
"""

from edge_stl.plan.networks._counts import (
    foldable as foldable,
    multiply_adds as multiply_adds,
    parameter_shapes as parameter_shapes,
    parameters as parameters,
)
from edge_stl.plan.networks._layers import (
    GROUP_NORM_EPSILON as GROUP_NORM_EPSILON,
    Conv as Conv,
    Dense as Dense,
    DepthwiseConv as DepthwiseConv,
    Flatten as Flatten,
    GlobalAveragePool as GlobalAveragePool,
    GroupNorm as GroupNorm,
    Layer as Layer,
    MaxPool as MaxPool,
    Norm as Norm,
    Relu as Relu,
    Residual as Residual,
    Shape as Shape,
    Step as Step,
    inside as inside,
    leaves as leaves,
    walk as walk,
)
from edge_stl.plan.networks._presets import preset as preset, preset_names as preset_names

"""How branch outputs become one answer, in numpy: the oracle of the merged graph."""

from edge_stl.fusion._cascade import (
    asked_so_far as asked_so_far,
    cascade as cascade,
    stage_factors as stage_factors,
)
from edge_stl.fusion._median import (
    MEDIAN_FLOOR as MEDIAN_FLOOR,
    fuse_median as fuse_median,
    median_answers as median_answers,
    voters as voters,
)
from edge_stl.fusion._pool import (
    CLIP as CLIP,
    Member as Member,
    evidence as evidence,
    fuse as fuse,
    largest_change as largest_change,
    log_prior as log_prior,
    member_probabilities as member_probabilities,
    softmax as softmax,
)
from edge_stl.fusion._scores import Scores as Scores, score as score
from edge_stl.fusion._weights import (
    DATA_FREE as DATA_FREE,
    calibration_scale as calibration_scale,
    geometric_weights as geometric_weights,
    plan_weights as plan_weights,
    reliability as reliability,
    reliability_weights as reliability_weights,
    uniform_weights as uniform_weights,
)

"""The pinned numbers and names of the files that travel.

Opset and IR version are never left to a default: what `onnx.helper.make_model` stamps today is
refused by today's onnxruntime. Opset 17 with IR version 8 loads from JetPack 5 onwards.
"""

from edge_stl.gate import OPERATORS


OPSET = 17
IR_VERSION = 8
PRODUCER = "edge-stl"

FORMAT = 1
BUILDER = 1
"""Raised when the bytes that a builder writes change; old builders stay, so old files split."""

KEY_FORMAT = "edge_stl.format"
KEY_KIND = "edge_stl.kind"
KEY_MANIFEST = "edge_stl.manifest"
KEY_ENSEMBLE = "edge_stl.ensemble"
KEY_CLASSES = "edge_stl.classes"
KEY_VECTOR = "edge_stl.test_vector"
BRANCH = "branch"
ENSEMBLE = "ensemble"

BRANCH_INPUT = "bands"
BRANCH_OUTPUT = "logits"
ENSEMBLE_INPUT = "image"
PROBABILITIES = "probabilities"
BRANCH_PROBABILITIES = "branch_probabilities"
THRESHOLD = "confidence_threshold"
"""Input of a cascade, a float32 scalar; with an initializer of its name, so it may be left out."""

PORTABLE_OPERATORS = OPERATORS
"""What our graphs may hold: every target of `check` knows them at opset 17."""

RECORD_KEYS = frozenset(
    {
        "plan", "plan_digest", "options", "scale", "made_by", "members", "holdout", "cascade",
        "audit", "graphs",
    }
)  # fmt: skip
MEMBER_KEYS = frozenset({"manifest", "sha256", "weights", "weight", "kernel", "signed"})
"""What an ensemble's record may hold, and each of its members. `--remove` writes a record anew, so
a key that this version does not know is refused and not dropped."""

WEIGHT_RULES = ("reliability", "uniform", "geometric", "plan", "fitted")
FITTED = "fitted"
"""The one rule that needs a holdout."""

LAYOUTS = ("nhwc", "nchw")

ROBUST_RULES = ("median",)

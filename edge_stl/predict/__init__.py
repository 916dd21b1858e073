"""Run an ensemble file: numpy and onnxruntime, Pillow when given files."""

from edge_stl.predict._ensemble import Ensemble as Ensemble
from edge_stl.predict._evaluate import Evaluation as Evaluation, evaluate as evaluate
from edge_stl.predict._slots import Slots as Slots

"""A branch as one ONNX file: numbers and manifest in, canonical bytes out.

The graph depends on the plan alone, so the merger rebuilds it from the plan and takes only the
numbers from a file. Nothing here needs torch.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from edge_stl.errors import CheckError
from edge_stl.gate import MANIFEST_CAPS, Refused, strict_json
from edge_stl.plan import Plan, networks
from exporter import names
from exporter._graph import Graph, value
from exporter._network import add_network, network_constants
from exporter._session import check_model, run
from exporter.manifest import Manifest, manifest_text, vector_input
from exporter.plausible import flushed


Parameters = Mapping[str, NDArray[np.float32]]
VECTOR_TOLERANCE = 1e-3
"""Largest difference of test-vector logits, relative to the largest logit (at least 1)."""


def build_branch(manifest: Manifest, plan: Plan, parameters: Parameters) -> bytes:
    """Return the bytes of a branch file.

    Args:
        manifest: what the box says of the branch.
        plan: the plan it was trained under.
        parameters: float32 tensors as `branch_shapes` names and shapes them.
    """
    branch = plan.branch(manifest.branch)
    channels, size = plan.band_channels(branch), plan.band_size(branch)
    graph = Graph()
    add_network(
        graph,
        plan.layers(branch),
        parameters,
        channels=channels,
        size=size,
        input_name=names.BRANCH_INPUT,
        prefix="",
        output=names.BRANCH_OUTPUT,
    )
    return graph.model(
        name=manifest.id,
        inputs=[value(names.BRANCH_INPUT, TensorProto.FLOAT, ["batch", channels, size, size])],
        outputs=[value(names.BRANCH_OUTPUT, TensorProto.FLOAT, ["batch", len(plan.classes)])],
        metadata={
            names.KEY_FORMAT: str(manifest.format),
            names.KEY_KIND: names.BRANCH,
            names.KEY_MANIFEST: manifest_text(manifest, plan),
        },
    )


def branch_shapes(plan: Plan, branch_name: str) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor of a branch file, in file order."""
    branch = plan.branch(branch_name)
    return networks.parameter_shapes(
        plan.layers(branch), channels=plan.band_channels(branch), size=plan.band_size(branch)
    )


def branch_constants(plan: Plan, branch_name: str) -> dict[str, NDArray[np.generic]]:
    """Return the tensors of a branch file that follow from its plan alone, by name."""
    branch = plan.branch(branch_name)
    return network_constants(
        plan.layers(branch), channels=plan.band_channels(branch), size=plan.band_size(branch)
    )


def vector_difference(manifest: Manifest, plan: Plan, model: Any) -> float:
    """Run a branch, given as bytes or as a session, on its test vector in onnxruntime.

    Returns:
        the largest absolute difference from the expected logits, over the largest expected one
        (at least 1); NaN counts as infinite.
    """
    branch = plan.branch(manifest.branch)
    inputs = vector_input(
        manifest.test_vector.seed,
        channels=plan.band_channels(branch),
        size=plan.band_size(branch),
    )
    (logits,) = run(model, {names.BRANCH_INPUT: inputs})
    expected = np.array(manifest.test_vector.logits)
    difference = float(np.abs(logits - expected).max()) / max(1.0, float(np.abs(expected).max()))
    return difference if np.isfinite(difference) else float("inf")


def export_branch(manifest: Manifest, plan: Plan, parameters: Parameters) -> bytes:
    """Build a branch file, then check it: full ONNX checker, onnxruntime, its test vector.

    Raises:
        CheckError: the file would not do elsewhere what the network does here.
    """
    for name, array in parameters.items():
        if not np.isfinite(array).all():
            raise CheckError(
                f"{manifest.id}: tensor {name} has numbers that are not finite; training diverged. "
                "Lower training.learning_rate in the plan"
            )
    parameters = {name: flushed(array) for name, array in parameters.items()}
    text = manifest_text(manifest, plan)
    try:
        strict_json(text, MANIFEST_CAPS)
    except Refused as verdict:
        raise CheckError(
            f"{manifest.id}: no desk would read its manifest: {verdict}. Make a plan with fewer or "
            "shorter class names"
        ) from None
    model = build_branch(manifest, plan, parameters)
    running = check_model(model, manifest.id)
    difference = vector_difference(manifest, plan, running)
    if difference > VECTOR_TOLERANCE:
        raise CheckError(
            f"{manifest.id}: onnxruntime and torch differ by {difference:.1e} on the test vector; "
            f"expected at most {VECTOR_TOLERANCE:.0e}"
        )
    return model

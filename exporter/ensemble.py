"""The ensemble graph: one model from ``uint8`` pixels to probabilities.

::

    image -> Cast -> (layout) -> / 255 -> per native resolution r: AveragePool, filter bank
          -> per branch file: network, temperature, prior -> fusion -> probabilities

A branch trained at native resolution r gets exactly what its box had: the image area-averaged
from R to r, then the bank of r. An ensemble for coarser cameras has their resolution in place of R,
and a branch of a finer box the bank of that resolution.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto

from edge_stl import __version__
from edge_stl.plan import Plan
from exporter import names
from exporter._analysis import BankNodes
from exporter._fusion_nodes import add_answer, add_probabilities, add_vote
from exporter._graph import Graph, value
from exporter._median_nodes import add_median
from exporter._network import add_network
from exporter.manifest import canonical_json
from exporter.options import Options, native_in
from exporter.read import BranchFile


PIXEL_SCALE = 255.0


@dataclass(frozen=True)
class Fitted:
    """What an ensemble keeps of the holdout its weights were fitted on: no name and no path.

    Attributes:
        images: how many there were.
        bias: b, one number per class.
    """

    images: int
    bias: tuple[float, ...]

    def to_document(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"images": self.images, "bias": list(self.bias)}


def build_ensemble(
    files: Sequence[BranchFile],
    weights: Sequence[float],
    *,
    options: Options,
    scale: float,
    fitted: Fitted | None = None,
    made_by: str = __version__,
) -> bytes:
    """Return the bytes of the ensemble of these branch files, in the order given.

    Args:
        files: of one plan, each ``branch.box`` once, of bands that exist at its resolution.
        weights: one per file; what a robust rule does not read.
        options: layout, resolution, and the rule the weights came from.
        scale: a of the fusion.
        fitted: what came from a holdout beside the weights; without it the biases are 0.
        made_by: the version of edge-stl that is recorded as its maker.
    """
    plan = files[0].plan
    side, channels = options.side(plan), plan.input.channels
    graph = Graph()
    banks = _add_banks(graph, plan, files, options)
    rows, votes = [], []
    for file, weight in zip(files, weights, strict=True):
        member, prefix = file.manifest.member(), f"{file.manifest.id}/"
        logits = _add_branch(graph, plan, file, banks[native_in(file, options)])
        said = add_probabilities(graph, member, prefix=prefix, logits=logits)
        rows.append(said.row)
        if options.robust is None:
            votes.append(add_vote(graph, member, weight, said, prefix=prefix))
    if options.robust is None:
        bias = fitted.bias if fitted else None
        add_answer(graph, rows, votes, prior=class_prior(plan), bias=bias, scale=scale)
    else:
        members = [f.manifest.member() for f in files]
        add_median(graph, rows, members, prior=class_prior(plan))
    shape: list[str | int] = ["batch", side, side, channels]
    if options.layout == "nchw":
        shape = ["batch", channels, side, side]
    classes = len(plan.classes)
    return graph.model(
        name=plan.name,
        inputs=[value(names.ENSEMBLE_INPUT, TensorProto.UINT8, shape)],
        outputs=[
            value(names.PROBABILITIES, TensorProto.FLOAT, ["batch", classes]),
            value(names.BRANCH_PROBABILITIES, TensorProto.FLOAT, ["batch", len(files), classes]),
        ],
        metadata=_metadata(plan, files, weights, options, scale, fitted, made_by),
    )


def class_prior(plan: Plan) -> list[float]:
    """Return the share of each class that the plan assumes, uniform by default."""
    prior = plan.fusion.prior
    return [1.0 if prior is None else prior[name] for name in plan.classes]


def _add_banks(
    graph: Graph, plan: Plan, files: Sequence[BranchFile], options: Options
) -> dict[int, BankNodes]:
    pixels = graph.node("Cast", [names.ENSEMBLE_INPUT], "pixels", to=TensorProto.FLOAT)
    if options.layout == "nhwc":
        pixels = graph.node("Transpose", [pixels], "planes", perm=[0, 3, 1, 2])
    top = graph.constant("pixel.scale", np.array(PIXEL_SCALE, np.float32))
    pixels = graph.node("Div", [pixels, top], "unit")
    banks = {}
    for resolution in sorted({native_in(f, options) for f in files}):
        prefix = f"native{resolution}/"
        factor = options.side(plan) // resolution
        image = pixels
        if factor > 1:
            image = graph.node(
                "AveragePool",
                [pixels],
                f"{prefix}image",
                kernel_shape=[factor, factor],
                strides=[factor, factor],
            )
        wanted = {
            band
            for f in files
            if native_in(f, options) == resolution
            for band in plan.branch(f.manifest.branch).bands
        }
        banks[resolution] = BankNodes(
            graph,
            plan.bank,
            native_level=plan.native_level(resolution),
            bands=sorted(wanted, key=plan.bank.order),
            channels=plan.input.channels,
            resolution=resolution,
            input_name=image,
            prefix=prefix,
        )
    return banks


def _add_branch(graph: Graph, plan: Plan, file: BranchFile, bank: BankNodes) -> str:
    """Add a branch's network and return the value ``(N, K)`` of its logits."""
    branch = plan.branch(file.manifest.branch)
    prefix = f"{file.manifest.id}/"
    return add_network(
        graph,
        plan.layers(branch),
        file.parameters,
        channels=plan.band_channels(branch),
        size=plan.band_size(branch),
        input_name=bank.read(branch.bands, output=f"{prefix}{names.BRANCH_INPUT}"),
        prefix=prefix,
        output=f"{prefix}{names.BRANCH_OUTPUT}",
    )


def _metadata(
    plan: Plan,
    files: Sequence[BranchFile],
    weights: Sequence[float],
    options: Options,
    scale: float,
    fitted: Fitted | None,
    made_by: str,
) -> dict[str, str]:
    record: dict[str, Any] = {
        "plan": plan.to_document(),
        "plan_digest": plan.digest,
        "options": options.to_document(),
        "scale": scale,
        "made_by": made_by,
        "members": [
            {"manifest": f.manifest.to_document(), "sha256": f.sha256}
            | ({"weight": w} if options.robust is None else {})
            for f, w in zip(files, weights, strict=True)
        ],
    }
    if fitted:  # absent otherwise, so that ensembles without a holdout keep their bytes
        record["holdout"] = fitted.to_document()
    return {
        names.KEY_FORMAT: str(names.FORMAT),
        names.KEY_KIND: names.ENSEMBLE,
        names.KEY_CLASSES: canonical_json(list(plan.classes)),
        names.KEY_ENSEMBLE: canonical_json(record),
        # ONNX's own keys for image inputs
        "Image.BitmapPixelFormat": "Rgb8" if plan.input.channels == 3 else "Gray8",  # noqa: PLR2004
        "Image.ColorSpaceGamma": "SRGB",
        "Image.NominalPixelRange": "NominalRange_0_255",
    }

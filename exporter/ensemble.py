"""The ensemble graph: one model from ``uint8`` pixels to probabilities.

::

    image -> Cast -> (layout) -> / 255 -> per native resolution r: AveragePool, filter bank
          -> per branch file: network, temperature, prior -> fusion -> probabilities

A branch trained at native resolution r gets what its box had: the image area-averaged from R to r,
or resampled by the kernel that its box's camera shows (`exporter.cameras`), then the bank of r.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from onnx import TensorProto

from edge_stl import __version__
from edge_stl.bands import Kernel
from edge_stl.plan import Plan
from exporter import names
from exporter._analysis import BankNodes
from exporter._fusion_nodes import add_answer, add_member
from exporter._graph import Graph, value
from exporter._network import add_network
from exporter._resampling import add_resampling
from exporter.cameras import kernel_entry
from exporter.manifest import canonical_json
from exporter.read import BranchFile


Layout = Literal["nhwc", "nchw"]
PIXEL_SCALE = 255.0
Way = tuple[int, Kernel]
"""A native resolution, and the kernel that leads there."""


@dataclass(frozen=True)
class Options:
    """How branch files become an ensemble; stored in it, so that `--remove` can do it again."""

    weights: str = "reliability"
    layout: Layout = "nhwc"

    def to_document(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"weights": self.weights, "layout": self.layout}


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
        files: of one plan, each ``branch.box`` once.
        weights: one per file.
        options: layout and the rule the weights came from.
        scale: a of the fusion.
        fitted: what came from a holdout beside the weights; without it the biases are 0.
        made_by: the version of edge-stl that is recorded as its maker.
    """
    plan = files[0].plan
    side, channels = plan.input.resolution, plan.input.channels
    graph = Graph()
    banks = _add_banks(graph, plan, files, options.layout)
    rows, votes = [], []
    for file, weight in zip(files, weights, strict=True):
        row, vote = _add_branch(graph, plan, file, weight, banks[_way(file)])
        rows.append(row)
        votes.append(vote)
    bias = fitted.bias if fitted else None
    add_answer(graph, rows, votes, prior=class_prior(plan), bias=bias, scale=scale)
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
    graph: Graph, plan: Plan, files: Sequence[BranchFile], layout: Layout
) -> dict[Way, BankNodes]:
    pixels = graph.node("Cast", [names.ENSEMBLE_INPUT], "pixels", to=TensorProto.FLOAT)
    if layout == "nhwc":
        pixels = graph.node("Transpose", [pixels], "planes", perm=[0, 3, 1, 2])
    top = graph.constant("pixel.scale", np.array(PIXEL_SCALE, np.float32))
    pixels = graph.node("Div", [pixels, top], "unit")
    banks = {}
    for resolution, kernel in sorted({_way(f) for f in files}):
        prefix = f"native{resolution}/" if kernel == "area" else f"native{resolution}-{kernel}/"
        factor = plan.input.resolution // resolution
        image = pixels
        if kernel != "area":
            image = add_resampling(
                graph, pixels, kernel, fine=plan.input.resolution, coarse=resolution, prefix=prefix
            )
        elif factor > 1:
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
            if _way(f) == (resolution, kernel)
            for band in plan.branch(f.manifest.branch).bands
        }
        banks[resolution, kernel] = BankNodes(
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


def _way(file: BranchFile) -> Way:
    return file.manifest.native_resolution, file.kernel


def _add_branch(
    graph: Graph, plan: Plan, file: BranchFile, weight: float, bank: BankNodes
) -> tuple[str, str]:
    branch = plan.branch(file.manifest.branch)
    prefix = f"{file.manifest.id}/"
    logits = add_network(
        graph,
        plan.layers(branch),
        file.parameters,
        channels=plan.band_channels(branch),
        size=plan.band_size(branch),
        input_name=bank.read(branch.bands, output=f"{prefix}{names.BRANCH_INPUT}"),
        prefix=prefix,
        output=f"{prefix}{names.BRANCH_OUTPUT}",
    )
    return add_member(graph, file.manifest.member(), weight, prefix=prefix, logits=logits)


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
            {"manifest": f.manifest.to_document(), "sha256": f.sha256, "weight": w}
            | kernel_entry(f)
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

"""The ensemble graph: one model from ``uint8`` pixels to probabilities.

::

    image -> Cast -> (layout) -> / 255 -> per native resolution r: AveragePool, filter bank
          -> per branch file: network, temperature, prior -> fusion -> probabilities

A branch trained at native resolution r gets exactly what its box had: the image area-averaged
from R to r, then the bank of r.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from onnx import TensorProto

from edge_stl import __version__
from edge_stl.fusion import stage_factors
from edge_stl.plan import Plan
from edge_stl.plan.networks import multiply_adds
from exporter import names
from exporter._analysis import BankNodes
from exporter._cascade import Pooling, add_cascade, stages_of
from exporter._fusion_nodes import add_answer, add_member
from exporter._graph import Graph, value
from exporter._network import add_network
from exporter.manifest import canonical_json
from exporter.read import BranchFile


Layout = Literal["nhwc", "nchw"]
PIXEL_SCALE = 255.0


@dataclass(frozen=True)
class Options:
    """How branch files become an ensemble; stored in it, so that `--remove` can do it again.

    Attributes:
        weights: the rule.
        layout: order of the input's axes.
        threshold: of a cascade, 0..1, where it was named.
        cascade_loss: accuracy that a cascade may lose on the holdout, 0..1, where its threshold
            comes from there. With neither there is no cascade; both together cannot be.
    """

    weights: str = "reliability"
    layout: Layout = "nhwc"
    threshold: float | None = None
    cascade_loss: float | None = None

    @property
    def cascade(self) -> bool:
        """Return whether the ensemble is a cascade."""
        return self.threshold is not None or self.cascade_loss is not None

    def to_document(self) -> dict[str, Any]:
        """Return plain JSON values; what is not used is left out, so that old bytes stay."""
        document: dict[str, Any] = {"weights": self.weights, "layout": self.layout}
        if self.threshold is not None:
            document["threshold"] = self.threshold
        if self.cascade_loss is not None:
            document["cascade_loss"] = self.cascade_loss
        return document


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


@dataclass(frozen=True)
class Cascade:
    """What a cascade keeps of how its threshold came to be.

    Attributes:
        threshold: above which a coarse answer is sure enough, 0..1.
        images: of the holdout that it was chosen on; none where it was named.
    """

    threshold: float
    images: int | None = None

    def to_document(self) -> dict[str, Any]:
        """Return plain JSON values."""
        document: dict[str, Any] = {"threshold": self.threshold}
        if self.images is not None:
            document["images"] = self.images
        return document


def cascade_in(record: dict[str, Any], options: Options) -> Cascade | None:
    """Return what an ensemble's record keeps of its cascade.

    Raises:
        KeyError: there is nothing, and the options ask for a cascade.
        TypeError: a number is none.
        ValueError: it is there without such options, or its numbers cannot be.
    """
    if not options.cascade:
        if "cascade" in record:
            raise ValueError("a cascade, but no option that asks for one")
        return None
    kept = record["cascade"]
    threshold, images = float(kept["threshold"]), kept.get("images")
    chosen = options.cascade_loss is not None
    sound = math.isfinite(threshold) and 0 <= threshold <= 1
    named = chosen or threshold == options.threshold
    if not sound or not named or chosen != (images is not None and int(images) > 0):
        raise ValueError(f"a cascade with threshold {threshold}, from {images} images")
    return Cascade(threshold, None if images is None else int(images))


def build_ensemble(
    files: Sequence[BranchFile],
    weights: Sequence[float],
    *,
    options: Options,
    scale: float,
    fitted: Fitted | None = None,
    cascade: Cascade | None = None,
    made_by: str = __version__,
) -> bytes:
    """Return the bytes of the ensemble of these branch files, in the order given.

    Args:
        files: of one plan, each ``branch.box`` once.
        weights: one per file.
        options: layout and the rule the weights came from.
        scale: a of the fusion.
        fitted: what came from a holdout beside the weights; without it the biases are 0.
        cascade: makes the finer branches wait until the coarse ones are not sure.
        made_by: the version of edge-stl that is recorded as its maker.
    """
    plan = files[0].plan
    side, channels = plan.input.resolution, plan.input.channels
    graph = Graph()
    pixels = _add_pixels(graph, options.layout)
    work: dict[int, int] = {}

    def add_members(where: Graph, index: Sequence[int], prefix: str) -> list[tuple[str, str]]:
        """Add some files and the banks that they read; return row and vote of each."""
        some = [files[i] for i in index]
        banks = _add_banks(where, plan, some, pixels, prefix)
        work[index[0]] = sum(b.multiply_adds for b in banks.values()) + sum(map(_work, some))
        return [
            _add_branch(where, plan, f, weights[i], banks[f.manifest.native_resolution])
            for i, f in zip(index, some, strict=True)
        ]

    prior, bias = class_prior(plan), fitted.bias if fitted else None
    stages = stages_of(files) if cascade else ()
    if cascade:
        members = [f.manifest.member() for f in files]
        factors = stage_factors(members, weights, [stage.members for stage in stages])
        pooling = Pooling(prior, bias, [scale * factor for factor in factors])
        add_cascade(graph, stages, add_members, pooling, threshold=cascade.threshold)
    else:
        rows, votes = zip(*add_members(graph, range(len(files)), ""), strict=True)
        add_answer(graph, rows, votes, prior=prior, bias=bias, scale=scale)
    shape: list[str | int] = ["batch", side, side, channels]
    if options.layout == "nchw":
        shape = ["batch", channels, side, side]
    classes = len(plan.classes)
    record = _record(plan, files, weights, options, scale, made_by)
    if fitted:  # absent otherwise, so that ensembles without a holdout keep their bytes
        record["holdout"] = fitted.to_document()
    if cascade:
        record["cascade"] = cascade.to_document() | {
            "stages": [
                {
                    "resolution": stage.resolution,
                    "branches": [files[i].manifest.id for i in stage.members],
                    "multiply_adds": work[stage.members[0]],
                }
                for stage in stages
            ]
        }
    return graph.model(
        name=plan.name,
        inputs=[
            value(names.ENSEMBLE_INPUT, TensorProto.UINT8, shape),
            *([value(names.THRESHOLD, TensorProto.FLOAT, [])] if cascade else []),
        ],
        outputs=[
            value(names.PROBABILITIES, TensorProto.FLOAT, ["batch", classes]),
            value(names.BRANCH_PROBABILITIES, TensorProto.FLOAT, ["batch", len(files), classes]),
        ],
        metadata=_metadata(plan, record),
    )


def class_prior(plan: Plan) -> list[float]:
    """Return the share of each class that the plan assumes, uniform by default."""
    prior = plan.fusion.prior
    return [1.0 if prior is None else prior[name] for name in plan.classes]


def _add_pixels(graph: Graph, layout: Layout) -> str:
    """Add what turns the input into ``(N, C, R, R)`` float32 in 0..1."""
    pixels = graph.node("Cast", [names.ENSEMBLE_INPUT], "pixels", to=TensorProto.FLOAT)
    if layout == "nhwc":
        pixels = graph.node("Transpose", [pixels], "planes", perm=[0, 3, 1, 2])
    top = graph.constant("pixel.scale", np.array(PIXEL_SCALE, np.float32))
    return graph.node("Div", [pixels, top], "unit")


def _add_banks(
    graph: Graph, plan: Plan, files: Sequence[BranchFile], pixels: str, prefix: str
) -> dict[int, BankNodes]:
    """Add one bank per native resolution of these files; names begin with ``prefix``."""
    banks = {}
    for resolution in sorted({f.manifest.native_resolution for f in files}):
        own = f"{prefix}native{resolution}/"
        factor = plan.input.resolution // resolution
        image = pixels
        if factor > 1:
            image = graph.node(
                "AveragePool",
                [pixels],
                f"{own}image",
                kernel_shape=[factor, factor],
                strides=[factor, factor],
            )
        wanted = {
            band
            for f in files
            if f.manifest.native_resolution == resolution
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
            prefix=own,
        )
    return banks


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


def _work(file: BranchFile) -> int:
    """Return the multiply-adds of a branch's network for one image."""
    plan = file.plan
    branch = plan.branch(file.manifest.branch)
    return multiply_adds(
        plan.layers(branch), channels=plan.band_channels(branch), size=plan.band_size(branch)
    )


def _record(
    plan: Plan,
    files: Sequence[BranchFile],
    weights: Sequence[float],
    options: Options,
    scale: float,
    made_by: str,
) -> dict[str, Any]:
    return {
        "plan": plan.to_document(),
        "plan_digest": plan.digest,
        "options": options.to_document(),
        "scale": scale,
        "made_by": made_by,
        "members": [
            {"manifest": f.manifest.to_document(), "sha256": f.sha256, "weight": w}
            for f, w in zip(files, weights, strict=True)
        ],
    }


def _metadata(plan: Plan, record: dict[str, Any]) -> dict[str, str]:
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

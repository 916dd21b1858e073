"""The ensemble graph: one model from ``uint8`` pixels to probabilities.

::

    image -> Cast -> (layout) -> / 255 -> per native resolution r: AveragePool, filter bank
          -> per branch file: network, temperature, prior -> fusion -> probabilities

A branch trained at native resolution r gets what its box had: the image area-averaged from R to r,
or resampled by the kernel that its box's camera shows (`exporter.cameras`), then the bank of r. An
ensemble for coarser cameras has their resolution in place of R, and a branch of a finer box the
bank of that resolution.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto

from edge_stl import __version__
from edge_stl.bands import Kernel
from edge_stl.errors import MergeRefused
from edge_stl.fusion import stage_factors
from edge_stl.gate import RECORD_CAPS, Refused, strict_json
from edge_stl.plan import Plan
from edge_stl.plan.networks import multiply_adds
from exporter import names
from exporter._analysis import BankNodes
from exporter._cascade import Pooling, add_cascade, stages_of
from exporter._fusion_nodes import add_answer, add_probabilities, add_vote
from exporter._graph import Graph, value
from exporter._median_nodes import add_median
from exporter._resampling import add_resampling
from exporter.branch import add_branch_network, build_branch
from exporter.cameras import kernel_entry
from exporter.manifest import canonical_json
from exporter.options import Cascade, Layout, Options, native_in
from exporter.own_shapes import cost_of
from exporter.read import BranchFile
from exporter.signed import signed_entry


PIXEL_SCALE = 255.0
Way = tuple[int, Kernel]
"""A native resolution, and the kernel that leads there."""

Weights = Sequence[Sequence[float]]
"""Per branch file K weights, one per class; 0 where the file does not speak for it."""

Vector = tuple[float, ...]
"""What an ensemble answers to its own test image, one probability per class; `exporter.vector`."""


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
    weights: Weights,
    *,
    options: Options,
    scale: float,
    fitted: Fitted | None = None,
    cascade: Cascade | None = None,
    audit: dict[str, Any] | None = None,
    vector: Vector | None = None,
    made_by: str = __version__,
) -> bytes:
    """Return the bytes of the ensemble of these branch files, in the order given.

    Args:
        files: of one plan, each ``branch.box`` once, of bands that exist at its resolution.
        weights: K per file; what a robust rule does not read.
        options: layout, resolution, and the rule the weights came from.
        scale: a of the fusion.
        fitted: what came from a holdout beside the weights; without it the biases are 0.
        cascade: makes the finer branches wait until the coarse ones are not sure.
        audit: who is in quarantine and who was kept in spite of a holdout, for the record.
        vector: what it answers to its test image; a file to be handed out has one.
        made_by: the version of edge-stl that is recorded as its maker.
    """
    plan = files[0].plan
    side, channels = options.side(plan), plan.input.channels
    graph = Graph()
    pixels = _add_pixels(graph, options.layout)
    work: dict[int, int] = {}

    def add_members(where: Graph, index: Sequence[int], prefix: str) -> list[tuple[str, str]]:
        """Add some files and the banks that they read; return row and vote of each."""
        some = [files[i] for i in index]
        banks = _add_banks(where, plan, some, options, pixels, prefix)
        if cascade:
            work[index[0]] = sum(b.multiply_adds for b in banks.values()) + sum(map(_work, some))
        return [
            _add_branch(where, plan, f, weights[i], options, banks[_way(f, options)])
            for i, f in zip(index, some, strict=True)
        ]

    members = [f.manifest.member() for f in files]
    prior, bias = class_prior(plan), fitted.bias if fitted else None
    stages = stages_of(files) if cascade else ()
    if cascade:
        *coarse, _ = stage_factors(np.array(weights), [stage.members for stage in stages])
        pooling = Pooling(prior, bias, [*(scale * factor for factor in coarse), scale])
        add_cascade(graph, stages, add_members, pooling, threshold=cascade.threshold)
    else:
        rows, votes = zip(*add_members(graph, range(len(files)), ""), strict=True)
        if options.robust is None:
            add_answer(graph, rows, votes, prior=prior, bias=bias, scale=scale)
        else:
            add_median(graph, rows, members, prior=prior)
    shape: list[str | int] = ["batch", side, side, channels]
    if options.layout == "nchw":
        shape = ["batch", channels, side, side]
    classes = len(plan.classes)
    record = _record(plan, files, weights, options, scale, made_by)
    graphs = [f.manifest.id for f in files if f.own is not None]
    if graphs:  # absent otherwise, as what follows
        record["graphs"] = graphs
    if fitted:  # absent otherwise, so that ensembles without a holdout keep their bytes
        record["holdout"] = fitted.to_document()
    if audit:
        record["audit"] = audit
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
        metadata=_metadata(plan, record, vector),
    )


def class_prior(plan: Plan) -> list[float]:
    """Return the share of each class that the plan assumes, uniform by default."""
    prior = plan.fusion.prior
    return [1.0 if prior is None else prior[name] for name in plan.classes]


def _add_pixels(graph: Graph, layout: Layout) -> str:
    """Add what turns the input into ``(N, C, r, r)`` float32 in 0..1."""
    pixels = graph.node("Cast", [names.ENSEMBLE_INPUT], "pixels", to=TensorProto.FLOAT)
    if layout == "nhwc":
        pixels = graph.node("Transpose", [pixels], "planes", perm=[0, 3, 1, 2])
    top = graph.constant("pixel.scale", np.array(PIXEL_SCALE, np.float32))
    return graph.node("Div", [pixels, top], "unit")


def _add_banks(
    graph: Graph,
    plan: Plan,
    files: Sequence[BranchFile],
    options: Options,
    pixels: str,
    prefix: str,
) -> dict[Way, BankNodes]:
    """Add one bank per way to a native resolution; names begin with ``prefix``."""
    banks = {}
    side = options.side(plan)
    for resolution, kernel in sorted({_way(f, options) for f in files}):
        own = f"{prefix}native{resolution}{'' if kernel == 'area' else f'-{kernel}'}/"
        factor = side // resolution
        image = pixels
        if kernel != "area":
            image = add_resampling(graph, pixels, kernel, fine=side, coarse=resolution, prefix=own)
        elif factor > 1:
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
            if _way(f, options) == (resolution, kernel)
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
            prefix=own,
        )
    return banks


def _way(file: BranchFile, options: Options) -> Way:
    """Return how the ensemble makes what a branch reads; at its own input's size nothing is."""
    resolution = native_in(file, options)
    return resolution, "area" if resolution == options.side(file.plan) else file.kernel


def _add_branch(
    graph: Graph,
    plan: Plan,
    file: BranchFile,
    weights: Sequence[float],
    options: Options,
    bank: BankNodes,
) -> tuple[str, str]:
    """Add a branch; return its row ``(N, 1, K)`` and its vote ``(N, K)``, none under a median."""
    branch, member = plan.branch(file.manifest.branch), file.manifest.member()
    prefix = f"{file.manifest.id}/"
    bands = bank.read(branch.bands, output=f"{prefix}{names.BRANCH_INPUT}")
    logits = add_branch_network(
        graph, plan, branch, file.parameters, file.own, input_name=bands, prefix=prefix
    )
    said = add_probabilities(graph, member, prefix=prefix, logits=logits)
    if options.robust is not None:
        return said.row, ""
    return said.row, add_vote(graph, member, weights, said, prefix=prefix)


def _work(file: BranchFile) -> int:
    """Return the multiply-adds of a branch's network for one image."""
    plan = file.plan
    branch = plan.branch(file.manifest.branch)
    if file.own is not None:
        data = build_branch(file.manifest, plan, file.parameters, file.own)
        return cost_of(data, classes=len(plan.classes)).multiply_adds
    return multiply_adds(
        plan.layers(branch), channels=plan.band_channels(branch), size=plan.band_size(branch)
    )


def _record(
    plan: Plan,
    files: Sequence[BranchFile],
    weights: Weights,
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
            {"manifest": f.manifest.to_document(), "sha256": f.sha256}
            | ({"weights": list(w)} if options.robust is None else {})
            | kernel_entry(f)
            | signed_entry(f)
            for f, w in zip(files, weights, strict=True)
        ],
    }


def _metadata(plan: Plan, record: dict[str, Any], vector: Vector | None) -> dict[str, str]:
    text = canonical_json(record)
    try:
        strict_json(text, RECORD_CAPS)
    except Refused as verdict:
        raise MergeRefused(
            f"merge: nobody could read the ensemble's record: {verdict}. Merge fewer files at once"
        ) from None
    own = {} if vector is None else {names.KEY_VECTOR: canonical_json(list(vector))}
    return own | {
        names.KEY_FORMAT: str(names.FORMAT),
        names.KEY_KIND: names.ENSEMBLE,
        names.KEY_CLASSES: canonical_json(list(plan.classes)),
        names.KEY_ENSEMBLE: text,
        # ONNX's own keys for image inputs
        "Image.BitmapPixelFormat": "Rgb8" if plan.input.channels == 3 else "Gray8",  # noqa: PLR2004
        "Image.ColorSpaceGamma": "SRGB",
        "Image.NominalPixelRange": "NominalRange_0_255",
    }

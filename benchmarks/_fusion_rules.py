"""The ways to fuse that ``benchmarks.fusion`` compares: every one a function of what a desk knows.

A rule turns a fleet's logits into scores ``(N, K)``, and the answer is the highest. The formula of
`edge_stl.fusion` is one of them, written there; the others are written here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge_stl.fusion import (
    CLIP,
    Member,
    calibration_scale,
    evidence,
    fuse,
    geometric_weights,
    log_prior,
    member_probabilities,
    reliability,
    reliability_weights,
    softmax,
    uniform_weights,
)
from edge_stl.fusion._weights import DOUBT


Array = NDArray[np.float64]
Logits = Sequence[NDArray[np.float32]]
Rule = Callable[[Logits, Sequence[Member]], Array]
"""Logits ``(N, K)`` per member, the members; gives scores ``(N, K)``."""


@dataclass(frozen=True)
class Evidence:
    """What a branch says of a class.

    Attributes:
        form: ``log-odds``, ``log`` (of p: log pooling), ``linear`` (p itself), ``sigmoid`` (the
            logit taken as the log-odds against the rest, as one-vs-rest training means it).
        divide: divide the box's own class mix out.
        clip: no p above ``1 - clip`` or below ``clip``.
        absent: what a box says of a class it never saw: nothing, or ``p = 0`` like the rest.
    """

    form: Literal["log-odds", "log", "linear", "sigmoid"] = "log-odds"
    divide: bool = True
    clip: float = CLIP
    absent: Literal["nothing", "zero"] = "nothing"

    def of(self, logits: NDArray[np.float32], member: Member) -> Array:
        """Return evidence ``(N, K)``."""
        seen = list(member.seen)
        out = np.zeros(logits.shape)
        if self.form == "sigmoid":
            if not member.speaks:  # no rest that its class could be told apart from
                return out
            shares = np.exp(log_prior(member.counts))
            odds = logits[:, seen] - (np.log(shares / (1 - shares)) if self.divide else 0)
            limit = np.log((1 - self.clip) / self.clip)
            out[:, seen] = np.clip(odds, -limit, limit)
            return out
        if self.divide:
            p = member_probabilities(logits, member)
        else:
            p = np.zeros(logits.shape)
            p[:, seen] = softmax(logits[:, seen].astype(np.float64) / member.temperature)
        if self.form == "log-odds":
            return evidence(p, member.seen, clip=self.clip)
        spoken = list(range(logits.shape[1])) if self.absent == "zero" else seen
        value = p if self.form == "linear" else np.log(np.clip(p, self.clip, 1))
        out[:, spoken] = value[:, spoken]
        return out


@dataclass(frozen=True)
class Adding:
    """How the evidence of all branches becomes one score per class.

    Attributes:
        trust: exponent of a box's reliability r, 0 is not at all.
        doubt: validation images at chance that are added before r is taken.
        images: exponent of the box's training images of the class, 0 is not at all.
        over: ``sum`` over all branches; ``mean`` over those whose box saw the class; ``root``, in
            between: over the square root of their weight.
    """

    trust: float = 0.5
    doubt: float = DOUBT
    images: float = 0.5
    over: Literal["sum", "mean", "root"] = "mean"

    def scores(self, votes: Sequence[Array], members: Sequence[Member]) -> Array:
        """Return scores ``(N, K)`` of the evidence ``(N, K)`` of every branch."""
        counts = np.array([m.counts for m in members], dtype=np.float64)
        r = np.array([reliability(m, doubt=self.doubt) for m in members])
        speaks = (counts > 0) & np.array([m.speaks for m in members])[:, None]
        every = r[:, None] ** self.trust * np.maximum(counts, 1) ** self.images
        # Where nobody who speaks for a class is above chance, they count alike, as in the product.
        every = np.where((speaks * every).any(axis=0), every, 1.0)
        # A sum takes all that is said, as of a class never seen where that counts as p = 0.
        weights = every if self.over == "sum" else speaks * every
        cover = weights.sum(axis=0)
        over = {
            "sum": np.ones_like(cover),
            "mean": cover,
            "root": np.sqrt(cover * cover.max()),
        }[self.over]
        total = np.sum([w * v for w, v in zip(weights, votes, strict=True)], axis=0)
        scores: Array = np.divide(total, over, out=np.zeros_like(total), where=over > 0)
        return scores


def rule(said: Evidence | None = None, adding: Adding | None = None) -> Rule:
    """Return the rule of an evidence and a way to add it."""
    chosen, way = said or Evidence(), adding or Adding()

    def scores(logits: Logits, members: Sequence[Member]) -> Array:
        votes = [chosen.of(z, m) for z, m in zip(logits, members, strict=True)]
        return way.scores(votes, members)

    return scores


def product(weigh: Callable[[Sequence[Member]], Array]) -> Rule:
    """Return a rule of `edge_stl.fusion`, with its scale."""

    def scores(logits: Logits, members: Sequence[Member]) -> Array:
        weights = weigh(members)
        return np.log(fuse(logits, members, weights, scale=calibration_scale(weights))[0])

    return scores


_EQUAL = Adding(trust=0, images=0)
_SUM = Adding(trust=0, images=0, over="sum")
_ROOT = Adding(trust=0, images=0, over="root")

DEFAULT = "**reliability** (the default)"

RULES: dict[str, Rule] = {
    DEFAULT: product(reliability_weights),
    "uniform": product(uniform_weights),
    "geometric": product(geometric_weights),
    # What a branch says of a class. All boxes equal, so that only this differs.
    "log-odds, mean": rule(adding=_EQUAL),
    "log-odds, mean, priors left in": rule(Evidence(divide=False), _EQUAL),
    "log-odds, mean, one-vs-rest logits": rule(Evidence("sigmoid"), _EQUAL),
    "log pooling, all classes": rule(Evidence("log", absent="zero"), _SUM),
    "log pooling, all classes, priors left in": rule(
        Evidence("log", divide=False, absent="zero"), _SUM
    ),
    # A class that a box never saw keeps p = 1 there: the kindest way to read log pooling.
    "log pooling over the classes seen, sum": rule(Evidence("log"), _SUM),
    "log pooling over the classes seen, sum, priors left in": rule(
        Evidence("log", divide=False), _SUM
    ),
    "log pooling over the classes seen, mean": rule(Evidence("log"), _EQUAL),
    "linear pooling": rule(Evidence("linear"), _SUM),
    "linear pooling, priors left in": rule(Evidence("linear", divide=False), _SUM),
    "linear pooling over the boxes that saw the class": rule(Evidence("linear"), _EQUAL),
    # How it is added over the boxes that saw the class.
    "log-odds, sum": rule(adding=_SUM),
    "log-odds, square root": rule(adding=_ROOT),
    # Clipping.
    **{
        f"reliability, clip {clip:g}": rule(Evidence(clip=clip))
        for clip in (0.1, 0.03, 0.001, 0.0001)
    },
    # Weights: exponents of reliability and of the images of the class, doubt.
    **{
        f"r^{trust:g} n^{images:g}": rule(adding=Adding(trust=trust, images=images))
        for trust in (0, 0.5, 1, 2)
        for images in (0, 0.5, 1)
        if (trust, images) != (0, 0)
    },
    **{
        f"r^{trust:g} n^0.5, doubt {doubt}": rule(adding=Adding(trust=trust, doubt=doubt))
        for trust in (0.5, 1)
        for doubt in (1, 30, 300)
    },
    "r^0.5 n^0.5, sum": rule(adding=Adding(over="sum")),
    "r^0.5 n^0.5, square root": rule(adding=Adding(over="root")),
}
"""What is compared, by name; the scores of those that are not the product's are scaled to fit."""

"""How the branches' outputs become one answer: the oracle of the merged graph.

With ``z_k`` the logits of branch file k, ``S_k`` the classes its box trained on and ``n_kc`` its
training images of class c::

    p_k(c)        = exp(z_kc / T_k) / prior_k(c), normalized over S_k
    prior_k(c)    = (n_kc + 1) / (n_k + |S_k|)
    evidence_k(c) = log(q / (1 - q)),  q = clip(p_k(c), e, 1 - e)       for c in S_k, else 0
    score(c)      = log prior(c) + b(c) + a * sum_k w_kc * evidence_k(c)
    probabilities = softmax(score)

The weights of a class sum to 1 over those who saw it: a class is judged by the mean of what is
said of it, however many boxes saw it. A box with a single class adds no evidence: it never saw
anything that the class could be told apart from. `exporter` builds the same formulas as ONNX nodes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


CLIP = 0.01
"""e: no branch's belief counts as more than 0.99 or less than 0.01."""


@dataclass(frozen=True)
class Member:
    """What the fusion needs to know of one branch file.

    Attributes:
        branch: name of the branch in the plan.
        box: id of the box that trained it.
        counts: training images per class, ``K`` numbers; 0 where the box never saw the class.
        temperature: T > 0, fitted on the box's validation images.
        log_loss: L, the mean over seen classes of the per-class mean of ``-log p``, in nats.
        validation: images that L was measured on; infinite where L is to be taken as exact.
    """

    branch: str
    box: str
    counts: tuple[int, ...]
    temperature: float
    log_loss: float
    validation: float = math.inf

    @property
    def seen(self) -> tuple[int, ...]:
        """Return the indices of the classes the box trained on."""
        return tuple(c for c, n in enumerate(self.counts) if n > 0)

    @property
    def speaks(self) -> bool:
        """Return whether the box has anything to tell its classes apart from."""
        return len(self.seen) > 1

    @property
    def images(self) -> int:
        """Return the number of training images."""
        return sum(self.counts)


def log_prior(counts: Sequence[int]) -> NDArray[np.float64]:
    """Return ``log prior_k`` over the seen classes, ``(|S_k|,)`` float64."""
    seen = np.array([n for n in counts if n > 0], dtype=np.float64)
    shares: NDArray[np.float64] = np.log((seen + 1) / (seen.sum() + seen.size))
    return shares


def member_probabilities(logits: NDArray[np.floating], member: Member) -> NDArray[np.float64]:
    """Return ``p_k``, ``(N, K)`` float64 with exact zeros for classes the box never saw.

    Args:
        logits: ``(N, K)``.
        member: whose logits they are.
    """
    seen = list(member.seen)
    scores = logits[:, seen].astype(np.float64) / member.temperature - log_prior(member.counts)
    out = np.zeros(logits.shape, dtype=np.float64)
    out[:, seen] = softmax(scores)
    return out


def evidence(
    probabilities: NDArray[np.floating], seen: Sequence[int], *, clip: float = CLIP
) -> NDArray[np.float64]:
    """Return clipped log-odds over the seen classes, ``(N, K)`` float64, 0 elsewhere."""
    out = np.zeros(probabilities.shape, dtype=np.float64)
    if len(seen) > 1:
        q = np.clip(probabilities[:, list(seen)].astype(np.float64), clip, 1 - clip)
        out[:, list(seen)] = np.log(q / (1 - q))
    return out


def fuse(
    logits: Sequence[NDArray[np.floating]],
    members: Sequence[Member],
    weights: ArrayLike,
    *,
    prior: NDArray[np.floating] | None = None,
    bias: NDArray[np.floating] | None = None,
    scale: float | NDArray[np.floating] = 1.0,
    clip: float = CLIP,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fuse the logits of all branch files.

    Args:
        logits: one ``(N, K)`` array per member.
        members: in the same order.
        weights: w, ``(members, K)``; what stands at a class that a box never saw counts nothing.
        prior: ``(K,)`` shares of the classes, by default uniform.
        bias: b, ``(K,)``, by default 0.
        scale: a; one for all classes, or ``(K,)``.
        clip: e.

    Returns:
        ``probabilities (N, K)`` and ``branch_probabilities (N, members, K)``, float64.
    """
    classes = len(members[0].counts)
    share = np.full(classes, 1 / classes) if prior is None else np.asarray(prior, np.float64)
    score = np.log(share / share.sum()) + (0.0 if bias is None else bias)
    each = [member_probabilities(z, m) for z, m in zip(logits, members, strict=True)]
    for p, member, own in zip(each, members, np.asarray(weights, np.float64), strict=True):
        score = score + scale * own * evidence(p, member.seen, clip=clip)
    return softmax(np.broadcast_to(score, each[0].shape)), np.stack(each, axis=1)


def largest_change(weights: ArrayLike, *, scale: float = 1.0, clip: float = CLIP) -> float:
    """Return by how much a branch file can move any probability, whatever it says.

    The log-odds between classes c and d move by at most ``a (w_c + w_d) log((1 - e) / e)`` against
    the same graph with the branch silent, hence a probability by at most ``tanh`` of a quarter of
    that; the two classes where it weighs most give the bound.

    Args:
        weights: its w, ``(K,)``.
        scale: a.
        clip: e.
    """
    most = float(np.sort(np.asarray(weights, dtype=np.float64))[-2:].sum())
    return math.tanh(scale * most * math.log((1 - clip) / clip) / 4)


def softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return softmax over the last axis."""
    exponent = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares: NDArray[np.float64] = exponent / exponent.sum(axis=-1, keepdims=True)
    return shares

"""The median over the boxes: what is left when one box may be hostile.

With ``p_k`` as in the weighted fusion, and ``F_b`` the branch files of box b::

    p_b(c)        = mean of p_k(c) over the k in F_b that saw c
    m(c)          = median of p_b(c) over the boxes b that saw c; 1 / K where none did
    score(c)      = log prior(c) + log max(m(c), MEDIAN_FLOOR)
    probabilities = softmax(score), which is prior(c) * m(c), normalized

The median of an even number is the mean of the two middle values. A box speaks once, however many
files it sends: its files are averaged first. A file of a single class says nothing, as everywhere:
its p is 1 whatever the image. Nothing is weighted, so nobody gains by praising himself.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_stl.fusion._pool import Member, member_probabilities, softmax


MEDIAN_FLOOR = 1e-6
"""Where boxes agree on nothing, all medians may be 0: the answer is then the prior, not 0 / 0."""


def voters(members: Sequence[Member]) -> dict[str, NDArray[np.bool_]]:
    """Return per box, by name, which of its files speak of which class, ``(members, K)``.

    Args:
        members: the branch files, in order; rows of other boxes' files are all false.
    """
    said = np.array([[n > 0 and len(m.seen) > 1 for n in m.counts] for m in members])
    boxes = [m.box for m in members]
    return {
        box: said & np.array([b == box for b in boxes])[:, None]
        for box in sorted(set(boxes))
        if said[[b == box for b in boxes]].any()
    }


def fuse_median(
    logits: Sequence[NDArray[np.floating]],
    members: Sequence[Member],
    *,
    prior: NDArray[np.floating] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fuse the logits of all branch files by the median over their boxes.

    Args:
        logits: one ``(N, K)`` array per member.
        members: in the same order.
        prior: ``(K,)`` shares of the classes, by default uniform.

    Returns:
        ``probabilities (N, K)`` and ``branch_probabilities (N, members, K)``, float64.
    """
    each = np.stack(
        [member_probabilities(z, m) for z, m in zip(logits, members, strict=True)], axis=1
    )
    return median_answers(each, members, prior=prior), each


def median_answers(
    branch_probabilities: NDArray[np.floating],
    members: Sequence[Member],
    *,
    prior: NDArray[np.floating] | None = None,
) -> NDArray[np.float64]:
    """Return the probabilities ``(N, K)`` float64 that branch probabilities come to.

    Args:
        branch_probabilities: ``(N, members, K)``.
        members: in the same order.
        prior: ``(K,)`` shares of the classes, by default uniform.
    """
    p = np.asarray(branch_probabilities, dtype=np.float64)
    classes = p.shape[2]
    share = np.full(classes, 1 / classes) if prior is None else np.asarray(prior, np.float64)
    speaks = voters(members)
    middle = np.full((len(p), classes), 1 / classes)
    for c in range(classes):
        heard = [p[:, own[:, c], c].mean(axis=1) for own in speaks.values() if own[:, c].any()]
        if heard:
            middle[:, c] = np.median(heard, axis=0)
    return softmax(np.log(share / share.sum()) + np.log(np.maximum(middle, MEDIAN_FLOOR)))

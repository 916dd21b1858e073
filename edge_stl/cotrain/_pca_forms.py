"""One step of PCA compression for some layers, in three forms, and the refresh of a basis.

A form is a generator: it yields what the workers reduce together and is sent the result, so the
same arithmetic runs in one process and in a hook of DistributedDataParallel. The state of a layer
changes after the last collective only, so a step that breaks off leaves it whole. Whatever decides
how much is sent comes from reduced or broadcast numbers, which are the same at all workers.

A gradient that is not finite comes out as not finite everywhere, as it does from an all-reduce (a
gradient scaler looks for that), and leaves error and basis as they were.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edge_stl.cotrain._collective import Collective, Kind
from edge_stl.cotrain._pca_settings import PCASettings


Means = Generator[Collective, Tensor, list[Tensor]]
"""The collectives of a step; it returns the mean gradient ``(a, b)`` of every layer."""
_TAG = 0x504341  # keeps the draws apart from those of other methods


@dataclass
class Slot:
    """What a worker keeps of one layer.

    Attributes:
        index: place among the parameters, for the draws.
        rows: a of the layer's matrix ``(a, b)``.
        columns: b.
        rank: r; 0: the layer travels whole.
        error: ``(a, b)`` float32 that could not be sent yet; None: nothing.
        basis: ``(b, r)`` float32 with orthonormal columns, the same at all workers; None: none yet.
    """

    index: int
    rows: int
    columns: int
    rank: int
    error: Tensor | None = None
    basis: Tensor | None = None

    def begin(self, settings: PCASettings, step: int, like: Tensor) -> Tensor:
        """Return the basis to begin a step with, drawn where there is none."""
        if self.basis is not None:
            return self.basis
        draws = np.random.default_rng([settings.seed, _TAG, self.index, step])
        drawn = draws.standard_normal((self.columns, self.rank), dtype=np.float32)
        return orthonormal(torch.from_numpy(drawn).to(like.device))


def orthonormal(matrix: Tensor) -> Tensor:
    """Return ``(n, r)`` with orthonormal columns that span those of a matrix, r at most n.

    By Householder QR in the precision given, at least float32: a column that is zero or depends on
    the others becomes some unit vector, never NaN.
    """
    q: Tensor = torch.linalg.qr(matrix).Q
    return q.contiguous()


def principal(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the squared singular values of ``(a, b)``, falling, and left or right vectors.

    Taken from the Gram matrix of the shorter side in float64, which keeps the accuracy that
    float32 has. The vectors are ``(min(a, b), min(a, b))``, for `right`.
    """
    double = matrix.double()
    gram = double @ double.T if matrix.shape[0] <= matrix.shape[1] else double.T @ double
    values, vectors = torch.linalg.eigh(gram)
    return values.clamp(min=0).flip(0), vectors.flip(1)


def right(matrix: Tensor, vectors: Tensor, rank: int) -> Tensor:
    """Return the first right singular vectors ``(b, rank)`` float32, from `principal`."""
    first = vectors[:, :rank]
    if matrix.shape[0] <= matrix.shape[1]:
        first = orthonormal(matrix.double().T @ first)
    return first.float().contiguous()


def power(
    slots: Sequence[Slot], matrices: Sequence[Tensor], settings: PCASettings, step: int
) -> Means:
    """One power iteration: ``P = orth(mean(M V))``, ``Q = mean(M^T P)``, gradient ``P Q^T``."""
    bases = [s.begin(settings, step, m) for s, m in zip(slots, matrices, strict=True)]
    sums = yield from _mean([m @ v for m, v in zip(matrices, bases, strict=True)])
    dead = [not bool(p.any()) for p in sums]
    left = [torch.zeros_like(p) if d else orthonormal(p) for p, d in zip(sums, dead, strict=True)]
    if settings.broadcast:
        left = yield from _all(left, "broadcast")
    own = [m.T @ p for m, p in zip(matrices, left, strict=True)]
    means = yield from _mean(own)
    found = []
    for slot, m, p, q, mean, zero in zip(slots, matrices, left, own, means, dead, strict=True):
        gradient = p @ mean.T
        found.append(gradient)
        if not (_finite(p) and _finite(mean)):
            gradient.fill_(torch.nan)
            continue
        slot.error = _error(settings, m, p @ q.T, gradient)
        # A basis that meets nothing of the gradient would never meet it: draw another.
        slot.basis = None if zero or not settings.warm_start else orthonormal(mean)
    return found


def shared(
    slots: Sequence[Slot], matrices: Sequence[Tensor], settings: PCASettings, step: int
) -> Means:
    """Coordinates in the common basis: ``Z = mean(M V)``, gradient ``Z V^T``."""
    bases = [s.begin(settings, step, m) for s, m in zip(slots, matrices, strict=True)]
    own = [m @ v for m, v in zip(matrices, bases, strict=True)]
    means = yield from _mean(own)
    found = []
    for slot, m, v, z, mean in zip(slots, matrices, bases, own, means, strict=True):
        gradient = mean @ v.T
        found.append(gradient)
        if _finite(mean):
            slot.error = _error(settings, m, z @ v.T, gradient)
            slot.basis = v
    return found


def gather(
    slots: Sequence[Slot], matrices: Sequence[Tensor], settings: PCASettings, _step: int
) -> Means:
    """Everybody's centred PCA: the reconstructions are averaged, never the factors."""
    parts: list[Tensor] = []
    for slot, m in zip(slots, matrices, strict=True):
        mu = m.mean(0)
        centred = m - mu
        if _finite(m):
            basis = right(centred, principal(centred)[1], slot.rank)
        else:
            basis = torch.full_like(m[0, :, None].expand(-1, slot.rank), torch.nan)
        parts += [centred @ basis, basis, mu]
    everybody = yield Collective("gather", torch.cat([p.reshape(-1) for p in parts]))
    shapes = [p.shape for p in parts]
    workers = [_cut(row, shapes) for row in everybody]
    found = []
    for k, (slot, m) in enumerate(zip(slots, matrices, strict=True)):
        rebuilt = [w[3 * k] @ w[3 * k + 1].T + w[3 * k + 2] for w in workers]
        gradient = torch.stack(rebuilt).mean(0)
        found.append(gradient)
        if _finite(gradient):
            own = parts[3 * k] @ parts[3 * k + 1].T + parts[3 * k + 2]
            slot.error = _error(settings, m, own, gradient)
    return found


def refresh(
    slots: Sequence[Slot], matrices: Sequence[Tensor], settings: PCASettings, _step: int
) -> Means:
    """Send everything; take rank and basis from the mean gradient, as the first worker sees it.

    Singular vectors differ in sign and, where values are equal, in direction between machines:
    they are broadcast, and so are the ranks, on which the sizes of all later messages hang.
    """
    means = yield from _mean(matrices)
    sound = [k for k, mean in enumerate(means) if _finite(mean)]
    spectra = {k: principal(means[k]) for k in sound}
    if settings.energy and sound:
        chosen = [_rank(slots[k], spectra[k][0], settings) for k in sound]
        agreed = yield Collective(
            "broadcast", torch.tensor(chosen, dtype=torch.float32, device=means[0].device)
        )
        for k, rank in zip(sound, agreed.tolist(), strict=True):
            slots[k].rank, slots[k].basis = int(rank), None
    if settings.form != "gather":
        kept = [k for k in sound if slots[k].rank]
        bases = [right(means[k], spectra[k][1], slots[k].rank) for k in kept]
        if bases:
            for k, basis in zip(kept, (yield from _all(bases, "broadcast")), strict=True):
                slots[k].basis = basis
    for k in sound:
        slots[k].error = None
    return means


FORMS = {"power": power, "shared": shared, "gather": gather}


def _rank(slot: Slot, squares: Tensor, settings: PCASettings) -> int:
    """Return the least rank that holds enough of the energy; 0 where it does not pay."""
    total = squares.sum()
    rank = 1
    if total > 0:
        rank += int((squares.cumsum(0) < settings.energy * total).sum())
    rank = min(rank, slot.rows, slot.columns)
    return rank if settings.pays(slot.rows, slot.columns, rank) else 0


def _error(settings: PCASettings, matrix: Tensor, own: Tensor, mean: Tensor) -> Tensor | None:
    if settings.error == "none":
        return None
    return matrix - (own if settings.error == "projection" else mean)


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def _mean(parts: Sequence[Tensor]) -> Means:
    return (yield from _all(parts, "mean"))


def _all(parts: Sequence[Tensor], kind: Kind) -> Means:
    result = yield Collective(kind, torch.cat([part.reshape(-1) for part in parts]))
    return _cut(result, [part.shape for part in parts])


def _cut(flat: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    pieces = torch.split(flat, [shape.numel() for shape in shapes])
    return [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]

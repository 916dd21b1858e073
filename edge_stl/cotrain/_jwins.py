"""JWINS: a random share of the wavelet coefficients, those that changed most (ICDCS 2023).

Every node sends, each round, the coefficients of its model whose accumulated change is largest;
how many is drawn anew from a short list that contains all of them. A receiver fills what it was
not sent with its own coefficients. Messages of different nodes hold different coefficients, so the
mean of the models is not preserved, as it is with full sharing.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edge_stl.cotrain._graph import metropolis
from edge_stl.cotrain._local import LocalSettings
from edge_stl.cotrain._node import Node, Round, Seat
from edge_stl.cotrain._problem import Problem
from edge_stl.cotrain._settings import check_ranges
from edge_stl.cotrain._sparse import Sparse, largest, pulled
from edge_stl.cotrain._wavelet import Wavelet, check_wavelet


ACCUMULATION = ("round", "local", "none")
_TAG = 0x4A57  # of JWINS's draws


@dataclass(frozen=True)
class JwinsSettings:
    """How much a node sends, and what.

    The defaults are those of the authors' published configurations.

    Attributes:
        shares: alpha, the shares of the coefficients to draw from each round, above 0 to 1. The
            default sends 0.343 on average, and 0.366 of the bytes with the indices. Two that go
            lower: 1 with probability 0.1 and else 0.1 (0.206 of the bytes), 1 with 0.05 and else
            0.05 (0.109).
        probabilities: of the shares, summing to 1; None: each is as likely.
        metadata_cap: from this share on all coefficients are sent, without indices; above 0 to 1.
        wavelet: a discrete wavelet of PyWavelets.
        level: of the transform, 0 or more; 0 ranks the parameters themselves.
        mode: at the borders, see `Wavelet`; ``symmetric`` is the authors', ``periodization`` the
            orthonormal one.
        accumulation: what is added to the ranking beside the change of this round: ``round``, the
            changes since a coefficient was last sent, by training and by mixing (the authors'
            configurations); ``local``, those by training only; ``none``.
    """

    shares: tuple[float, ...] = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 1.0)
    probabilities: tuple[float, ...] | None = None
    metadata_cap: float = 0.5
    wavelet: str = "sym2"
    level: int = 4
    mode: str = "symmetric"
    accumulation: str = "round"

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            UsageError: a value is out of its range.
        """
        shares, chances = self.shares, self.probabilities
        likely = chances is None or (
            len(chances) == len(shares)
            and all(chance >= 0 for chance in chances)
            and abs(sum(chances) - 1) < 1e-9  # noqa: PLR2004  (what numpy asks for)
        )
        check_ranges(
            ("shares", shares, bool(shares) and all(0 < s <= 1 for s in shares), "above 0 to 1"),
            ("probabilities", chances, likely, f"{len(shares)} of them that sum to 1"),
            ("metadata_cap", self.metadata_cap, 0 < self.metadata_cap <= 1, "above 0 to 1"),
            (
                "accumulation",
                self.accumulation,
                self.accumulation in ACCUMULATION,
                " or ".join(ACCUMULATION),
            ),
        )
        check_wavelet(self.wavelet, self.level, self.mode)


def draw_share(settings: JwinsSettings, seat: Seat, number: int) -> float:
    """Return the share that a node sends in a round: of the seed, the node and the round alone."""
    generator = np.random.default_rng([seat.seed, _TAG, seat.index, number])
    return float(generator.choice(np.array(settings.shares), p=settings.probabilities))


def cut_off(share: float, scores: Tensor, *, cap: float) -> Tensor | None:
    """Return which coefficients to send: the ``round(share D)`` of the largest scores ``(D,)``.

    Returns:
        Their indices, ascending; None where all go, from the metadata cap on.
    """
    return None if share >= cap else largest(scores, round(share * len(scores)))


class Jwins(Node):
    """A node of JWINS.

    Args:
        seat: which one.
        problem: what it learns from.
        local: how it steps on its own images.
        settings: how much it sends, and what.

    Attributes:
        accumulated: A ``(D,)``, how much each coefficient has changed since it was last sent.
    """

    def __init__(
        self,
        seat: Seat,
        problem: Problem,
        local: LocalSettings,
        settings: JwinsSettings | None = None,
    ) -> None:
        super().__init__(seat, problem, local)
        self.settings = chosen = settings or JwinsSettings()
        self.wavelet = Wavelet(len(self.vector), chosen.wavelet, chosen.level, chosen.mode)
        self.accumulated = torch.zeros(self.wavelet.length)

    def round(self, number: int) -> Round:
        """Take the local steps, send what changed most, mix in the wavelet domain."""
        settings, transform = self.settings, self.wavelet.forward
        before = self.vector
        trained, loss = self.local.run(before, number)
        change = transform(trained - before)
        if settings.accumulation == "local":
            self.accumulated += change
            scores = self.accumulated
        else:
            scores = self.accumulated + change
        share = draw_share(settings, self.seat, number)
        sent = cut_off(share, scores, cap=settings.metadata_cap)
        own = transform(trained)
        message = Sparse.of(own, sent).message(number, degree=self.seat.degree)
        self.accumulated[slice(None) if sent is None else sent] = 0
        inbox = yield dict.fromkeys(self.seat.neighbours, message)
        heard = self.read(inbox, lambda m: Sparse.read(m, self.wavelet.length))
        weights = metropolis(self.seat.degree, {j: inbox[j].degree for j in heard})
        # T^-1(T(x) + d) = x + T^-1(d): in this form equal models stay exactly what they are
        self.vector = trained + self.wavelet.inverse(pulled(own, heard, weights))
        if settings.accumulation == "round":
            self.accumulated += transform(self.vector - before)
        return loss

    def state(self) -> dict[str, Tensor]:
        """Return everything that `restore` needs, as copies."""
        return super().state() | {"accumulated": self.accumulated.clone()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`."""
        super().restore(state)
        self.accumulated = state["accumulated"].clone()

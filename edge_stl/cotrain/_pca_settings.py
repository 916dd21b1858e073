"""Settings of gradient compression by PCA, and the rank that follows for a layer."""

import math
from dataclasses import dataclass
from typing import Any, Self

from edge_stl.cotrain._settings import check_ranges
from edge_stl.errors import UsageError


FORMS = ("power", "shared", "gather", "none")
ERRORS = ("projection", "average", "none")
_FEWEST_WARM = 2


@dataclass(frozen=True)
class PCASettings:
    """How gradients are compressed.

    Inspired by "structural" PCA compression with error accumulation (APNet 2023, DOI
    10.1145/3600061.3603140), whose code and details are not public; the forms are those of its
    documented relatives.

    Attributes:
        form: ``power`` (default): one power iteration per step from the last basis, two
            all-reduces; its fixed point is the uncentred PCA of the mean gradient (PowerSGD, Vogels
            et al., NeurIPS 2019). ``shared``: coordinates in a basis that all workers hold and
            that a whole gradient renews from time to time (the pattern of GradiVeQ, Yu et al.,
            NeurIPS 2018). ``gather``: every worker's own centred PCA, all-gathered, summed after
            reconstruction. ``none``: plain all-reduce, for comparison.
        share: of a layer's numbers that may travel in a compressed step, above 0, at most 1;
            the rank is the largest that keeps it, at least 1. Default 0.03, the cut that the poster
            states.
        rank: the same rank for every layer instead; 0 (default): by ``share``.
        energy: least share of the squared singular values of the mean gradient that the rank must
            hold instead, 0..1, chosen anew at every refresh; 0 (default): by ``share``.
        refresh: steps from one whole gradient to the next, at least 1; used by ``shared`` and
            ``energy``. Default 100 (our choice; the sources name none).
        start: steps of plain all-reduce before, at least 0. Default 2; `for_steps` gives the tenth
            of a run that PyTorch advises for PowerSGD.
        min_rate: a layer is compressed only if its numbers shrink by more than this factor, at
            least 0. Default 2, as in PyTorch.
        error: what a worker keeps of what it could not send. ``projection`` (default): its own
            gradient less its projection. ``average``: less what all sent, as PyTorch does: the
            same updates, but what tells the workers apart piles up. ``none``: nothing.
        warm_start: ``power`` begins with the basis of the last step; else with a drawn one.
        broadcast: ``power`` takes the orthonormal factor of the first worker, for r x a more
            numbers per layer. Default False. Set it where the workers' processors differ: their
            last bits do as well, and a column's sign can hang on them.
        seed: of drawn bases; the same at all workers.
    """

    form: str = "power"
    share: float = 0.03
    rank: int = 0
    energy: float = 0.0
    refresh: int = 100
    start: int = 2
    min_rate: float = 2.0
    error: str = "projection"
    warm_start: bool = True
    broadcast: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            UsageError: a value is out of its range, or two rules for the rank are given.
        """
        check_ranges(
            ("form", self.form, self.form in FORMS, " or ".join(FORMS)),
            ("share", self.share, 0 < self.share <= 1, "above 0, at most 1"),
            ("rank", self.rank, self.rank >= 0, "at least 0"),
            ("energy", self.energy, 0 <= self.energy <= 1, "0 to 1"),
            ("refresh", self.refresh, self.refresh >= 1, "at least 1"),
            ("start", self.start, self.start >= 0, "at least 0"),
            ("min_rate", self.min_rate, 0 <= self.min_rate < math.inf, "at least 0"),
            ("error", self.error, self.error in ERRORS, " or ".join(ERRORS)),
            ("seed", self.seed, self.seed >= 0, "at least 0"),
        )
        if self.rank and self.energy:
            raise UsageError(
                f"rank = {self.rank} and energy = {self.energy}: two rules for one rank; expected "
                "one. Leave one of them 0"
            )

    @classmethod
    def for_steps(cls, steps: int, **changes: Any) -> Self:
        """Return settings for a run of so many steps: the first tenth, at least 2, is plain."""
        return cls(**{"start": max(_FEWEST_WARM, steps // 10)} | changes)

    @property
    def refreshes(self) -> bool:
        """Return whether a whole gradient travels from time to time."""
        return self.form == "shared" or (self.form != "none" and self.energy > 0)

    def payload(self, rows: int, columns: int, rank: int) -> int:
        """Return how many numbers of a layer travel in a compressed step."""
        if self.form == "shared":
            return rows * rank
        if self.form == "gather":
            return rank * (rows + columns) + columns
        return rank * (rows + columns + (rows if self.broadcast else 0))

    def pays(self, rows: int, columns: int, rank: int) -> bool:
        """Return whether a layer shrinks enough at a rank."""
        return self.payload(rows, columns, rank) * self.min_rate < rows * columns

    def rank_of(self, rows: int, columns: int) -> int:
        """Return the rank of a layer ``(rows, columns)``; 0: it travels whole.

        With ``energy`` it is 1 for every layer that can pay, until a refresh chooses.
        """
        if self.form == "none":
            return 0
        rank = self.rank
        if not rank and not self.energy:
            fixed = columns if self.form == "gather" else 0
            each = self.payload(rows, columns, 1) - fixed
            rank = int((self.share * rows * columns - fixed) // each)
        rank = min(max(1, rank), rows, columns)
        return rank if self.pays(rows, columns, rank) else 0

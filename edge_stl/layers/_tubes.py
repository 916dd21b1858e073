"""An invertible linear transform of tubes, in real coordinates.

A *tube* is what a tensor holds along its third mode: n numbers (Kilmer & Martin, Linear Algebra
Appl. 435, 2011). A transform L of tubes defines the product ``*_L`` of tensors (Kernfeld, Kilmer &
Aeron, Linear Algebra Appl. 485, 2015): transform, multiply slice by slice, transform back. A slice
is a *block* here: one real coordinate, or the two of a complex frequency.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class TubeTransform:
    """A transform of tubes of one length. Made by `dft`, `dct`, `haar`, … and `from_matrix`.

    Attributes:
        name: what it is called in messages.
        matrix: ``(n, n)`` float64; row k gives coordinate k of a tube.
        inverse: ``(n, n)`` float64, the inverse matrix.
        blocks: which coordinates are multiplied together, in order: ``(k,)`` for a real
            coordinate, ``(k, k + 1)`` for the real and the imaginary part of a frequency.

    Raises:
        ValueError: the matrices are not square and equal in size, or the blocks do not list the
            coordinates 0..n-1 one after the other.
    """

    name: str
    matrix: Tensor
    inverse: Tensor
    blocks: tuple[tuple[int, ...], ...]
    _made: dict[Any, Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        square = (self.matrix.shape[0],) * 2
        if self.matrix.shape != square or self.inverse.shape != square:
            raise ValueError(
                f"transform {self.name}: matrices of shapes {tuple(self.matrix.shape)} and "
                f"{tuple(self.inverse.shape)}; expected two square ones of one size"
            )
        listed = [k for block in self.blocks for k in block]
        if listed != list(range(self.size)) or any(len(b) not in (1, 2) for b in self.blocks):
            raise ValueError(
                f"transform {self.name}: blocks {self.blocks}; expected (k,) and (k, k + 1) that "
                f"list 0..{self.size - 1} in order"
            )

    @property
    def size(self) -> int:
        """Return n, the length of a tube."""
        return self.matrix.shape[0]

    @property
    def singles(self) -> tuple[int, ...]:
        """Return the real coordinates."""
        return tuple(block[0] for block in self.blocks if len(block) == 1)

    @property
    def pairs(self) -> tuple[int, ...]:
        """Return the coordinate of the real part of every complex frequency."""
        return tuple(block[0] for block in self.blocks if len(block) == 2)  # noqa: PLR2004

    def to_bands(self, x: Tensor, dim: int) -> Tensor:
        """Return the coordinates of all tubes of ``x`` along ``dim``, in its dtype and device.

        Raises:
            ValueError: ``x`` does not have n entries along ``dim``.
        """
        return self._along(x, dim, "matrix")

    def from_bands(self, x: Tensor, dim: int) -> Tensor:
        """Return the tubes of these coordinates; the inverse of `to_bands`."""
        return self._along(x, dim, "inverse")

    def take(self, x: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
        """Part coordinates along ``dim`` into real ones, real parts and imaginary parts.

        Returns:
            three tensors with `singles`, `pairs` and again `pairs` entries along ``dim``.
        """
        if not self.pairs:
            none = x.narrow(dim, 0, 0)
            return x, none, none
        singles = x.index_select(dim, self._index("singles", self.singles, x))
        real = x.index_select(dim, self._index("real", self.pairs, x))
        imaginary = x.index_select(dim, self._index("imaginary", self._imaginary, x))
        return singles, real, imaginary

    def put(self, singles: Tensor, real: Tensor, imaginary: Tensor, dim: int) -> Tensor:
        """Put together what `take` has parted."""
        if not self.pairs:
            return singles
        taken = (*self.singles, *self.pairs, *self._imaginary)
        places = sorted(range(self.size), key=taken.__getitem__)
        parts = torch.cat([singles, real, imaginary], dim)
        return parts.index_select(dim, self._index("places", places, parts))

    def structure(self, *, domain: str = "original") -> Tensor:
        """Return how the block coordinates c make the big matrix: ``(n, n, n)`` float64 G.

        Multiplication by a tensor with coordinates ``W[c]`` is the matrix with blocks
        ``sum_c G[a, b, c] W[c]`` (row a, column b of tubes' entries, or of coordinates when
        ``domain`` is "transform"). With P = inverse and Q = matrix (or both the unit matrix), a
        real coordinate s has ``P[:, s] Q[s]``; a frequency (r, i) has ``P[:, r] Q[r] + P[:, i]
        Q[i]`` for its real part and ``P[:, i] Q[r] - P[:, r] Q[i]`` for its imaginary part.
        """
        unit = torch.eye(self.size, dtype=torch.float64)
        left, right = (unit, unit) if domain == "transform" else (self.inverse, self.matrix)
        out = torch.zeros(self.size, self.size, self.size, dtype=torch.float64)
        for k in self.singles:
            out[:, :, k] = torch.outer(left[:, k], right[k])
        for r in self.pairs:
            i = r + 1
            out[:, :, r] = torch.outer(left[:, r], right[r]) + torch.outer(left[:, i], right[i])
            out[:, :, i] = torch.outer(left[:, i], right[r]) - torch.outer(left[:, r], right[i])
        return out

    def equals(self, other: "TubeTransform") -> bool:
        """Return whether both have the same matrices and blocks, whatever they are called."""
        return (
            self.blocks == other.blocks
            and torch.equal(self.matrix, other.matrix)
            and torch.equal(self.inverse, other.inverse)
        )

    @property
    def _imaginary(self) -> tuple[int, ...]:
        return tuple(r + 1 for r in self.pairs)

    def _along(self, x: Tensor, dim: int, which: str) -> Tensor:
        if x.shape[dim] != self.size:
            raise ValueError(
                f"transform {self}: {x.shape[dim]} entries along dimension {dim} of "
                f"{tuple(x.shape)}; expected {self.size}"
            )
        key = (which, x.dtype, x.device)
        matrix = self._once(key, lambda: getattr(self, which).to(x))
        return (x.movedim(dim, -1) @ matrix.T).movedim(-1, dim)

    def _index(self, which: str, index: Any, x: Tensor) -> Tensor:
        return self._once(
            (which, x.device), lambda: torch.tensor(index, dtype=torch.int64, device=x.device)
        )

    def _once(self, key: Any, make: Callable[[], Tensor]) -> Tensor:
        """Keep what every forward needs: a copy to a device each time would stop the device."""
        if key not in self._made:
            # A tensor first made in inference mode could never be used in training afterwards.
            with torch.inference_mode(mode=False), torch.no_grad():
                self._made[key] = make()
        return self._made[key]

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return itself: nothing of it ever changes, and copies of a layer share it."""
        return self

    def __str__(self) -> str:
        """Return name and size, like ``dct(4)``."""
        return f"{self.name}({self.size})"

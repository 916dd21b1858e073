"""Analysis and synthesis as torch modules, built from the same filters as the numpy reference.

A bank is a pair of small matrices per band size: ``band = rows @ image @ cols^T``. Two batched
matrix products beat a strided depthwise convolution on the CPUs of edge boxes, and periodization
costs nothing, because it is in the matrices.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from edge_stl.bands import Bank, Filter


class Analysis(nn.Module):
    """Split images into the bands of one spatial size, band-major.

    Args:
        bank: filters; its bands must share one spatial size, and their order is the output's.
        resolution: H = W of the images.

    Raises:
        ValueError: the bands have different sizes.
    """

    def __init__(self, bank: Bank, *, resolution: int) -> None:
        super().__init__()
        sizes = {band.stride for band in bank.bands}
        if len(sizes) != 1:
            raise ValueError(f"bands {bank.names} have different sizes; a branch has one")
        self._size = resolution // sizes.pop()
        self._picks, rows, cols = _tables([band.analysis for band in bank.bands])
        self.register_buffer("_rows", _stack(rows, resolution), persistent=False)
        self.register_buffer("_cols", _stack(cols, resolution), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Analyze.

        Args:
            images: ``(N, C, H, W)`` float32.

        Returns:
            ``(N, B * C, h, w)`` float32, band-major.
        """
        n, c = images.shape[:2]
        size = self._size
        across = images @ self._rows_of("_cols").T  # (N, C, H, cols * w)
        both = self._rows_of("_rows") @ across  # (N, C, rows * h, cols * w)
        blocks = both.reshape(n, c, -1, size, both.shape[-1] // size, size)
        bands = [
            sum(
                (blocks[:, :, row, :, col] for row, col in terms[1:]),
                blocks[:, :, terms[0][0], :, terms[0][1]],
            )
            for terms in self._picks
        ]
        return torch.cat(bands, dim=1)

    def _rows_of(self, name: str) -> Tensor:
        buffer = getattr(self, name)
        assert isinstance(buffer, Tensor)  # noqa: S101  (registered above)
        return buffer


class Synthesis(nn.Module):
    """Put images together from all critically sampled bands; the inverse of the bank's analysis.

    Args:
        bank: filters whose bands `forward` takes, in this order.
        resolution: H = W of the images.
    """

    def __init__(self, bank: Bank, *, resolution: int) -> None:
        super().__init__()
        self._bands = bank.bands
        for index, band in enumerate(bank.bands):
            for term, (rows, cols) in enumerate(band.synthesis):
                for name, filter_ in (("rows", rows), ("cols", cols)):
                    matrix = torch.from_numpy(filter_.matrix(resolution).astype(np.float32))
                    self.register_buffer(f"{name}_{index}_{term}", matrix, persistent=False)

    def forward(self, bands: Sequence[Tensor]) -> Tensor:
        """Synthesize.

        Args:
            bands: one ``(N, C, h, w)`` float32 per band of the bank.

        Returns:
            ``(N, C, H, W)`` float32.
        """
        parts = [
            getattr(self, f"rows_{i}_{t}").T @ values @ getattr(self, f"cols_{i}_{t}")
            for i, (band, values) in enumerate(zip(self._bands, bands, strict=True))
            for t in range(len(band.synthesis))
        ]
        return torch.stack(parts).sum(dim=0)


def _tables(
    bands: Sequence[tuple[tuple[Filter, Filter], ...]],
) -> tuple[list[list[tuple[int, int]]], list[Filter], list[Filter]]:
    """Number the distinct row and column filters; return each band's terms as pairs of numbers."""
    rows: list[Filter] = []
    cols: list[Filter] = []
    picks = []
    for terms in bands:
        pairs = []
        for row, col in terms:
            for filters, one in ((rows, row), (cols, col)):
                if one not in filters:
                    filters.append(one)
            pairs.append((rows.index(row), cols.index(col)))
        picks.append(pairs)
    return picks, rows, cols


def _stack(filters: Sequence[Filter], resolution: int) -> Tensor:
    matrix = np.concatenate([f.matrix(resolution) for f in filters])
    return torch.from_numpy(matrix.astype(np.float32))

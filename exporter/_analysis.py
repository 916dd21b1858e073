"""A filter bank as ONNX nodes: wrap, correlate along rows, correlate along columns.

For the bands of one spatial size, with C image channels, B bands and T separable terms a band::

    (N, C, r, r) -- Conv (B C T, C, L, 1), stride (s, 1) --> (N, B C T, h, r)
                 -- Conv (B C, T, 1, L), stride (1, s), groups B C --> (N, B C, h, h)

The result is band-major, as the branches read it. Periodization is Slice and Concat, because
``Pad(mode="wrap")`` is not legal at opset 17; folded filters wrap at most once.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_stl.bands import Band, Filter, Transform, bank
from exporter._graph import Graph


class BankNodes:
    """The bank of one native resolution inside a graph; every band is computed once.

    Args:
        graph: what the nodes are added to.
        transform: the plan's transform.
        native_level: k of the native resolution ``R / 2^k``.
        bands: all bands that any branch of this native resolution reads.
        channels: C.
        resolution: r, the native resolution.
        input_name: ``(N, C, r, r)`` float32 in 0..1.
        prefix: put before every name.

    Attributes:
        multiply_adds: of its convolutions, for one image.
    """

    def __init__(
        self,
        graph: Graph,
        transform: Transform,
        *,
        native_level: int,
        bands: Sequence[str],
        channels: int,
        resolution: int,
        input_name: str,
        prefix: str,
    ) -> None:
        self._graph = graph
        self._channels = channels
        self._prefix = prefix
        self.multiply_adds = 0
        self._value_of: dict[str, str] = {}
        self._members: dict[str, list[str]] = {}
        filters = bank(transform, native_level=native_level, bands=bands).bands
        for stride in sorted({band.stride for band in filters}, reverse=True):
            group = [band for band in filters if band.stride == stride]
            group.sort(key=lambda band: transform.order(band.name))
            value = self._add(group, stride, input_name, resolution)
            self._members[value] = [band.name for band in group]
            self._value_of |= dict.fromkeys(self._members[value], value)

    def read(self, bands: Sequence[str], *, output: str) -> str:
        """Return the value ``(N, C * len(bands), h, w)`` that holds these bands in this order."""
        value = self._value_of[bands[0]]
        members = self._members[value]
        if list(bands) == members:
            return value
        channels = [
            members.index(band) * self._channels + c
            for band in bands
            for c in range(self._channels)
        ]
        index = self._graph.constant(f"{output}.index", np.array(channels, dtype=np.int64))
        return self._graph.node("Gather", [value, index], output, axis=1)

    def _add(self, group: list[Band], stride: int, input_name: str, resolution: int) -> str:
        if stride == 1:  # the image itself: the one band that exists at its own resolution
            return input_name
        graph, name = self._graph, f"{self._prefix}stride{stride}"
        self.multiply_adds += self._work(group, stride, resolution)
        rows = [[t[0].folded(resolution) for t in band.analysis] for band in group]
        cols = [[t[1].folded(resolution) for t in band.analysis] for band in group]
        wrapped = self._wrap(input_name, rows[0][0], resolution, axis=2, name=f"{name}/rows")
        kernel = graph.constant(f"{name}/rows.kernel", self._row_kernel(rows))
        length = len(rows[0][0].taps)
        out = graph.node(
            "Conv", [wrapped, kernel], f"{name}/rows", kernel_shape=[length, 1], strides=[stride, 1]
        )
        wrapped = self._wrap(out, cols[0][0], resolution, axis=3, name=f"{name}/cols")
        kernel = graph.constant(f"{name}/cols.kernel", self._column_kernel(cols))
        length = len(cols[0][0].taps)
        return graph.node(
            "Conv",
            [wrapped, kernel],
            f"{name}/bands",
            kernel_shape=[1, length],
            strides=[1, stride],
            group=len(group) * self._channels,
        )

    def _work(self, group: list[Band], stride: int, resolution: int) -> int:
        """Return the multiply-adds of the two convolutions of bands of one size."""
        rows, cols = (len(term.folded(resolution).taps) for term in group[0].analysis[0])
        planes, height = len(group) * self._channels, resolution // stride
        terms = len(group[0].analysis)
        along_rows = planes * terms * self._channels * rows * height * resolution
        return along_rows + planes * terms * cols * height * height

    def _row_kernel(self, rows: list[list[Filter]]) -> NDArray[np.float32]:
        taps = _stack(rows)  # (B, T, L)
        bands, terms, length = taps.shape
        channels = self._channels
        kernel = np.zeros((bands, channels, terms, channels, length, 1), dtype=np.float32)
        for c in range(channels):
            kernel[:, c, :, c, :, 0] = taps
        return kernel.reshape(bands * channels * terms, channels, length, 1)

    def _column_kernel(self, cols: list[list[Filter]]) -> NDArray[np.float32]:
        taps = _stack(cols)
        bands, terms, length = taps.shape
        kernel = np.repeat(taps[:, None], self._channels, axis=1)
        return kernel.reshape(bands * self._channels, terms, 1, length).astype(np.float32)

    def _wrap(self, value: str, filter_: Filter, size: int, *, axis: int, name: str) -> str:
        before, after = filter_.padding(size)
        pieces = [value]
        if before:
            pieces.insert(0, self._slice(value, size - before, size, axis, f"{name}.before"))
        if after > 0:
            pieces.append(self._slice(value, 0, after, axis, f"{name}.after"))
        if len(pieces) == 1:
            return value
        return self._graph.node("Concat", pieces, f"{name}.wrapped", axis=axis)

    def _slice(self, value: str, start: int, stop: int, axis: int, name: str) -> str:
        limits = [
            self._graph.constant(f"int.{number}", np.array([number], dtype=np.int64))
            for number in (start, stop, axis)
        ]
        return self._graph.node("Slice", [value, *limits], name)


def _stack(filters: list[list[Filter]]) -> NDArray[np.float64]:
    """Return the taps as ``(B, T, L)``; the filters of one band size agree in length and offset."""
    shapes = {(len(f.taps), f.stride, f.offset) for band in filters for f in band}
    if len(shapes) != 1 or len({len(band) for band in filters}) != 1:
        raise ValueError(f"filters of one size differ in length, stride or offset: {shapes}")
    return np.array([[f.taps for f in band] for band in filters])

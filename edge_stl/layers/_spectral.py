"""Linear and convolution layers whose weights are tensors: the product under a tube transform.

Liu, Wang, Yuan & Han, "Spectral tensor layers", IEEE TNNLS 2024: with the tensor product in place
of the matrix product, the weight of a layer is block-structured (block-circulant for the DFT), and
in the transform domain block-diagonal. The parameters live there, so every block has its own.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_stl.layers._ordinary import ordinary_conv, ordinary_linear, real_expansion
from edge_stl.layers._tubes import TubeTransform


Domain = Literal["original", "transform"]
Pair = tuple[int, int]
_DOMAINS = ("original", "transform")


class _Spectral(nn.Module):
    """What both layers share; weight ``(n, out, in, …)`` and bias ``(n, out)`` in real coordinates.

    For a frequency (r, i): ``y_r = W_r x_r - W_i x_i`` and ``y_i = W_i x_r + W_r x_i``.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        shape: tuple[int, ...],
        transform: TubeTransform,
        *,
        bias: bool,
        domain: Domain,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if domain not in _DOMAINS:
            raise ValueError(f"{name}: domain {domain!r}; expected one of {', '.join(_DOMAINS)}")
        if min(shape) < 1:
            raise ValueError(f"{name}: weight of shape {shape}; expected 1 or more of everything")
        self.transform, self.domain = transform, domain
        self.weight = nn.Parameter(torch.empty(transform.size, *shape, device=device, dtype=dtype))
        empty = torch.empty(transform.size, shape[0], device=device, dtype=dtype)
        self.register_parameter("bias", nn.Parameter(empty) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias from ``U(-b, b)``, ``b = 1 / sqrt(fan-in of one block)``.

        That is torch's own rule for an ordinary layer (He et al., ICCV 2015, with a = sqrt 5),
        applied to every block; a complex frequency reads two coordinates per input.
        """
        fan = self.weight[0, 0].numel()
        bound = self.weight.new_full((self.transform.size,), 1 / math.sqrt(fan))
        for r in self.transform.pairs:
            bound[r : r + 2] = 1 / math.sqrt(2 * fan)
        with torch.no_grad():
            for parameter in (self.weight, self.bias):
                if parameter is not None:
                    shaped = bound.reshape(-1, *[1] * (parameter.ndim - 1))
                    parameter.uniform_(-1, 1).mul_(shaped)

    def _through(self, x: Tensor) -> Tensor:
        """Apply to ``(N, n, in, …)`` and return ``(N, n, out, …)``, both in the layer's domain."""
        if self.domain == "transform":
            return self._multiply(x)
        return self.transform.from_bands(self._multiply(self.transform.to_bands(x, 1)), 1)

    def _multiply(self, x: Tensor) -> Tensor:
        take = self.transform.take
        x_single, x_real, x_imaginary = take(x, 1)
        w_single, w_real, w_imaginary = take(self.weight, 0)
        b_single, b_real, b_imaginary = (
            (None, None, None) if self.bias is None else take(self.bias, 0)
        )
        if not self.transform.pairs:
            return self._grouped(x_single, w_single, b_single)
        y_pair = self._grouped(
            torch.cat([x_real, x_imaginary], 2),
            real_expansion(w_real, w_imaginary),
            None if b_real is None or b_imaginary is None else torch.cat([b_real, b_imaginary], 1),
        )
        y_real, y_imaginary = y_pair.chunk(2, dim=2)
        if self.transform.singles:
            y_single = self._grouped(x_single, w_single, b_single)
        else:
            y_single = y_real.narrow(1, 0, 0)
        return self.transform.put(y_single, y_real, y_imaginary, 1)

    def _grouped(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Apply one weight per group: ``(N, g, in, …), (g, out, in, …) -> (N, g, out, …)``."""
        raise NotImplementedError

    def _dense(self, domain: Domain) -> tuple[Tensor, Tensor | None]:
        """Return weight ``(n * out, n * in, …)`` and bias ``(n * out,)`` of the whole layer."""
        if domain not in _DOMAINS:
            raise ValueError(f"to_dense: domain {domain!r}; expected one of {', '.join(_DOMAINS)}")
        weight = self.weight.detach().double()
        structure = self.transform.structure(domain=domain).to(weight)
        n, out, inputs = weight.shape[:3]
        big = torch.einsum("abk,koi...->aobi...", structure, weight)
        big = big.reshape(n * out, n * inputs, *weight.shape[3:]).to(self.weight)
        if self.bias is None:
            return big, None
        bias = self.bias.detach().double()
        if domain == "original":
            bias = self.transform.from_bands(bias, 0)
        return big, bias.reshape(-1).to(self.bias)

    def _said(self) -> str:
        bias = self.bias is not None
        return f"transform={self.transform}, bias={bias}, domain={self.domain!r}"


class SpectralLinear(_Spectral):
    """Affine layer with a tensor weight: ``(..., n, in) -> (..., n, out)``.

    Args:
        in_features: inputs per tube entry.
        out_features: outputs per tube entry.
        transform: of the tubes, of size n.
        bias: whether there is one.
        domain: "original": input and output are tubes; "transform": they are its coordinates.
        device: of the parameters.
        dtype: of the parameters.

    Attributes:
        weight: ``(n, out, in)``, coordinates in the transform domain.
        bias: ``(n, out)`` or None, coordinates too.

    Raises:
        ValueError: an unknown domain, or nothing to read or write.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        transform: TubeTransform,
        *,
        bias: bool = True,
        domain: Domain = "original",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        shape = (out_features, in_features)
        super().__init__(shape, transform, bias=bias, domain=domain, device=device, dtype=dtype)
        self.in_features, self.out_features = in_features, out_features

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``(..., n, in)``.

        Raises:
            ValueError: the input has another shape.
        """
        own = (self.transform.size, self.in_features)
        if x.shape[-2:] != own:
            raise ValueError(
                f"SpectralLinear: input {tuple(x.shape)}; expected (..., {own[0]}, {own[1]})"
            )
        y = self._through(x.reshape(-1, *own))
        return y.reshape(*x.shape[:-1], self.out_features)

    def _grouped(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x, weight = x.transpose(0, 1), weight.transpose(1, 2)
        y = torch.bmm(x, weight) if bias is None else torch.baddbmm(bias.unsqueeze(1), x, weight)
        return y.transpose(0, 1)

    def to_dense(self, *, domain: Domain = "original") -> nn.Linear:
        """Return the ordinary layer on tube-major features, ``x[l * in + j]``: a copy.

        Args:
            domain: of its input and output, whatever the layer's own is: "original" gives a
                block-structured matrix (block-circulant for the DFT), "transform" a
                block-diagonal one.

        Raises:
            ValueError: an unknown domain.
        """
        weight, bias = self._dense(domain)
        return ordinary_linear(weight, bias)

    def extra_repr(self) -> str:
        """Return what ``print`` shows."""
        return f"in_features={self.in_features}, out_features={self.out_features}, {self._said()}"


class SpectralConv2d(_Spectral):
    """Convolution with a tensor weight: ``(N, n, C, H, W) -> (N, n, out, H', W')``.

    Args:
        in_channels: C, channels per tube entry.
        out_channels: channels per tube entry of the output.
        kernel_size: rows and columns of the kernel.
        transform: of the tubes, of size n.
        stride: of the window, rows and columns.
        padding: zeros on every side, rows and columns.
        bias: whether there is one.
        domain: "original": input and output are tubes; "transform": they are its coordinates.
        device: of the parameters.
        dtype: of the parameters.

    Attributes:
        weight: ``(n, out, C, k, k)``, coordinates in the transform domain.
        bias: ``(n, out)`` or None, coordinates too.

    Raises:
        ValueError: an unknown domain, or nothing to read or write.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        transform: TubeTransform,
        *,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        bias: bool = True,
        domain: Domain = "original",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        shape = (out_channels, in_channels, *_pair(kernel_size))
        super().__init__(shape, transform, bias=bias, domain=domain, device=device, dtype=dtype)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size = _pair(kernel_size)
        self.stride, self.padding = _pair(stride), _pair(padding)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``(N, n, C, H, W)``.

        Raises:
            ValueError: the input has another shape.
        """
        own = (self.transform.size, self.in_channels)
        if x.ndim != 5 or x.shape[1:3] != own:  # noqa: PLR2004
            raise ValueError(
                f"SpectralConv2d: input {tuple(x.shape)}; expected (N, {own[0]}, {own[1]}, H, W)"
            )
        return self._through(x)

    def _grouped(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y = functional.conv2d(
            x.flatten(1, 2),
            weight.flatten(0, 1),
            None if bias is None else bias.flatten(),
            stride=self.stride,
            padding=self.padding,
            groups=weight.shape[0],
        )
        return y.reshape(len(x), *weight.shape[:2], *y.shape[2:])

    def to_dense(self, *, domain: Domain = "original") -> nn.Conv2d:
        """Return the ordinary layer on tube-major channels, ``x[:, l * C + c]``: a copy.

        Args:
            domain: as `SpectralLinear.to_dense`.

        Raises:
            ValueError: an unknown domain.
        """
        weight, bias = self._dense(domain)
        return ordinary_conv(weight, bias, stride=self.stride, padding=self.padding)

    def extra_repr(self) -> str:
        """Return what ``print`` shows."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}, {self._said()}"
        )


def _pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else value

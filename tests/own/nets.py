"""Networks as a user writes them; copied into a package with entry points by the tests."""
# ruff: noqa: ARG001

import torch
from torch import Tensor, nn
from torch.nn import functional


class Tiny(nn.Module):
    """Batch norm, dropout, a gate, and views of the kind that channels-last tensors refuse."""

    def __init__(self, channels: int, size: int, classes: int) -> None:
        super().__init__()
        del size
        self.norm = nn.BatchNorm2d(channels)
        self.secret_layer = nn.Conv2d(channels, 8, 3, padding=1, bias=False)
        self.after = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.2)
        self.slope = nn.PReLU(8)
        self.out = nn.Linear(8, classes)
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.silu(self.after(self.secret_layer(self.norm(x))))
        x = torch.cat([self.slope(x)[:, :4], functional.hardswish(x[:, 4:])], 1)
        x = x * torch.sigmoid(x.mean((2, 3)))[:, :, None, None] * self.frozen
        return self.out(self.drop(functional.adaptive_avg_pool2d(x, 1).view(x.size(0), -1)))


class Mixer(nn.Module):
    """Attention over patches, layer norm, GELU, a lazy layer, one chunk in three."""

    def __init__(self, channels: int, size: int, classes: int) -> None:
        super().__init__()
        del channels
        self.patches = nn.LazyConv2d(16, 2, 2)
        self.norm = nn.LayerNorm(16)
        self.qkv = nn.Linear(16, 48)
        self.out = nn.Linear(16 * (size // 2) ** 2, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        x = x + torch.softmax(q @ k.transpose(1, 2) / 4, -1) @ v
        return self.out(functional.gelu(x).flatten(1))


def groups(channels: int, size: int, classes: int) -> nn.Module:
    """Group norm, ELU, ReLU6, max pooling, depthwise convolution."""
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1),
        nn.GroupNorm(2, 8),
        nn.ELU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.ReLU6(),
        nn.Flatten(),
        nn.Linear(8 * (size // 2) ** 2, classes),
    )


class Upsampled(nn.Module):
    """Resize has no form in opset 17."""

    def __init__(self, channels: int, size: int, classes: int) -> None:
        super().__init__()
        self.out = nn.Linear(channels * 4 * size * size, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(functional.interpolate(x, scale_factor=2).flatten(1))


class OverChannels(nn.Module):
    """A mean over channels is a ReduceMean of opset 18, and no pooling."""

    def __init__(self, channels: int, size: int, classes: int) -> None:
        super().__init__()
        del channels
        self.out = nn.Linear(size * size, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x.mean(1).flatten(1))


class Counting(nn.Module):
    """A path through the network that depends on the numbers, which no exporter follows."""

    def __init__(self, channels: int, size: int, classes: int) -> None:
        super().__init__()
        self.out = nn.Linear(channels * size * size, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x.flatten(1)) if x.sum() > 0 else -self.out(x.flatten(1))


def broken(channels: int, size: int, classes: int) -> nn.Module:
    raise RuntimeError("no such luck\nand more")


def no_module(channels: int, size: int, classes: int) -> str:
    return "network"


def other_names(c: int, s: int, k: int) -> nn.Module:
    return nn.Linear(c * s * s, k)


def few_classes(channels: int, size: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size * size, classes - 1))


def double(channels: int, size: int, classes: int) -> nn.Module:
    class Double(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = nn.Linear(channels * size * size, classes).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.out(x.double().flatten(1)).float()

    return Double()


def fixed(channels: int, size: int, classes: int) -> nn.Module:
    module = nn.Sequential(nn.Flatten(), nn.Linear(channels * size * size, classes))
    return module.requires_grad_(requires_grad=False)

"""The layer lists: shapes, tensors and counts agree with the torch module built from them."""

import math

import pytest
import torch
from torch import nn

from edge_stl.branch import build_module, folded_parameters
from edge_stl.plan import networks as nets


Preset = pytest.mark.parametrize("name", nets.preset_names())
SIZES = (1, 2, 3, 4, 5, 7, 8, 9, 14, 16, 17, 28, 31, 32, 56, 112)


def test_the_presets_are_these():
    assert nets.preset_names() == ("mlp-s", "cnn-xs", "cnn-s", "cnn-m")
    with pytest.raises(KeyError, match="resnet"):
        nets.preset("resnet", channels=1, size=1, classes=2)


@Preset
def test_every_size_and_number_of_channels_has_a_network(name: str):
    for size in range(1, 113):
        for channels in range(1, 65):
            layers = nets.preset(name, channels=channels, size=size, classes=10)
            steps = list(nets.walk(layers, channels=channels, size=size))
            assert steps[0].before == (channels, size, size)
            assert steps[-1].after == (10,)
            assert all(side > 0 for step in steps for side in step.after)


@Preset
def test_the_walk_agrees_with_what_torch_computes(name: str):
    """On the meta device: shapes without numbers, so that size costs nothing."""
    for size in SIZES:
        layers = nets.preset(name, channels=3, size=size, classes=10)
        with torch.device("meta"):
            module = build_module(layers, channels=3, size=size).eval()
            x = torch.empty(2, 3, size, size)
        for step in nets.walk(layers, channels=3, size=size):
            assert tuple(x.shape) == (2, *step.before)
            x = module.get_submodule(step.name)(x)
            assert tuple(x.shape) == (2, *step.after)


@Preset
@pytest.mark.parametrize("size", [1, 2, 3, 8, 9])
@pytest.mark.parametrize("channels", [1, 12])
def test_the_declared_tensors_are_those_of_the_folded_module(name: str, size: int, channels: int):
    geometry = {"channels": channels, "size": size}
    layers = nets.preset(name, classes=5, **geometry)

    tensors = folded_parameters(build_module(layers, **geometry), layers, **geometry)

    assert {k: v.shape for k, v in tensors.items()} == nets.parameter_shapes(layers, **geometry)
    assert list(tensors) == list(nets.parameter_shapes(layers, **geometry))
    assert sum(v.size for v in tensors.values()) == nets.parameters(layers, **geometry)


@Preset
def test_multiply_adds_are_those_that_torch_s_layers_do(name: str):
    for size in SIZES:
        layers = nets.preset(name, channels=4, size=size, classes=10)
        with torch.device("meta"):
            module = build_module(layers, channels=4, size=size).eval()
            x = torch.empty(1, 4, size, size)
        counted = 0
        for layer in module:
            x = layer(x)
            if isinstance(layer, nn.Conv2d | nn.Linear):
                # every output element is one sum over the inputs of one kernel
                counted += x.numel() * math.prod(layer.weight.shape[1:])
        assert nets.multiply_adds(layers, channels=4, size=size) == counted


def test_a_network_counted_by_hand():
    layers = (nets.Norm(), nets.Conv(8), nets.Relu(), nets.MaxPool(), nets.Flatten(), nets.Dense(5))

    assert nets.parameter_shapes(layers, channels=3, size=6) == {
        "0.scale": (3, 1, 1),
        "0.shift": (3, 1, 1),
        "1.weight": (8, 3, 3, 3),
        "1.bias": (8,),
        "5.weight": (5, 72),
        "5.bias": (5,),
    }
    assert nets.parameters(layers, channels=3, size=6) == 3 + 3 + 216 + 8 + 360 + 5
    assert nets.multiply_adds(layers, channels=3, size=6) == 36 * 216 + 360


def test_a_norm_disappears_into_the_layer_right_before_it_and_only_there():
    layers = (nets.Dense(4), nets.Norm(), nets.Relu(), nets.Norm(), nets.Dense(2))

    shapes = nets.parameter_shapes((nets.Flatten(), *layers), channels=1, size=2)

    assert [name for name in shapes if "scale" in name] == ["4.scale"]
    assert shapes["4.scale"] == (4,)
    assert nets.foldable(nets.Conv(3))
    assert nets.foldable(nets.Dense(3))
    assert not nets.foldable(nets.Relu())
    assert not nets.foldable(None)


@pytest.mark.parametrize(
    ("size", "planes"),
    [(1, 1), (2, 2), (4, 2), (5, 2), (9, 2), (10, 3), (32, 4), (112, 6)],
)
def test_the_plane_halves_until_it_has_at_most_four_rows(size: int, planes: int):
    layers = nets.preset("cnn-s", channels=3, size=size, classes=10)

    assert sum(isinstance(layer, nets.MaxPool) for layer in layers) == planes - 1


@pytest.mark.parametrize(("name", "widest"), [("cnn-xs", 64), ("cnn-s", 128), ("cnn-m", 256)])
def test_the_last_block_is_the_widest_and_none_is_narrower_than_eight(name: str, widest: int):
    for size in SIZES:
        layers = nets.preset(name, channels=3, size=size, classes=10)
        widths = [layer.channels for layer in layers if isinstance(layer, nets.Conv)]
        assert widths == sorted(widths)
        assert widths[-1] == widest
        assert widths[0] >= 8


@pytest.mark.parametrize(("channels", "size", "width"), [(1, 2, 64), (3, 6, 108), (3, 32, 256)])
def test_the_mlp_is_as_wide_as_its_input_between_64_and_256(channels: int, size: int, width: int):
    layers = nets.preset("mlp-s", channels=channels, size=size, classes=10)

    assert [layer.units for layer in layers if isinstance(layer, nets.Dense)] == [width, width, 10]

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
    assert nets.preset_names() == (
        *("mlp-s", "cnn-xs", "cnn-s", "cnn-m", "res-s", "mobile-s"),
        *("fc-8l", "cnn-8", "cnn-8-half", "cnn-8-quarter"),
        *("cnn-s-gn", "lenet-gn", "cnn5-gn"),
    )
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


def counted_in(module: nn.Module, x: torch.Tensor) -> int:
    counted = []

    def count(layer: nn.Module, _given: object, made: torch.Tensor) -> None:
        # every output element is one sum over the inputs of one kernel
        counted.append(made.numel() * math.prod(layer.weight.shape[1:]))

    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    module(x)
    return sum(counted)


@Preset
def test_multiply_adds_are_those_that_torch_s_layers_do(name: str):
    for size in SIZES:
        layers = nets.preset(name, channels=4, size=size, classes=10)
        with torch.device("meta"):
            module = build_module(layers, channels=4, size=size).eval()
            x = torch.empty(1, 4, size, size)
        assert nets.multiply_adds(layers, channels=4, size=size) == counted_in(module, x)


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


# -- the networks of the paper --------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "size"), [(1, 1), (1, 14), (3, 4), (48, 8)])
def test_fc_8l_has_eight_hidden_layers_as_wide_as_its_input(channels: int, size: int):
    layers = nets.preset("fc-8l", channels=channels, size=size, classes=10)

    width = channels * size * size
    assert layers[:2] == (nets.Norm(learned=False), nets.Flatten())
    assert layers[2:-1] == (nets.Dense(width), nets.Norm(), nets.Relu()) * 8
    assert layers[-1] == nets.Dense(10)


@pytest.mark.parametrize(
    ("size", "width", "hidden"),
    [(28, 784, 784 * 784 + 784), (14, 196, 196 * 196 + 196)],
)
def test_fc_8l_of_a_digit_and_of_a_quarter_of_it_counted_by_hand(
    size: int, width: int, hidden: int
):
    """Eight times w w + w, then 10 w + 10, and the w's of the norm at the input that stays."""
    geometry = {"channels": 1, "size": size}
    layers = nets.preset("fc-8l", classes=10, **geometry)

    norm = 1 + 1  # one scale and one shift a channel, and there is one channel
    expected = norm + 8 * hidden + 10 * width + 10
    assert nets.parameters(layers, **geometry) == expected
    assert expected == {784: 4_931_372, 196: 310_868}[width]
    assert nets.multiply_adds(layers, **geometry) == 8 * width * width + 10 * width


def test_the_norms_of_fc_8l_are_gone_when_it_is_exported():
    shapes = nets.parameter_shapes(
        nets.preset("fc-8l", channels=3, size=4, classes=5), channels=3, size=4
    )

    assert [name for name in shapes if name.endswith((".scale", ".shift"))] == [
        *("0.scale", "0.shift"),  # only the one at the input
    ]
    assert [name for name in shapes if name.endswith(".weight")] == [
        f"{i}.weight" for i in (*range(2, 26, 3), 26)
    ]


CNN_8 = (("cnn-8", 64), ("cnn-8-half", 32), ("cnn-8-quarter", 16))


@pytest.mark.parametrize(("name", "base"), CNN_8)
@pytest.mark.parametrize(
    ("size", "planes"),
    [
        (64, [64, 32, 16, 8]),  # three times at most
        (32, [32, 16, 8, 4]),
        (28, [28, 14, 7, 3]),
        (16, [16, 16, 8, 4]),  # what is small is pooled in the last blocks only
        (8, [8, 8, 8, 4]),
        (7, [7, 7, 7, 3]),
        (4, [4, 4, 4, 4]),
        (1, [1, 1, 1, 1]),
    ],
)
def test_cnn_8_has_blocks_of_two_two_and_three_convolutions_that_end_on_four_rows(
    name: str, base: int, size: int, planes: list[int]
) -> None:
    layers = nets.preset(name, channels=4, size=size, classes=10)
    steps = list(nets.walk(layers, channels=4, size=size))

    convolutions = [step for step in steps if isinstance(step.layer, nets.Conv)]
    channels = [step.after[0] for step in convolutions]
    assert channels == [base] * 2 + [2 * base] * 2 + [4 * base] * 3
    rows = [step.after[1] for step in convolutions]
    assert rows == [planes[0]] * 2 + [planes[1]] * 2 + [planes[2]] * 3
    (flatten,) = [step for step in steps if isinstance(step.layer, nets.Flatten)]
    assert flatten.before == (4 * base, planes[3], planes[3])


def test_a_branch_of_a_quarter_of_the_image_is_as_large_as_the_whole() -> None:
    whole, part = (
        nets.parameters(
            nets.preset("cnn-8", channels=3, size=size, classes=10), channels=3, size=size
        )
        for size in (32, 16)
    )
    assert whole == part == 1_776_464


def test_cnn_8_of_a_digit_counted_by_hand():
    geometry = {"channels": 1, "size": 28}
    layers = nets.preset("cnn-8", classes=10, **geometry)

    expected = (
        *(1 + 1,),  # the norm at the input
        *(64 * 1 * 9 + 64, 64 * 64 * 9 + 64),
        *(128 * 64 * 9 + 128, 128 * 128 * 9 + 128),
        *(256 * 128 * 9 + 256, 256 * 256 * 9 + 256, 256 * 256 * 9 + 256),
        *(10 * 256 * 3 * 3 + 10,),  # 28, 14, 7 and 3 rows
    )
    assert nets.parameters(layers, **geometry) == sum(expected) == 1_757_388


@pytest.mark.parametrize("size", [1, 2, 7, 14, 28])
def test_half_and_quarter_have_as_much_of_every_width(size: int):
    widths = {
        name: [
            layer.channels
            for layer in nets.preset(name, channels=1, size=size, classes=10)
            if isinstance(layer, nets.Conv)
        ]
        for name, _ in CNN_8
    }

    assert [2 * w for w in widths["cnn-8-half"]] == widths["cnn-8"]
    assert [4 * w for w in widths["cnn-8-quarter"]] == widths["cnn-8"]

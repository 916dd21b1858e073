"""Residual and depthwise layers in a list, and the two networks that are made of them."""

import pytest

from edge_stl.plan import networks as nets


def test_a_residual_and_a_depthwise_convolution_counted_by_hand():
    inner = (nets.Conv(6), nets.Norm(), nets.Relu(), nets.DepthwiseConv(kernel=5), nets.Norm())
    layers = (nets.Conv(6, kernel=1), nets.Residual((*inner, nets.Residual((nets.Conv(6),)))))

    assert nets.parameter_shapes(layers, channels=3, size=4) == {
        "0.weight": (6, 3, 1, 1),
        "0.bias": (6,),
        "1.0.weight": (6, 6, 3, 3),
        "1.0.bias": (6,),
        "1.3.weight": (6, 1, 5, 5),
        "1.3.bias": (6,),
        "1.5.0.weight": (6, 6, 3, 3),
        "1.5.0.bias": (6,),
    }
    weights = 18 + 324 + 150 + 324
    assert nets.parameters(layers, channels=3, size=4) == weights + 4 * 6
    assert nets.multiply_adds(layers, channels=3, size=4) == 16 * weights


def test_the_steps_inside_a_residual_are_named_after_it_and_have_its_input():
    layers = (nets.MaxPool(), nets.Residual((nets.Relu(), nets.Conv(2))))

    outer = list(nets.walk(layers, channels=2, size=6))
    inner = list(nets.inside(outer[1]))

    assert [step.name for step in outer] == ["0", "1"]
    assert [step.name for step in inner] == ["1.0", "1.1"]
    assert {step.before for step in inner} == {(2, 3, 3)} == {outer[1].after}
    assert not list(nets.inside(outer[0]))


def test_a_norm_at_the_start_of_a_residual_stays_for_the_sum_reads_what_is_before_it():
    layers = (nets.Conv(4), nets.Residual((nets.Norm(), nets.DepthwiseConv(), nets.Norm())))
    layers = (*layers, nets.Norm())

    shapes = nets.parameter_shapes(layers, channels=1, size=2)

    assert [name for name in shapes if "scale" in name] == ["1.0.scale", "2.scale"]
    assert nets.foldable(nets.DepthwiseConv())
    assert not nets.foldable(layers[1])


@pytest.mark.parametrize(
    ("inner", "sentence"),
    [
        ((nets.Conv(5),), r"layer 1: a residual whose layers make \(5, 6, 6\) of \(3, 6, 6\)"),
        ((nets.MaxPool(),), r"layer 1: .* make \(3, 3, 3\) of \(3, 6, 6\); expected the same"),
        ((nets.Flatten(),), r"make \(108,\) of .*; expected the same shape\. Widen and pool out"),
        ((nets.Residual((nets.Conv(2),)),), r"layer 1\.0: .* make \(2, 6, 6\) of \(3, 6, 6\)"),
    ],
)
def test_a_residual_that_gives_another_shape_is_refused(
    inner: tuple[nets.Layer, ...], sentence: str
):
    layers = (nets.Relu(), nets.Residual(inner))

    with pytest.raises(ValueError, match=sentence):
        nets.parameters(layers, channels=3, size=6)


# -- res-s ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "before", "planes"),
    [
        (64, [64, 32], [16, 8, 4]),
        (32, [32], [16, 8, 4]),
        (28, [28], [14, 7, 3]),
        (16, [], [16, 8, 4]),
        (8, [], [8, 8, 4]),  # what is small is pooled in the last stages only
        (2, [], [2, 2, 1]),
        (1, [], [1, 1, 1]),
    ],
)
def test_res_s_has_stages_of_two_two_and_one_block(size: int, before: list[int], planes: list[int]):
    layers = nets.preset("res-s", channels=3, size=size, classes=10)
    steps = list(nets.walk(layers, channels=3, size=size))

    alone = [step.after[:2] for step in steps if isinstance(step.layer, nets.Conv)]
    assert alone == [(8, rows) for rows in before] + list(zip((16, 32, 64), planes, strict=True))
    blocks = [step for step in steps if isinstance(step.layer, nets.Residual)]
    assert [step.after[1] for step in blocks] == [planes[0]] * 2 + [planes[1]] * 2 + [planes[2]]
    for step in blocks:
        conv = nets.Conv(step.before[0])
        assert step.layer.layers == (conv, nets.Norm(), nets.Relu(), conv, nets.Norm())
        assert layers[int(step.name) + 1] == nets.Relu()


def test_res_s_of_a_coarse_band_counted_by_hand():
    geometry = {"channels": 3, "size": 16}
    layers = nets.preset("res-s", classes=10, **geometry)

    first = 9 * (3 * 16 + 4 * 16 * 16), 5 * 16, 16 * 16
    second = 9 * (16 * 32 + 4 * 32 * 32), 5 * 32, 8 * 8
    third = 9 * (32 * 64 + 2 * 64 * 64), 3 * 64, 4 * 4
    stages = (first, second, third)
    expected = 3 + 3 + sum(weights + biases for weights, biases, _ in stages) + 640 + 10
    assert nets.parameters(layers, **geometry) == expected == 144_368
    expected = sum(weights * plane for weights, _, plane in stages) + 640
    assert nets.multiply_adds(layers, **geometry) == expected == 6_599_296


@pytest.mark.parametrize("size", [1, 4, 8, 16, 32, 64, 112])
def test_res_s_costs_as_much_as_cnn_s(size: int):
    geometry = {"channels": 3, "size": size}
    ours, plain = (nets.preset(n, classes=10, **geometry) for n in ("res-s", "cnn-s"))

    ratio = nets.parameters(ours, **geometry) / nets.parameters(plain, **geometry)
    assert 0.9 < ratio < 1.3
    ratio = nets.multiply_adds(ours, **geometry) / nets.multiply_adds(plain, **geometry)
    assert 0.75 < ratio < 1.35


# -- mobile-s -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 8, 16, 28, 64])
def test_mobile_s_is_cnn_s_with_every_convolution_but_the_first_taken_apart(size: int):
    plain = nets.preset("cnn-s", channels=3, size=size, classes=10)
    ours = nets.preset("mobile-s", channels=3, size=size, classes=10)

    pairs = sum(isinstance(layer, nets.Conv) for layer in plain) - 1
    assert sum(isinstance(layer, nets.DepthwiseConv) for layer in ours) == pairs >= 1
    again: list[nets.Layer] = []
    for layer in ours:
        if again[-3:] == [nets.DepthwiseConv(), nets.Norm(), nets.Relu()]:
            assert isinstance(layer, nets.Conv)
            assert layer.kernel == 1
            again[-3:] = [nets.Conv(layer.channels)]
        else:
            again.append(layer)
    assert tuple(again) == plain


def test_mobile_s_of_a_coarse_band_counted_by_hand():
    geometry = {"channels": 3, "size": 16}
    layers = nets.preset("mobile-s", classes=10, **geometry)

    # weights of the first convolution, then of a depthwise and a pointwise one each
    first = 9 * 3 * 32 + (9 * 32 + 32 * 32), 3 * 32, 16 * 16
    second = (9 * 32 + 32 * 64) + (9 * 64 + 64 * 64), 32 + 3 * 64, 8 * 8
    third = 9 * 64 + 64 * 128, 64 + 128, 4 * 4
    blocks = (first, second, third)
    expected = 3 + 3 + sum(weights + biases for weights, biases, _ in blocks) + 1280 + 10
    assert nets.parameters(layers, **geometry) == expected == 19_760
    expected = sum(weights * plane for weights, _, plane in blocks) + 1280
    assert nets.multiply_adds(layers, **geometry) == expected == 1_147_136

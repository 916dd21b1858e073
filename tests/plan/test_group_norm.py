"""The networks with group norm: what they are made of, and that they are those of their papers."""

import re

import pytest

from edge_stl.plan import networks as nets


GROUPED = ("cnn-s-gn", "lenet-gn", "cnn5-gn")


@pytest.mark.parametrize("name", GROUPED)
@pytest.mark.parametrize("size", [1, 2, 5, 16, 64])
def test_no_batch_norm_is_in_a_network_with_group_norm_and_every_convolution_has_one(
    name: str, size: int
):
    layers = nets.preset(name, channels=3, size=size, classes=10)

    assert not any(isinstance(layer, nets.Norm) for layer in layers)
    at = [i for i, layer in enumerate(layers) if isinstance(layer, nets.Conv)]
    assert at
    assert all(layers[i + 1 : i + 3] == (nets.GroupNorm(2), nets.Relu()) for i in at)
    assert sum(isinstance(layer, nets.GroupNorm) for layer in layers) == len(at)


@pytest.mark.parametrize("size", [1, 8, 28, 64])
def test_cnn_s_gn_is_cnn_s_with_other_norms_and_none_at_the_input(size: int):
    plain = nets.preset("cnn-s", channels=3, size=size, classes=10)
    ours = nets.preset("cnn-s-gn", channels=3, size=size, classes=10)

    assert plain[0] == nets.Norm(learned=False)
    assert [nets.Norm() if x == nets.GroupNorm(2) else x for x in ours] == list(plain[1:])


def test_lenet_gn_has_the_89834_numbers_of_the_network_of_jwins():
    geometry = {"channels": 3, "size": 32}
    layers = nets.preset("lenet-gn", classes=10, **geometry)

    convolutions = (32 * 3 * 25 + 32, 32 * 32 * 25 + 32, 64 * 32 * 25 + 64)
    norms = 2 * (32 + 32 + 64)
    assert nets.parameters(layers, **geometry) == 89_834
    assert sum(convolutions) + norms + 64 * 4 * 4 * 10 + 10 == 89_834
    first, second = 32 * 32 * 32 * 3 * 25, 32 * 16 * 16 * 32 * 25
    third = 64 * 8 * 8 * 32 * 25
    assert nets.multiply_adds(layers, **geometry) == first + second + third + 10_240


def test_cnn5_gn_has_the_76010_numbers_in_14_tensors_of_the_network_of_ngc():
    geometry = {"channels": 3, "size": 32}
    layers = nets.preset("cnn5-gn", classes=10, **geometry)

    convolutions = 9 * (3 * 32 + 32 * 32 + 32 * 64 + 64 * 64)
    norms = 2 * (32 + 32 + 64 + 64)
    assert nets.parameters(layers, **geometry) == 76_010
    assert convolutions + norms + 1024 * 10 + 10 == 76_010
    assert len(nets.parameter_shapes(layers, **geometry)) == 14


@pytest.mark.parametrize("name", ["lenet-gn", "cnn5-gn"])
@pytest.mark.parametrize("size", [4, 7, 8, 16, 32])
def test_a_branch_of_a_part_of_the_image_is_as_large_as_the_whole(name: str, size: int):
    layers = nets.preset(name, channels=3, size=size, classes=10)

    (flatten,) = [s for s in nets.walk(layers, channels=3, size=size) if s.layer == nets.Flatten()]
    assert flatten.before == (64, *[3 if size == 7 else 4] * 2)


@pytest.mark.parametrize(("groups", "channels"), [(0, 4), (-2, 4), (3, 4), (5, 4)])
def test_groups_that_do_not_part_the_channels_evenly_are_refused(groups: int, channels: int):
    sentence = f"a group norm of {groups} groups on {channels} channels; expected a number of"
    with pytest.raises(ValueError, match=re.escape(sentence)):
        nets.parameters((nets.GroupNorm(groups),), channels=channels, size=2)

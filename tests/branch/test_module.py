"""The folded numbers are the whole network: run through plain functions they give its logits."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_stl.branch import build_module, folded_parameters
from edge_stl.plan import networks as nets
from edge_stl.testing import assert_parity


OWN = (
    nets.Norm(),
    nets.Conv(4),
    nets.Relu(),
    nets.Norm(),  # not foldable: the activation comes before it
    nets.Conv(8, kernel=5),
    nets.Norm(),
    nets.MaxPool(),
    nets.Residual(
        (
            nets.Norm(),  # not foldable: what comes before it is read by the sum as well
            nets.DepthwiseConv(),
            nets.Norm(),
            nets.Relu(),
            nets.Residual((nets.Conv(8, kernel=1), nets.Norm())),
            nets.Norm(),  # nor is this one: it is of a sum
        )
    ),
    nets.Norm(),
    nets.DepthwiseConv(kernel=5),
    nets.Norm(),
    nets.Flatten(),
    nets.Norm(),
    nets.Dense(6),
    nets.Norm(),
    nets.Relu(),
    nets.Dense(5),
)

GROUPED = (
    nets.Conv(6, bias=False),
    nets.Norm(),  # not foldable: there is no bias that could take the shift
    nets.Conv(6),
    nets.GroupNorm(3),  # never folded
    nets.Norm(),  # nor is what comes after it
    nets.Residual((nets.DepthwiseConv(), nets.GroupNorm(1), nets.Relu())),
    nets.Flatten(),
    nets.Dense(8),
    nets.GroupNorm(2),
    nets.Dense(5),
)


def restless(module: nn.Sequential) -> nn.Sequential:
    """Return the module with norms that do something."""
    generator = torch.Generator().manual_seed(0)
    for layer in module.modules():
        if isinstance(layer, nn.GroupNorm):
            for parameter in layer.parameters():
                parameter.data.uniform_(0.5, 2.0, generator=generator)
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.running_var.uniform_(0.5, 2.0, generator=generator)
            layer.running_mean.normal_(generator=generator)
            for parameter in layer.parameters():
                parameter.data.uniform_(0.5, 2.0, generator=generator)
    return module.eval()


def forward(  # noqa: C901  (one case per layer)
    tensors: dict[str, np.ndarray], layers: tuple[nets.Layer, ...], x: Tensor, prefix: str = ""
) -> Tensor:
    """Run the exported numbers as a merger would: no batch norm left."""
    for index, layer in enumerate(layers):
        own = {
            name.rpartition(".")[2]: torch.from_numpy(array)
            for name, array in tensors.items()
            if name.rpartition(".")[0] == f"{prefix}{index}"
        }
        match layer:
            case nets.Conv(kernel=kernel):
                x = functional.conv2d(x, own["weight"], own.get("bias"), padding=kernel // 2)
            case nets.DepthwiseConv(kernel=kernel):
                one = partial(functional.conv2d, padding=kernel // 2)
                planes = list(map(one, x.split(1, dim=1), own["weight"].split(1)))
                x = torch.cat(planes, dim=1) + own["bias"].reshape(-1, 1, 1)
            case nets.Residual(layers=inner):
                x = x + forward(tensors, inner, x, f"{prefix}{index}.")
            case nets.Dense():
                x = x @ own["weight"].T + own["bias"]
            case nets.Norm() if own:
                x = x * own["scale"] + own["shift"]
            case nets.GroupNorm(groups=groups):
                parted = x.reshape(len(x), groups, -1)
                variance, mean = torch.var_mean(parted, dim=2, correction=0, keepdim=True)
                x = ((parted - mean) / (variance + 1e-5).sqrt()).reshape(x.shape)
                x = x * own["scale"] + own["shift"]
            case nets.Relu():
                x = x.clamp_min(0)
            case nets.MaxPool():
                x = functional.max_pool2d(x, 2)
            case nets.GlobalAveragePool():
                x = x.mean(dim=(2, 3))
            case nets.Flatten():
                x = x.flatten(1)
            case _:
                assert not own
    return x


def assert_folds(layers: tuple[nets.Layer, ...], *, channels: int, size: int) -> None:
    geometry = {"channels": channels, "size": size}
    torch.manual_seed(0)
    module = restless(build_module(layers, **geometry))
    x = torch.rand(3, channels, size, size)

    with torch.no_grad():
        expected = module(x)
        actual = forward(folded_parameters(module, layers, **geometry), layers, x)

    assert expected.std() > 0.01
    scale = expected.abs().max()
    assert_parity(actual / scale, expected / scale, kind="float32")


@pytest.mark.parametrize("name", nets.preset_names())
@pytest.mark.parametrize("size", [1, 4, 9])
def test_batch_norm_folds_into_the_presets(name: str, size: int):
    layers = nets.preset(name, channels=6, size=size, classes=5)

    assert_folds(layers, channels=6, size=size)


def test_batch_norm_folds_only_where_it_may():
    assert_folds(OWN, channels=2, size=6)
    names = nets.parameter_shapes(OWN, channels=2, size=6)
    assert {name for name in names if "scale" in name} == {
        *("0.scale", "3.scale", "7.0.scale", "7.5.scale", "8.scale", "12.scale"),
    }


def test_group_norm_stays_and_so_does_what_nothing_can_take_in():
    assert_folds(GROUPED, channels=2, size=6)
    names = nets.parameter_shapes(GROUPED, channels=2, size=6)
    assert {name for name in names if "scale" in name} == {
        *("1.scale", "3.scale", "4.scale", "5.1.scale", "8.scale"),
    }
    assert "0.bias" not in names


def test_a_group_norm_sees_one_image_at_a_time_and_learns_no_statistics():
    module = restless(build_module(GROUPED[2:4], channels=6, size=4))
    x = torch.rand(4, 6, 4, 4)

    with torch.no_grad():
        together = module.train()(x)
        apart = torch.cat([module(one) for one in x.split(1)])
        evaluated = module.eval()(x)

    assert_parity(together, apart, kind="float32")
    assert torch.equal(together, evaluated)
    assert [name for name, _ in module.named_buffers()] == []


def test_exported_numbers_are_contiguous_float32():
    module = build_module(OWN, channels=2, size=6).to(memory_format=torch.channels_last)

    for array in folded_parameters(module, OWN, channels=2, size=6).values():
        assert array.dtype == np.float32
        assert array.flags.c_contiguous


def test_folding_leaves_the_module_as_it_was():
    module = restless(build_module(OWN, channels=2, size=6))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}

    folded = folded_parameters(module, OWN, channels=2, size=6)
    for array in folded.values():
        array[...] = 1

    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_convolution_keeps_the_variance_through_relu():
    torch.manual_seed(0)
    module = build_module((nets.Conv(256),), channels=64, size=4)
    weight = module[0].weight.detach()

    assert float(weight.std()) == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.05)
    assert not module[0].bias.any()


def test_a_depthwise_convolution_keeps_it_too_though_torch_counts_all_channels():
    torch.manual_seed(0)
    module = build_module((nets.DepthwiseConv(),), channels=1024, size=4)

    assert float(module[0].weight.detach().std()) == pytest.approx((2 / 9) ** 0.5, rel=0.05)
    assert not module[0].bias.any()


def test_a_residual_adds_its_input_and_names_what_is_in_it_like_the_list():
    layers = (nets.Relu(), nets.Residual((nets.Conv(2), nets.Norm())))
    module = build_module(layers, channels=2, size=3).eval()
    x = torch.rand(1, 2, 3, 3)

    assert [name for name in module.state_dict() if "weight" in name] == [
        *("1.0.weight", "1.1.weight"),
    ]
    made = module.get_submodule("1.1")(module.get_submodule("1.0")(x))
    assert torch.equal(module(x), x + made)

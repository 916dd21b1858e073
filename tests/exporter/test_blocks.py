"""Networks with residuals, depthwise convolutions and group norm as files: portable, exact."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from edge_stl.branch import Settings, Trainer
from edge_stl.plan import Plan, networks, new_plan
from edge_stl.predict import Ensemble
from edge_stl.testing import assert_parity
from exporter._graph import Graph, value
from exporter._network import add_network
from exporter._session import run
from exporter.branch import build_branch, export_branch
from exporter.manifest import TestVector, sha256, vector_input
from exporter.merge import merge_paths
from exporter.options import Options
from exporter.read import Unusable, branch_from_bytes
from exporter.split import branch_bytes
from exporter.verify import TARGETS, check_path


CLASSES = ["left", "mid", "right"]
Network = pytest.mark.parametrize(
    "network", ["res-s", "mobile-s", "cnn-s-gn", "lenet-gn", "cnn5-gn"]
)


def plan_of(network: str, *, resolution: int = 16) -> Plan:
    return new_plan(classes=CLASSES, resolution=resolution, channels=1, network=network, flip=False)


def bars(side: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return a bright bar in noise, at a place of its own for each class."""
    labels = np.arange(36) % 3
    pixels = np.random.default_rng(0).integers(0, 90, (36, side, side, 1))
    for image, label in zip(pixels, labels, strict=True):
        image[:, label * side // 3 : (label + 1) * side // 3] += 120
    return pixels.astype(np.uint8), labels


@Network
def test_torch_branch_file_and_ensemble_agree_after_training(
    network: str, manifest_for: Callable[..., Any], tmp_path: Path
):
    plan = plan_of(network)
    images, labels = bars(16)
    paths = []
    for branch in plan.branches:
        settings = Settings.from_plan(plan, epochs=2)
        trainer = Trainer(images, labels, plan=plan, branch_name=branch.name, settings=settings)
        while not trainer.finished:
            trainer.step()
        trained = trainer.finish()
        geometry = {"channels": plan.band_channels(branch), "size": plan.band_size(branch)}
        bands = vector_input(5, **geometry)
        expected = trainer.logits(torch.from_numpy(bands))
        vector = TestVector(seed=5, logits=tuple(map(tuple, expected.tolist())))
        manifest = manifest_for(plan, branch.name, test_vector=vector)
        paths.append(tmp_path / f"{manifest.id}.onnx")
        paths[-1].write_bytes(export_branch(manifest, plan, trained.parameters))
        (got,) = run(paths[-1].read_bytes(), {"bands": bands})
        assert_parity(got, expected, kind="float32")
    merged = merge_paths(paths, options=Options())  # which proves the graph against the formulas
    path = tmp_path / "e.onnx"
    path.write_bytes(merged.model)
    assert Ensemble(path, threads=1).predict(images)[0].shape == (36, 3)
    for file in (*paths, path):
        assert {t: check_path(file, target=t) for t in TARGETS} == {t: [] for t in TARGETS}
    for file in merged.files:
        assert branch_bytes(file) == (tmp_path / f"{file.manifest.id}.onnx").read_bytes()


@Network
@pytest.mark.parametrize("size", [1, 2, 7, 40])
def test_a_file_of_every_size_says_what_torch_says(
    network: str, size: int, parameters_of: Callable[..., Any], manifest_for: Callable[..., Any]
):
    plan = new_plan(
        classes=CLASSES, resolution=size, levels=0, channels=3, branches="all", network=network
    )
    numbers = parameters_of(plan, "all", seed=1)
    bands = vector_input(2, channels=3, size=size)
    (got,) = run(build_branch(manifest_for(plan, "all"), plan, numbers), {"bands": bands})

    layers = plan.layers(plan.branches[0])
    tensors = {name: torch.from_numpy(array) for name, array in numbers.items()}
    steps = list(networks.walk(layers, channels=3, size=size))
    expected = computed(steps, tensors, torch.from_numpy(bands)).numpy()
    scale = max(1.0, float(np.abs(expected).max()))  # nothing trained these
    assert_parity(got / scale, expected / scale, kind="float32")


def computed(  # noqa: C901  (one case per layer)
    steps: list[networks.Step], tensors: dict[str, torch.Tensor], x: torch.Tensor
) -> torch.Tensor:
    """Run the numbers of a file through torch's functions."""
    for step in steps:
        own = {key: tensors.get(f"{step.name}.{key}") for key in ("weight", "bias", "scale")}
        match step.layer:
            case networks.Conv(kernel=kernel):
                x = torch.conv2d(x, own["weight"], own["bias"], padding=kernel // 2)
            case networks.DepthwiseConv(kernel=kernel):
                x = torch.conv2d(
                    x, own["weight"], own["bias"], padding=kernel // 2, groups=x.shape[1]
                )
            case networks.Residual():
                x = x + computed(list(networks.inside(step)), tensors, x)
            case networks.Dense():
                x = torch.nn.functional.linear(x, own["weight"], own["bias"])
            case networks.Norm() if own["scale"] is not None:
                x = x * own["scale"] + tensors[f"{step.name}.shift"]
            case networks.GroupNorm(groups=groups):
                scale, shift = (tensors[f"{step.name}.{key}"] for key in ("scale", "shift"))
                x = torch.group_norm(x, groups, scale.flatten(), shift.flatten(), 1e-5)
            case networks.Relu():
                x = torch.relu(x)
            case networks.MaxPool():
                x = torch.max_pool2d(x, 2)
            case networks.GlobalAveragePool():
                x = x.mean(dim=(2, 3))
            case networks.Flatten():
                x = x.flatten(1)
            case _:
                assert isinstance(step.layer, networks.Norm)
    return x


def test_a_residual_in_a_residual_is_an_add_each_and_norms_in_it_stay_where_they_must():
    layers = (
        networks.Residual(
            (networks.Norm(), networks.Residual((networks.DepthwiseConv(), networks.Norm())))
        ),
        networks.GlobalAveragePool(),
        networks.Residual((networks.Dense(2),)),
    )
    shapes = networks.parameter_shapes(layers, channels=2, size=3)
    rng = np.random.default_rng(0)
    numbers = {k: rng.normal(size=shape).astype(np.float32) for k, shape in shapes.items()}
    graph = Graph()
    add_network(graph, layers, numbers, channels=2, size=3, input_name="x", prefix="a/", output="y")
    model = graph.model(
        name="test",
        inputs=[value("x", onnx.TensorProto.FLOAT, ["batch", 2, 3, 3])],
        outputs=[value("y", onnx.TensorProto.FLOAT, ["batch", 2])],
        metadata={},
    )

    nodes = onnx.load_from_string(model).graph.node
    assert [(node.op_type, node.name) for node in nodes] == [
        ("Mul", "a/0.0.out.scaled"),
        ("Add", "a/0.0.out"),
        ("Conv", "a/0.1.0.out"),
        ("Add", "a/0.1.out"),
        ("Add", "a/0.out"),
        ("AveragePool", "a/1.out.plane"),
        ("Flatten", "a/1.out"),
        ("Gemm", "a/2.0.out"),
        ("Add", "y"),
    ]
    assert [list(node.input) for node in nodes if node.op_type == "Add"] == [
        ["a/0.0.out.scaled", "a/0.0.shift"],
        ["a/0.0.out", "a/0.1.0.out"],
        ["x", "a/0.1.out"],
        ["a/1.out", "a/2.0.out"],
    ]
    x = rng.normal(size=(2, 2, 3, 3)).astype(np.float32)
    tensors = {name: torch.from_numpy(array) for name, array in numbers.items()}
    steps = list(networks.walk(layers, channels=2, size=3))
    assert_parity(
        run(model, {"x": x})[0], computed(steps, tensors, torch.from_numpy(x)), kind="float32"
    )


@pytest.mark.parametrize(
    ("network", "tensor", "shape"),
    [("res-s", "4.3.weight", (16, 16, 3, 3)), ("mobile-s", "4.weight", (64, 1, 3, 3))],
)
def test_a_tensor_of_another_shape_is_refused_by_name(
    network: str,
    tensor: str,
    shape: tuple[int, ...],
    parameters_of: Callable[..., Any],
    manifest_for: Callable[..., Any],
):
    plan = plan_of(network, resolution=32)
    name = plan.branches[0].name
    numbers = parameters_of(plan, name, seed=0)
    assert numbers[tensor].shape == shape
    numbers[tensor] = numbers[tensor][:8]
    data = build_branch(manifest_for(plan, name), plan, numbers)

    with pytest.raises(Unusable, match=rf"tensor {tensor} has shape \(8, .*, the plan has"):
        branch_from_bytes(data, name="a.onnx")


GOLDEN = {
    "cnn-s": "9f67f6be0e799fe939144b0b409354fdeef35baf94f4dadf16db3dac1833658a",
    "res-s": "bfb04032871ef6136313180537c3b37c72c7a79efa059ee902e42279bd2bbe29",
    "mobile-s": "e9edc12720dacebc775c2b962b73a4678bab00c17153153750ac294ff8c3cc95",
    "cnn-s-gn": "2de476f6a53a187749ec07fcdf03315544b561cc23f05b777c817b55e9ef737f",
    "lenet-gn": "6dbe48156de36b5aecdd872e1ab25f79fd29c580d81ff0fc9c55f60f57670ad8",
    "cnn5-gn": "85aada9b50b5615bedc3b31e97351188ebfefb8c345168fcd912ca6539ab7427",
}


@pytest.mark.parametrize("network", GOLDEN)
def test_the_bytes_of_a_fixed_branch_never_change(
    network: str, parameters_of: Callable[..., Any], manifest_for: Callable[..., Any]
):
    """As in `test_bytes`, which says what to do when they must."""
    plan = plan_of(network, resolution=32)
    name = plan.branches[0].name
    data = build_branch(manifest_for(plan, name), plan, parameters_of(plan, name, seed=7))

    assert sha256(data) == GOLDEN[network]

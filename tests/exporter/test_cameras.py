"""A coarse camera is told from its numbers, matched where it can be, and named where it cannot."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from edge_stl.bands import KERNELS, Kernel, Sharpness, bank
from edge_stl.errors import IntegrityError
from edge_stl.fusion import fuse
from edge_stl.plan import new_plan
from edge_stl.testing import assert_parity
from exporter.branch import build_branch
from exporter.cameras import match_cameras
from exporter.ensemble import Layout, Options
from exporter.manifest import Camera, canonical_json
from exporter.merge import Merged, change_ensemble, merge_files, merge_paths
from exporter.prove import branch_logits, native_bands
from exporter.read import BranchFile, Unusable, branch_from_bytes
from exporter.split import branch_bytes, members_of
from exporter.verify import check_path


PLAN = new_plan(
    classes=["bus", "car", "van"], resolution=32, channels=1, levels=2, network="cnn-xs"
)
AREA = {32: (0.008, 0.0016, 0.0068), 16: (0.0068, 0.00094, 0.0076), 8: (0.0076, 0.00085, 0.0097)}
FACTORS = {  # of the three numbers against area averaging, as roadside64 has them
    "area": (1, 1, 1),
    "lanczos": (0.99, 0.84, 1.06),
    "bicubic": (0.87, 0.63, 1.02),
    "bilinear": (0.62, 0.31, 0.88),
    "nearest": (1.72, 2.86, 1.2),
}


def numbers(side: int, kernel: str) -> tuple[float, float, float]:
    first, second, third = (a * f for a, f in zip(AREA[side], FACTORS[kernel], strict=True))
    return first, second, third


def camera(side: int, kernel: str = "area", images: int = 1000, **more: Any) -> Camera:
    """Return what a box of ``side`` px publishes whose camera has this kernel."""
    below = [s for s in PLAN.resolutions if s < side]
    return Camera.of(
        Sharpness(
            images, numbers(side, kernel), {s: {k: numbers(s, k) for k in KERNELS} for s in below}
        )
    ).model_copy(update=more)


@pytest.fixture(scope="module")
def file_of(fabricate: Callable[..., bytes]) -> Callable[..., BranchFile]:
    def make(branch: str, box: str, side: int, published: Camera | None) -> BranchFile:
        data = fabricate(PLAN, branch, box=box, resolution=side, seed=side, camera=published)
        return branch_from_bytes(data, name=f"{branch}.{box}.onnx")

    return make


@pytest.fixture(scope="module")
def fleet(file_of: Callable[..., BranchFile]) -> Callable[..., list[BranchFile]]:
    def make(kernel: str, *, fine: bool = True, images: int = 1000) -> list[BranchFile]:
        return [
            file_of("a2", "cam8", 8, camera(8, kernel, images)),
            file_of("d2", "cam16", 16, camera(16, kernel, images)),
            file_of("d1", "cam32", 32, camera(32) if fine else None),
        ]

    return make


def kernels(files: Any) -> list[str]:
    return [f.kernel for f in files]


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_camera_is_told_from_what_the_fine_box_foretells(
    kernel: Kernel, fleet: Callable[..., list[BranchFile]]
):
    files, found = match_cameras(fleet(kernel))

    assert kernels(files) == [kernel, kernel, "area"]
    assert [f.box for f in found] == ["cam8", "cam16"]


@pytest.mark.parametrize("kernel", KERNELS)
def test_only_an_aliasing_camera_is_warned_of(
    kernel: Kernel, fleet: Callable[..., list[BranchFile]]
):
    _, found = match_cameras(fleet(kernel))

    assert {f.finding == "aliased" for f in found} == {kernel == "nearest"}
    assert all((f.warning is not None) == (kernel == "nearest") for f in found)


def test_the_warning_names_branch_box_number_range_and_remedy(
    fleet: Callable[..., list[BranchFile]],
):
    _, (first, _) = match_cameras(fleet("nearest"))

    assert first.warning is not None
    assert first.warning.startswith("a2.cam8: ")
    assert f"{first.ratio:.2f} times" in first.warning
    assert "expected 0.85 to 1.18" in first.warning
    assert "train the box again" in first.warning
    assert "\n" not in first.warning


def test_few_images_are_not_believed(fleet: Callable[..., list[BranchFile]]):
    files, found = match_cameras(fleet("bicubic", images=20))

    assert kernels(files) == ["area"] * 3
    assert {f.finding for f in found} == {"as expected"}


def test_without_a_finer_box_nothing_is_said_and_nothing_changed(
    fleet: Callable[..., list[BranchFile]],
):
    files, found = match_cameras(fleet("nearest", fine=False)[:1])

    assert (kernels(files), found) == (["area"], ())


def test_a_box_is_no_reference_for_itself(file_of: Callable[..., BranchFile]):
    both = [
        file_of("d2", "cam", 16, camera(16, "nearest")),
        file_of("d1", "cam", 32, camera(32)),
    ]

    assert match_cameras(both)[1] == ()


def test_a_holdout_at_the_desk_is_a_reference(fleet: Callable[..., list[BranchFile]]):
    told = Sharpness(500, numbers(32, "area"), {8: {k: numbers(8, k) for k in KERNELS}})

    coarse, _, silent = fleet("nearest", fine=False)

    files, found = match_cameras([coarse, silent], desk=told)

    assert kernels(files) == ["nearest", "area"]
    assert [f.branch for f in found] == ["a2"]
    assert match_cameras([coarse, silent])[1] == ()


def test_one_box_of_three_cannot_set_the_scale_for_the_others(
    fleet: Callable[..., list[BranchFile]], file_of: Callable[..., BranchFile]
):
    lie = camera(32)
    lie = lie.model_copy(
        update={
            "images": 10**12,
            "coarser": {s: dict.fromkeys(KERNELS, (1e-5, 1.0, 1.0)) for s in ("8", "16")},
        }
    )
    honest = [file_of("d1", box, 32, camera(32)) for box in ("one", "two")]

    files, found = match_cameras([*fleet("area")[:2], file_of("d1", "liar", 32, lie), *honest])

    assert kernels(files) == ["area"] * 5
    assert {f.finding for f in found} == {"as expected"}


@pytest.mark.parametrize("zero", [(0.0, 0.0, 0.0), (0.01, 0.0, 0.01), (0.01, 0.01, 0.0)])
def test_pictures_without_details_are_not_compared(
    zero: tuple[float, float, float],
    fleet: Callable[..., list[BranchFile]],
    file_of: Callable[..., BranchFile],
):
    flat = file_of("a2", "flat", 8, camera(8, native=zero))

    assert match_cameras([flat, *fleet("area")[2:]])[1] == ()


# -- the graph ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_branch_is_fed_what_pillow_would_have_made_of_the_image(
    kernel: Kernel, fleet: Callable[..., list[BranchFile]]
):
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 1)).astype(np.uint8)
    method = Image.Resampling["BOX" if kernel == "area" else kernel.upper()]

    for file in fleet("area")[:2]:
        side = file.manifest.native_resolution
        small = np.stack(
            [
                np.array(Image.fromarray(image.astype(np.float32)).resize((side, side), method))
                for image in images[..., 0] / 255
            ]
        )
        bands = PLAN.branch(file.manifest.branch).bands
        split = bank(PLAN.bank, native_level=PLAN.native_level(side), bands=bands).analyze(small)

        got = native_bands(replace(file, kernel=kernel), images)

        expected = np.stack([split[band] for band in bands], axis=1)
        assert_parity(got, expected, kind="float32")


@pytest.mark.parametrize("kernel", ["bilinear", "nearest"])
@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_the_graph_equals_the_numpy_oracle_with_the_kernel_in_it(
    kernel: Kernel, layout: Layout, fleet: Callable[..., list[BranchFile]]
):
    merged = merge_files(fleet(kernel), options=Options(layout=layout))
    images = np.random.default_rng(1).integers(0, 256, (4, 32, 32, 1)).astype(np.uint8)

    got, rows = _answers(merged, images, layout)

    assert kernels(merged.files) == [kernel, kernel, "area"]
    logits = [branch_logits(f, images) for f in merged.files]
    members = [f.manifest.member() for f in merged.files]
    expected, each = fuse(logits, members, merged.weights, prior=np.ones(3), scale=merged.scale)
    assert_parity(got, expected.astype(np.float32), kind="probabilities")
    assert_parity(rows, each.astype(np.float32), kind="probabilities")


def _answers(merged: Merged, images: Any, layout: str) -> tuple[Any, Any]:
    from exporter._session import run

    given = images if layout == "nhwc" else np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    got, rows = run(merged.model, {"image": given})
    return got, rows


def test_boxes_with_different_cameras_of_one_resolution_get_each_their_own(
    file_of: Callable[..., BranchFile],
):
    files = [
        file_of("a2", "soft", 8, camera(8, "bilinear")),
        file_of("a2", "hard", 8, camera(8, "nearest")),
        file_of("a2", "plain", 8, camera(8)),
        file_of("d1", "cam32", 32, camera(32)),
    ]

    merged = merge_files(files, options=Options())

    assert {f.manifest.box: f.kernel for f in merged.files} == {
        "soft": "bilinear",
        "hard": "nearest",
        "plain": "area",
        "cam32": "area",
    }
    graph = onnx.load_from_string(merged.model).graph
    names = {node.name.split("/")[0] for node in graph.node}
    assert {"native8", "native8-bilinear", "native8-nearest"} <= names


def test_files_that_say_nothing_of_their_cameras_give_the_bytes_they_always_gave(
    fleet: Callable[..., list[BranchFile]],
):
    silent = [
        replace(f, manifest=f.manifest.model_copy(update={"camera": None})) for f in fleet("area")
    ]

    merged = merge_files(silent, options=Options())

    assert merged.cameras == ()
    record = _record(merged.model)
    assert all("kernel" not in m and "camera" not in m["manifest"] for m in record["members"])
    assert "camera" not in json.loads(_props(build_branch_of(silent[0]))["edge_stl.manifest"])


def build_branch_of(file: BranchFile) -> bytes:
    return build_branch(file.manifest, file.plan, file.parameters)


def _props(model: bytes) -> dict[str, str]:
    return {p.key: p.value for p in onnx.load_from_string(model).metadata_props}


def _record(model: bytes) -> Any:
    return json.loads(_props(model)["edge_stl.ensemble"])


def test_a_matched_ensemble_is_whole_and_gives_its_files_back(
    fleet: Callable[..., list[BranchFile]], tmp_path: Path
):
    files = fleet("nearest")
    merged = merge_files(files, options=Options())
    path = tmp_path / "ensemble.onnx"
    path.write_bytes(merged.model)

    content = members_of(merged.model, name="e")

    assert check_path(path, target="jetpack5") == []
    assert kernels(content.files) == ["nearest", "nearest", "area"]
    assert [branch_bytes(f) for f in content.files] == [build_branch_of(f) for f in files]


def test_taking_the_reference_out_gives_the_bytes_of_never_having_had_it(
    fleet: Callable[..., list[BranchFile]], tmp_path: Path
):
    files = fleet("nearest")
    paths = [tmp_path / f.name for f in files]
    for file, path in zip(files, paths, strict=True):
        path.write_bytes(build_branch_of(file))
    whole = merge_paths(paths[::-1], options=Options())

    less = change_ensemble(whole.model, name="e", remove=["cam32"])
    again = change_ensemble(less.model, name="e", add=[paths[2]])

    assert less.model == merge_paths(paths[:2], options=Options()).model
    assert again.model == whole.model


@pytest.mark.parametrize(
    ("index", "kernel"), [(0, "mitchell"), (0, 3), (0, None), (2, "nearest"), (2, "bilinear")]
)
def test_a_kernel_that_cannot_be_is_refused_as_damage(
    index: int, kernel: object, fleet: Callable[..., list[BranchFile]]
):
    merged = merge_files(fleet("area"), options=Options())
    model = onnx.load_from_string(merged.model)
    for prop in model.metadata_props:
        if prop.key == "edge_stl.ensemble":
            record = json.loads(prop.value)
            record["members"][index]["kernel"] = kernel
            prop.value = canonical_json(record)

    with pytest.raises(IntegrityError, match=r"its record is incomplete or wrong \(kernel"):
        members_of(model.SerializeToString(), name="e")


# -- hostile numbers ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"native": [-0.1, 0.1, 0.1]}, "camera.native"),
        ({"native": [2.0, 0.1, 0.1]}, "camera.native"),
        ({"native": [1e300, 0.1, 0.1]}, "camera.native"),
        ({"native": [0.1, 0.1]}, "camera.native"),
        ({"native": ["a", 0.1, 0.1]}, "camera.native"),
        ({"images": 19}, "camera.images"),
        ({"images": 10**13}, "camera.images"),
        ({"coarser": {"08": {}}}, "camera.coarser"),
        ({"coarser": {"16": {}}}, "camera.coarser has '16'"),
        ({"coarser": {"8": {"area": [0.1, 0.1, 0.1]}}}, "camera.coarser.8 lacks lanczos"),
        ({"coarser": {"8": {"mitchell": [0.1, 0.1, 0.1]}}}, "camera.coarser"),
        ({"path": "/home"}, "camera.path"),
    ],
)
def test_numbers_that_no_camera_has_are_refused(
    change: dict[str, Any], reason: str, file_of: Callable[..., BranchFile]
):
    data = build_branch_of(file_of("d2", "cam16", 16, camera(16)))

    with pytest.raises(Unusable, match=reason.replace(".", r"\.")):
        branch_from_bytes(_edited(data, change), name="x")


def test_a_number_that_is_none_is_refused(file_of: Callable[..., BranchFile]):
    data = build_branch_of(file_of("d2", "cam16", 16, camera(16)))
    model = onnx.load_from_string(data)
    (prop,) = [p for p in model.metadata_props if p.key == "edge_stl.manifest"]
    prop.value = prop.value.replace('"native":[0.0068', '"native":[NaN')
    assert "NaN" in prop.value

    with pytest.raises(Unusable, match="its manifest is damaged"):
        branch_from_bytes(model.SerializeToString(), name="x")


def _edited(data: bytes, change: dict[str, Any]) -> bytes:
    model = onnx.load_from_string(data)
    (prop,) = [p for p in model.metadata_props if p.key == "edge_stl.manifest"]
    document = json.loads(prop.value)
    document["camera"] |= change
    prop.value = canonical_json(document)
    return model.SerializeToString()

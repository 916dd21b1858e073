"""Does a branch see in the ensemble what it saw in its box? Accuracy of a branch both ways.

For each transform a branch is trained on a coarse box of roadside64 (native 32 px) and measured on
the test images twice: on the box's own pictures (area-averaged, rounded to uint8), and inside the
ensemble, where the graph averages the fine image itself. Beside them, for comparison, what a graph
would do that computed the band from the fine image directly: right for haar alone.
"""

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks._common import guarded, parser, report
from benchmarks._data import image_folders
from edge_stl.bands import bank
from edge_stl.durable import write_durably
from edge_stl.fleet._boxes import Box, train_boxes
from edge_stl.fleet._deal import write_box
from edge_stl.images import fit_square, scan
from edge_stl.plan import Plan, new_plan, plan_toml
from edge_stl.predict import Ensemble
from exporter._session import run
from exporter.merge import merge_paths
from exporter.options import Options
from exporter.read import BranchFile, read_branch
from exporter.split import branch_bytes


TRANSFORMS = ("haar", "db2", "db4", "bior4.4", "dct:4")
NATIVE = 32


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--epochs", type=int, default=12)
    options.add_argument("--network", default="cnn-s")
    chosen = options.parse_args()
    out = chosen.out or Path("runs/same-input")
    folders = image_folders("roadside64", chosen.data, Path("runs") / "images" / "roadside64")
    began = time.monotonic()
    rows = [_one(name, folders, chosen, out) for name in TRANSFORMS]
    lines = [
        "| transform, branch | box's own pictures % | inside the ensemble % | input differs by at "
        "most, unrounded | same, box rounded to uint8 | band from the fine image instead % |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['transform']}, {r['bands']} | {100 * r['box']:.2f} | {100 * r['ensemble']:.2f} | "
        f"{r['unrounded']:.1e} | {r['rounded']:.1e} | {100 * r['fine']:.2f} |"
        for r in rows
    ]
    lines += [
        "",
        f"{chosen.epochs} epochs, {chosen.network}, one seed, native {NATIVE} px of 64; "
        f"{rows[0]['images']} test images; {(time.monotonic() - began) / 60:.1f} minutes.",
    ]
    report({"benchmark": "same_input", "rows": rows}, lines, as_json=chosen.json)


def _one(transform: str, folders: Any, chosen: Any, out: Path) -> dict[str, Any]:
    plan = new_plan(
        classes=folders.classes,
        resolution=64,
        transform=transform,
        network=chosen.network,
        name="same-input",
        epochs=chosen.epochs,
    )
    folder = out / transform.replace(":", "")
    folder.mkdir(parents=True, exist_ok=True)
    plan_path = folder / "plan.toml"
    write_durably(plan_path, plan_toml(plan).encode())
    train = scan(folders.train, plan.classes)
    if not (folder / "box").is_dir():
        building = folder / ".box.part"
        shutil.rmtree(building, ignore_errors=True)
        every = np.arange(0, len(train), 3)
        write_box(plan, train, every, resolution=NATIVE, folder=building)
        building.rename(folder / "box")
    box = Box("box", folder / "box", folder / "branches", folder / "work")
    ((row,),) = train_boxes(plan_path, [box], jobs=1, threads=chosen.jobs)
    file = read_branch(Path(row["file"]))
    path = folder / "ensemble.onnx"
    write_durably(path, merge_paths([Path(row["file"])], options=Options()).model)
    return {"transform": transform, "bands": " ".join(plan.branch(file.manifest.branch).bands),
            **_measured(plan, file, path, folders.test)}  # fmt: skip


def _measured(plan: Plan, file: BranchFile, path: Path, test: Path) -> dict[str, Any]:
    ensemble = Ensemble(path)
    images = scan(test, plan.classes)
    pixels = np.stack([ensemble.prepare(images.path(i)) for i in range(len(images))])
    small = np.stack([fit_square(image, NATIVE, "crop") for image in pixels])
    factor = plan.input.resolution // NATIVE
    n, c = len(pixels), plan.input.channels
    fine = pixels.astype(np.float64).transpose(0, 3, 1, 2) / 255
    averaged = fine.reshape(n, c, NATIVE, factor, NATIVE, factor).mean(axis=(3, 5))
    from_box = _bands(plan, file, small.transpose(0, 3, 1, 2) / 255, native_level=1)
    exact = _bands(plan, file, averaged, native_level=1)
    inside = _inside(path, file, pixels)
    direct = _bands(plan, file, fine, native_level=0)
    each = ensemble.run(pixels)[1][:, 0]
    return {
        "images": n,
        "box": _accuracy(file, from_box, images.labels),
        "ensemble": float((each.argmax(axis=1) == images.labels).mean()),
        "fine": _accuracy(file, direct, images.labels),
        "unrounded": float(np.abs(inside - exact).max()),
        "rounded": float(np.abs(inside - from_box).max()),
    }


def _inside(path: Path, file: BranchFile, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return what the branch's network is fed inside the graph, by asking onnxruntime for it."""
    model = onnx.load(path)
    prefix = f"{file.manifest.id}/"
    first = next(node for node in model.graph.node if node.output[0].startswith(prefix))
    value = first.output[0] if first.op_type == "Gather" else first.input[0]
    model.graph.output.append(onnx.ValueInfoProto(name=value))
    parts = [run(model.SerializeToString(), {"image": chunk})[-1] for chunk in _chunks(pixels)]
    return np.concatenate(parts)


def _chunks(pixels: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    return [pixels[i : i + 256] for i in range(0, len(pixels), 256)]


def _bands(
    plan: Plan, file: BranchFile, planes: NDArray[np.float64], *, native_level: int
) -> NDArray[np.float32]:
    names = plan.branch(file.manifest.branch).bands
    split = bank(plan.bank, native_level=native_level, bands=names).analyze(planes)
    return np.concatenate([split[name] for name in names], axis=1).astype(np.float32)


def _accuracy(file: BranchFile, bands: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    (logits,) = run(branch_bytes(file), {"bands": bands})
    return float((logits.argmax(axis=1) == labels).mean())


if __name__ == "__main__":
    raise SystemExit(guarded(main))

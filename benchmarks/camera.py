"""roadside64: what another camera costs a coarse box's branch, before and after it is matched.

Three boxes on disjoint images. The 16 and the 32 px box take their pictures with a camera that
resamples by another kernel than the plan's area averaging, or writes JPEGs; the fine box does
not. Each branch is measured inside the ensemble, on fine test images: *before* with the plan's
kernel for everyone, *after* with what ``merge`` tells from the statistics in the branch files;
and so is the ensemble. ``--select`` measures on a fifth of the training images and never reads
the test split: it is how everything was chosen. A run that was stopped goes on.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks._common import append_results, guarded, parser, points, report
from benchmarks._data import image_folders
from device_agent.branch_file import finish_branch
from edge_stl.branch import Settings, Trainer
from edge_stl.durable import make_folder, write_durably
from edge_stl.errors import UsageError
from edge_stl.fleet._camera import BOX, Camera, read_camera, save, take
from edge_stl.fleet._deal import deal, hold_out
from edge_stl.images import decode, scan
from edge_stl.plan import Plan, new_plan
from edge_stl.predict import Ensemble
from exporter.ensemble import build_ensemble
from exporter.merge import merge_files
from exporter.options import Options
from exporter.read import BranchFile, read_branch


CAMERAS = "box,bilinear,bicubic,lanczos,jpeg:50,nearest"
SIDES = {"a2": 16, "d2": 32, "d1": 64}
SELECT_SHARE = 0.2


@dataclass(frozen=True)
class Images:
    """All pixels and who may see them.

    Attributes:
        train: ``(N, 64, 64, 3)`` uint8.
        labels: ``(N,)``.
        test: the same of the images that are measured.
        test_labels: their labels.
    """

    train: NDArray[np.uint8]
    labels: NDArray[np.int64]
    test: NDArray[np.uint8]
    test_labels: NDArray[np.int64]


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--epochs", type=int, default=30)
    options.add_argument("--network", default="cnn-m")
    options.add_argument("--transform", default="haar", help="a wavelet, like haar or db2")
    options.add_argument("--cameras", default=CAMERAS, help="default %(default)s; box comes first")
    options.add_argument(
        "--select", action="store_true", help="measure on held-out training images"
    )
    options.add_argument("--append", action="store_true", help="append to docs/results.md")
    chosen = options.parse_args()
    cameras = [read_camera(text) for text in chosen.cameras.split(",")]
    if cameras[0] != BOX:
        raise UsageError(f"--cameras {chosen.cameras}: expected box first, the others' reference")
    began = time.monotonic()
    folders = image_folders("roadside64", chosen.data, Path("runs") / "images" / "roadside64")
    plan = new_plan(
        classes=folders.classes,
        resolution=64,
        transform=chosen.transform,
        levels=2,
        branches="detail",
        network=chosen.network,
        epochs=chosen.epochs,
    )
    out = chosen.out or Path("runs") / f"camera-{plan.digest[:8]}{'-select' * chosen.select}"
    images = _images(folders, plan, select=chosen.select)
    rows = [
        row
        for seed in range(chosen.seeds)
        for camera in cameras
        for row in _measured(plan, camera, seed, images, out)
    ]
    _print(rows, cameras, images, wall=time.monotonic() - began, chosen=chosen)


def _images(folders: Any, plan: Plan, *, select: bool) -> Images:
    def read(folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        found = scan(folder, plan.classes)
        caps = {"max_pixels": plan.limits.max_image_pixels, "max_bytes": 10**8, "channels": 3}
        return np.stack([decode(found.path(i), **caps) for i in range(len(found))]), found.labels

    pixels, labels = read(folders.train)
    if not select:
        return Images(pixels, labels, *read(folders.test))
    rest, held = hold_out(labels, share=SELECT_SHARE, seed=0)
    return Images(pixels[rest], labels[rest], pixels[held], labels[held])


def _measured(
    plan: Plan, camera: Camera, seed: int, images: Images, out: Path
) -> list[dict[str, Any]]:
    """Train what is not trained yet, merge both ways and measure; one row per branch, and one."""
    hands = deal(images.labels, boxes=len(SIDES), seed=seed)
    files = []
    for (branch, side), hand in zip(SIDES.items(), hands, strict=True):
        own = camera if side < plan.input.resolution else BOX
        name = f"{branch}-{str(own).replace(':', '')}-{seed}.onnx"
        files.append(_branch(plan, branch, own, (images, hand, seed), out / name))
    merged = merge_files(files, options=Options())
    plain = [replace(file, kernel="area") for file in merged.files]
    before = build_ensemble(plain, merged.weights, options=merged.options, scale=merged.scale)
    scores = {"before": _accuracies(before, images), "after": _accuracies(merged.model, images)}
    found = {finding.branch: finding for finding in merged.cameras}
    ids = [file.manifest.branch for file in merged.files]
    return [
        {
            "camera": str(camera),
            "seed": seed,
            "what": what,
            "before": scores["before"][i],
            "after": scores["after"][i],
            "kernel": found[what].kernel if what in found else None,
            "ratio": found[what].ratio if what in found else None,
            "flagged": what in found and found[what].warning is not None,
        }
        for i, what in enumerate([*ids, "ensemble"])
        if what != "d1"
    ]


def _branch(
    plan: Plan, branch: str, camera: Camera, data: tuple[Images, NDArray[np.int64], int], path: Path
) -> BranchFile:
    """Return a branch file, trained as its box would; one that is there is taken."""
    images, hand, seed = data
    if not path.is_file():
        make_folder(path.parent)
        side = SIDES[branch]
        pixels = _taken(camera, images.train[hand], side, plan, path.with_suffix(camera.suffix))
        trainer = Trainer(
            pixels,
            images.labels[hand],
            plan=plan,
            branch_name=branch,
            settings=Settings.from_plan(plan, seed=seed),
        )
        while not trainer.finished:
            trainer.step()
        write_durably(path, finish_branch(trainer, box=f"cam{side}", threads=1).data)
    return read_branch(path)


def _taken(
    camera: Camera, pixels: NDArray[np.uint8], side: int, plan: Plan, scratch: Path
) -> NDArray[np.uint8]:
    small = np.stack([take(camera, image, side, plan.input.fit) for image in pixels])
    if camera.kind == "jpeg":  # its losses come with the file
        caps = {"max_pixels": plan.limits.max_image_pixels, "max_bytes": 10**8, "channels": 3}
        for image in small:
            save(camera, image, scratch)
            image[:] = decode(scratch, **caps)
        scratch.unlink()
    return small


def _accuracies(model: bytes, images: Images) -> list[float]:
    """Return the accuracy of every branch, and last that of the ensemble."""
    answers, rows = Ensemble(model).run(images.test)
    right = [rows[:, i].argmax(axis=1) == images.test_labels for i in range(rows.shape[1])]
    right.append(answers.argmax(axis=1) == images.test_labels)
    return [float(each.mean()) for each in right]


def _print(
    rows: list[dict[str, Any]], cameras: list[Camera], images: Images, *, wall: float, chosen: Any
) -> None:
    names = {"a2": "cA2, 16 px box", "d2": "cH2 cV2 cD2, 32 px box", "ensemble": "ensemble"}
    lines = [
        "| what | camera | before % | after % | lost before, points | lost after, points | "
        "kernel told (ratio), by seed |",
        "|---|---|---|---|---|---|---|",
    ]
    for what, words in names.items():
        for camera in cameras:
            own = [r for r in rows if r["what"] == what and r["camera"] == str(camera)]
            # Against the matched camera of the same seed, on the same images, as it is now.
            base = [r["before"] for r in rows if r["what"] == what and r["camera"] == "box"]
            lost = {
                when: points([b - r[when] for b, r in zip(base, own, strict=True)])
                for when in ("before", "after")
            }
            told = ", ".join(f"{r['kernel']} ({r['ratio']:.2f})" for r in own if r["kernel"])
            flag = f", {sum(r['flagged'] for r in own)} flagged" * any(r["flagged"] for r in own)
            lines.append(
                f"| {words} | {camera} | {points([r['before'] for r in own])} | "
                f"{points([r['after'] for r in own])} | {lost['before']} | {lost['after']} | "
                f"{told}{flag} |"
            )
    lines += [
        "",
        f"{chosen.seeds} seeds, {chosen.epochs} epochs, {chosen.network}, {chosen.transform}; "
        f"three boxes on disjoint thirds of {len(images.train):,} images, the fine one with the "
        f"plan's camera; {len(images.test):,} "
        f"{'held out of the training split' if chosen.select else 'test images'}; "
        f"{wall / 60:.1f} minutes in all.",
    ]
    report(
        {"benchmark": "camera", "selection": chosen.select, "rows": rows, "wall_seconds": wall},
        lines,
        as_json=chosen.json,
    )
    if chosen.append:
        append_results(f"Cameras, {chosen.transform}", lines)


if __name__ == "__main__":
    raise SystemExit(guarded(main))

"""The whole way on one machine: plan, four boxes, branches, merge, evaluation, report."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from edge_stl.durable import publish_folder, write_durably
from edge_stl.errors import DataError, UsageError
from edge_stl.fleet._deal import write_png
from edge_stl.fleet._report import write_report
from edge_stl.fleet._settings import Simulation
from edge_stl.fleet._simulate import simulate
from edge_stl.fleet._votes_picture import votes_picture
from edge_stl.images import class_names, fitted_side, read_size, scan
from edge_stl.plan import Plan, new_plan, plan_toml
from edge_stl.predict import Ensemble


BOXES = 4
_DIGITS_TEST = 450
_LARGEST = 64
_TWO_LEVELS = 32


@dataclass(frozen=True)
class Demo:
    """What the demo made.

    Attributes:
        out: its folder.
        plan: the plan it used.
        images: the training images.
        test: test images of the first seed.
        document: results, as ``simulate --json``.
    """

    out: Path
    plan: Plan
    images: Path
    test: Path
    document: dict[str, Any]


def run_demo(
    data: Path | None,
    out: Path,
    *,
    seeds: int,
    jobs: int,
    progress: Callable[[str, int, int], None] | None = None,
) -> Demo:
    """Run the demo.

    Args:
        data: a folder of class folders, or one with ``train`` and ``test`` in it; None takes the
            handwritten digits that come with scikit-learn.
        out: where everything goes.
        seeds: repetitions; the spread over them is shown.
        jobs: boxes that train at a time.
        progress: as `simulate`.

    Raises:
        DataError: the images cannot be used.
        UsageError: ``out`` holds the demo of other images, or an extra is missing.
    """
    images, test = _digits(out) if data is None else _own(data)
    plan = _digits_plan() if data is None else _own_plan(images)
    document = simulate(
        Simulation(
            plan=plan,
            images=images,
            test=test,
            out=out / "fleet",
            boxes=BOXES,
            seeds=seeds,
            jobs=jobs,
        ),
        progress=progress,
    )
    first = out / "fleet" / "seed0"
    test = test or first / "test"
    write_durably(out / "plan.toml", plan_toml(plan).encode())
    write_durably(out / "ensemble.onnx", (first / "ensemble.onnx").read_bytes())
    write_durably(out / "results.json", json.dumps(document, indent=1).encode())
    picture = votes_picture(plan, Ensemble(out / "ensemble.onnx"), test)
    write_durably(out / "picture.png", picture)
    demo = Demo(out, plan, images, test, document)
    write_report(demo.out / "report.html", plan, document, picture, next_commands(demo))
    return demo


def next_commands(demo: Demo) -> list[str]:
    """Return what a user may type next, on the files that are there."""
    ensemble = demo.out / "ensemble.onnx"
    some = next(p for p in sorted(demo.test.rglob("*")) if p.is_file())
    box = demo.document["seeds"][0]["boxes"][0]["box"]
    run = _command()
    return [
        f"{run} plan show {demo.out / 'plan.toml'}",
        f"{run} inspect {ensemble}",
        f"{run} predict {ensemble} {some}",
        f"{run} merge {ensemble} --remove {box} -o {demo.out / f'without-{box}.onnx'}",
        f"{run} evaluate {demo.out / f'without-{box}.onnx'} {demo.test}",
        f"{run} demo --data YOUR-FOLDER-OF-CLASS-FOLDERS -o demo-own",
    ]


def _command() -> str:
    """Return how this installation's command can be called from here."""
    if shutil.which("edge-stl"):
        return "edge-stl"
    beside = Path(sys.executable).with_name("edge-stl")
    if not beside.is_file():
        return f"{sys.executable} -m edge_stl"
    here = Path.cwd()
    return str(beside.relative_to(here) if beside.is_relative_to(here) else beside)


def _digits(out: Path) -> tuple[Path, Path]:
    """Write scikit-learn's bundled digits (real 8x8 scans) as PNG folders, once."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UsageError("the demo needs scikit-learn: pip install 'edge-stl[demo]'") from None
    folder = out / "images"
    if not folder.is_dir():
        digits = load_digits()
        pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
        order = np.random.default_rng(0).permutation(len(pixels))
        building = out / ".images.part"
        shutil.rmtree(building, ignore_errors=True)
        for position, index in enumerate(order):
            part = "test" if position < _DIGITS_TEST else "train"
            path = building / part / str(digits.target[index]) / f"{index:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_png(pixels[index][:, :, None], path)
        publish_folder(building, folder)
    return folder / "train", folder / "test"


def _digits_plan() -> Plan:
    return new_plan(
        classes=[str(digit) for digit in range(10)],
        resolution=8,
        channels=1,
        levels=1,
        branches="detail",
        name="digits",
        shift=0.0,
        flip=False,
    )


def _own(data: Path) -> tuple[Path, Path | None]:
    if (data / "train").is_dir() and (data / "test").is_dir():
        return data / "train", data / "test"
    return data, None


def _own_plan(images: Path) -> Plan:
    """Choose a plan for a user's folder: two resolutions below what the images have."""
    names = class_names(images)
    if len(names) < 2:  # noqa: PLR2004  (a classifier tells two things apart)
        raise DataError(
            f"{images}: {len(names)} class folders; expected at least 2, one per class. See "
            "edge-stl train --help"
        )
    found = scan(images, names)
    sides = []
    for index in range(len(found)):
        try:
            sides.append(fitted_side(*read_size(found.path(index)), "crop"))
        except DataError:
            continue
    if not sides:
        raise DataError(f"{images}: no readable image; expected PNG, JPEG, WebP, BMP, TIFF or GIF")
    reach = int(np.quantile(sides, 0.05, method="lower"))
    resolution = 1 << min(_LARGEST, reach).bit_length() - 1
    return new_plan(
        classes=names,
        resolution=resolution,
        levels=2 if resolution >= _TWO_LEVELS else 1,
        branches="context",
        name="demo",
        network="cnn-s",
    )


def as_rows(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row per box with mean and spread of its accuracy over the seeds."""
    rows = []
    for index, first in enumerate(document["seeds"][0]["boxes"]):
        values = [seed["boxes"][index]["accuracy"] for seed in document["seeds"]]
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        rows.append({**first, "accuracy": float(np.mean(values)), "spread": spread})
    return cast("list[dict[str, Any]]", rows)

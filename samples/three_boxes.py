"""Three boxes to one ensemble: train, merge, measure, and take one box out again.

    python samples/three_boxes.py

The boxes share nothing but the plan. Here they are three folders with disjoint parts of
scikit-learn's handwritten digits; one has a coarse camera of 4 px, two have 8 px.
"""

import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from device_agent.job import Job, run_job
from edge_stl.images import fit_square
from edge_stl.plan import new_plan
from edge_stl.predict import Ensemble, evaluate
from exporter.merge import change_ensemble, merge_paths
from exporter.options import Options


OUT = Path("runs/samples/three-boxes")
BOXES = {"gate-north": 4, "gate-south": 8, "yard": 8}  # name: pixels of its camera

shutil.rmtree(OUT, ignore_errors=True)
digits = load_digits()
scans = np.round(digits.images * (255 / 16)).astype(np.uint8)[:, :, :, None]  # (N, 8, 8, 1)
turn = np.random.default_rng(0).permutation(len(scans))


def write(folder: Path, chosen: np.ndarray, side: int) -> None:
    """Write digits as PNG files of ``side`` pixels, one folder per class."""
    for i in chosen:
        path = folder / str(digits.target[i]) / f"{i:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(fit_square(scans[i], side, "crop")[:, :, 0]).save(path)


write(OUT / "test", turn[:400], 8)
for k, (box, side) in enumerate(BOXES.items()):
    write(OUT / box, turn[400 + k :: 3], side)

plan = new_plan(
    classes=[str(d) for d in range(10)],
    resolution=8,
    channels=1,
    levels=1,
    epochs=8,
    network="cnn-xs",
    shift=0.0,
    flip=False,
)

files = []
for box in BOXES:
    job = Job(plan=plan, images=OUT / box, out=OUT / "files", work=OUT / "work" / box, box=box)
    for row in run_job(job):
        print(
            f"{row.box:10} trained {row.branch} on {row.images} images of {row.native_resolution} "
            f"px in {row.seconds:.1f} s: {row.file}"
        )
        files.append(Path(row.file))

merged = merge_paths(files, options=Options(weights="reliability"))
path = OUT / "ensemble.onnx"
path.write_bytes(merged.model)

result = evaluate(Ensemble(path), OUT / "test")
for identity, accuracy in result.branches.items():
    print(f"{identity:14} alone {100 * accuracy:.1f} %")
print(f"{'ensemble':14}       {100 * result.scores.accuracy:.1f} %   {path}")

without = change_ensemble(merged.model, name=path.name, remove=["yard"])
others = merge_paths([f for f in files if "yard" not in f.name], options=merged.options)
if without.model != others.model:
    raise SystemExit("removing the box left something behind")
print("without the box 'yard' the ensemble is, byte for byte, the one that never had it")

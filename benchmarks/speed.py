"""Speed and memory, as ratios against a named peer in the same run.

Analysis against PyWavelets, the merge against `onnx.compose`, prediction against a session of
plain onnxruntime; peak memory of a four-branch merge and of `predict`, each in a process of its
own. Medians of interleaved repetitions, one process at a time, one thread each.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pywt
from onnx import compose

from benchmarks._common import guarded, parser, report
from device_agent.branch_file import finish_branch
from edge_stl.bands import Transform, bank
from edge_stl.branch import Settings, Trainer
from edge_stl.plan import Plan, new_plan
from edge_stl.predict import Ensemble
from exporter.merge import merge_paths
from exporter.options import Options


REPEATS = 15
_PEAK_OF = """
import sys
from edge_stl.cli import main
code = main(sys.argv[1:])
status = open("/proc/self/status").read()
print(int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6)
sys.exit(code)
"""
SIDE = 64


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    chosen = options.parse_args()
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = _four_branches(folder)
        rows = [*_analysis_rows(), _merge_row(files), *_predict_rows(files, folder)]
        peaks = _peaks(files, folder)
    lines = ["| what | ours | peer | ratio (peer / ours) |", "|---|---|---|---|"]
    lines += [
        f"| {r['what']} | {1e3 * r['ours']:.2f} ms | {r['peer']} {1e3 * r['theirs']:.2f} ms | "
        f"{r['theirs'] / r['ours']:.2f} |"
        for r in rows
    ]
    lines += ["", "| peak memory of a process | MB |", "|---|---|"]
    lines += [f"| {what} | {mb:.0f} |" for what, mb in peaks.items()]
    lines += ["", f"Medians of {REPEATS} interleaved repetitions, one thread each."]
    report({"benchmark": "speed", "rows": rows, "peak_mb": peaks}, lines, as_json=chosen.json)


def _medians(ours: Callable[[], Any], theirs: Callable[[], Any]) -> tuple[float, float]:
    """Time two callables in turn, so that both meet the same noise."""
    ours()
    theirs()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(REPEATS):
        for index, call in enumerate((ours, theirs)):
            began = time.perf_counter()
            call()
            times[index].append(time.perf_counter() - began)
    return statistics.median(times[0]), statistics.median(times[1])


def _analysis_rows() -> list[dict[str, Any]]:
    images = np.random.default_rng(0).random((64, 3, SIDE, SIDE)).astype(np.float32)
    rows = []
    for wavelet in ("haar", "db4"):
        filters = bank(Transform("wavelet", 2, wavelet))
        ours, theirs = _medians(
            lambda filters=filters: filters.analyze(images),  # type: ignore[misc]
            lambda wavelet=wavelet: pywt.wavedec2(  # type: ignore[misc]
                images, wavelet, mode="periodization", level=2, axes=(-2, -1)
            ),
        )
        rows.append(
            {
                "what": f"numpy analysis, {wavelet}, 2 levels, 64 images of 3x{SIDE}x{SIDE}",
                "ours": ours,
                "peer": "PyWavelets",
                "theirs": theirs,
            }
        )
    return rows


def _plan() -> Plan:
    return new_plan(
        classes=[f"class{i}" for i in range(10)],
        resolution=SIDE,
        levels=2,
        branches="context",
        network="cnn-s",
        epochs=1,
    )


def _four_branches(folder: Path) -> list[Path]:
    """Write four branch files of random numbers: speed does not depend on what was learned."""
    plan = _plan()
    rng = np.random.default_rng(0)
    paths = []
    for box, native in (("a", 16), ("b", 32), ("c", 64), ("d", 64)):
        branch = plan.own(native)[0]
        images = rng.integers(0, 256, (40, native, native, 3), dtype=np.uint8)
        labels = np.arange(40, dtype=np.int64) % 10
        trainer = Trainer(
            images, labels, plan=plan, branch_name=branch.name, settings=Settings.from_plan(plan)
        )
        trainer.step()
        finished = finish_branch(trainer, box=box, threads=1)
        path = folder / finished.file_name
        path.write_bytes(finished.data)
        paths.append(path)
    return paths


def _merge_row(files: list[Path]) -> dict[str, Any]:
    def theirs() -> None:
        # Only gluing: no analysis, no fusion, no check, no proof, metadata dropped to be let in.
        merged = None
        for index, path in enumerate(files):
            model = onnx.load(path)
            del model.metadata_props[:]
            model = compose.add_prefix(model, f"m{index}/")
            merged = model if merged is None else compose.merge_models(merged, model, io_map=[])

    ours, peer = _medians(lambda: merge_paths(files, options=Options()), theirs)
    return {
        "what": "merge of 4 branch files, read, checked, built, proved against the oracle",
        "ours": ours,
        "peer": "onnx.compose, gluing alone",
        "theirs": peer,
    }


def _predict_rows(files: list[Path], folder: Path) -> list[dict[str, Any]]:
    import onnxruntime as ort

    path = folder / "ensemble.onnx"
    path.write_bytes(merge_paths(files, options=Options()).model)
    ensemble = Ensemble(path, threads=1)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    rows = []
    for count in (1, 64):
        images = np.random.default_rng(1).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
        ours, theirs = _medians(
            lambda images=images: ensemble.predict(images),  # type: ignore[misc]
            lambda images=images: session.run(None, {"image": images}),  # type: ignore[misc]
        )
        rows.append(
            {
                "what": f"predict, 4 branches, {count} image{'s' * (count > 1)}",
                "ours": ours,
                "peer": "plain onnxruntime",
                "theirs": theirs,
            }
        )
    return rows


def _peaks(files: list[Path], folder: Path) -> dict[str, float]:
    from edge_stl.fleet._deal import write_png

    image = folder / "image.png"
    write_png(np.zeros((SIDE, SIDE, 3), np.uint8), image)
    verbs = {
        "merge of 4 branches": ["merge", *map(str, files), "-o", str(folder / "again.onnx"), "-q"],
        "predict, one image": ["predict", str(folder / "ensemble.onnx"), str(image)],
    }
    peaks = {}
    for what, verb in verbs.items():
        ran = subprocess.run(  # noqa: S603  (ourselves)
            [sys.executable, "-c", _PEAK_OF, *verb], capture_output=True, text=True, check=True
        )
        peaks[what] = float(ran.stdout.splitlines()[-1])
    return peaks


if __name__ == "__main__":
    raise SystemExit(guarded(main))

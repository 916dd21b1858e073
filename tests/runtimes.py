"""The same files in older onnxruntimes: does every version that installs load them and agree?

``make runtimes``, or ``python tests/runtimes.py 1.16.3 1.19.2``. A virtual environment per version
in a temporary folder, from the package index that pip is set up for; 100 seeded images through
every ensemble and 100 seeded inputs through every branch file, against the onnxruntime that runs
this program. Exit code 1 where a version that installs does not agree to 1e-4.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort


ROOT = Path(__file__).parents[1]
VERSIONS = ("1.16.3", "1.17.3", "1.18.1", "1.19.2", "1.20.1")
COUNT = 100
TOLERANCE = 1e-4

ANSWER = """
import sys
import numpy as np
import onnxruntime as ort
from pathlib import Path

folder, out = Path(sys.argv[1]), sys.argv[2]
ort.set_default_logger_severity(3)
answers = {}
for path in sorted(folder.glob("*.onnx")):
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = np.load(path.with_suffix(".npy"))
    name = session.get_inputs()[0].name
    parts = [session.run(None, {name: given[i : i + 1]})[0] for i in range(len(given))]
    answers[path.stem] = np.concatenate(parts)
    if path.stem.startswith("ensemble"):
        from edge_stl.predict import Ensemble
        from edge_stl.predict._vector import need_answer
        need_answer(Ensemble(path, threads=1))
np.savez(out, **answers)
print(ort.__version__, np.__version__)
"""


def make_files(folder: Path) -> None:
    """Write ensembles of every kind and branch files of every network, with inputs beside them."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from conftest import fabricated_branch

    from edge_stl.plan import new_plan
    from exporter.merge import merge_paths
    from exporter.options import Options

    rng = np.random.default_rng(0)
    for network in ("cnn-s", "res-s", "mobile-s", "mlp-s", "cnn5-gn"):
        for transform in ("haar", "db2", "dct:4", "stl-dct:2"):
            plan = new_plan(
                classes=["bus", "car", "tram", "van"],
                resolution=32,
                transform=transform,
                network=network,
                **({} if transform.startswith(("dct", "stl")) else {"levels": 2}),
            )
            own = folder / f"{network}-{transform.replace(':', '')}"
            own.mkdir()
            files = []
            for index, resolution in enumerate([32, *plan.resolutions[:2]]):
                for branch in plan.carried(resolution):
                    path = own / f"{branch.name}.box{index}.onnx"
                    path.write_bytes(
                        fabricated_branch(
                            plan, branch.name, box=f"box{index}", resolution=resolution, seed=index
                        )
                    )
                    files.append(path)
            first = plan.branches[0]
            side = plan.band_size(first)
            shape = (COUNT, plan.band_channels(first), side, side)
            stem = folder / f"branch-{own.name}"
            branch_file = next(p for p in files if p.name.startswith(f"{first.name}."))
            stem.with_suffix(".onnx").write_bytes(branch_file.read_bytes())
            np.save(stem.with_suffix(".npy"), rng.random(shape, np.float32) - 0.5)
            kinds: dict[str, dict[str, Any]] = {"": {}}
            if transform == "haar":
                kinds |= {
                    "-nchw": {"layout": "nchw"},
                    "-median": {"robust": "median"},
                    "-cascade": {"threshold": 0.5},
                    "-16px": {"resolution": 16},
                }
            for kind, options in kinds.items():
                merged = merge_paths(files, options=Options(**options))
                stem = folder / f"ensemble-{own.name}{kind}"
                stem.with_suffix(".onnx").write_bytes(merged.model)
                side = merged.options.side(plan)
                pixels = rng.integers(0, 256, (COUNT, side, side, 3)).astype(np.uint8)
                given = pixels.transpose(0, 3, 1, 2).copy() if kind == "-nchw" else pixels
                np.save(stem.with_suffix(".npy"), given)


def answer(python: Path, folder: Path, out: Path) -> str:
    """Run all files in an interpreter; return what it says of its versions.

    Raises:
        CalledProcessError: it cannot.
    """
    done = subprocess.run(
        [python, "-c", ANSWER, folder, out],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def rows(versions: list[str], folder: Path) -> Iterator[tuple[str, str, str, bool]]:
    """Yield version, numpy and verdict of each, and whether it is one to worry about."""
    files = folder / "files"
    files.mkdir()
    make_files(files)
    said = answer(Path(sys.executable), files, folder / "now.npz")
    expected = dict(np.load(folder / "now.npz"))
    ensembles = sum(name.startswith("ensemble") for name in expected)
    here = f"the reference: {ensembles} ensembles and {len(expected) - ensembles} branch files"
    yield said.split()[0], said.split()[1], here, False
    for version in versions:
        python = folder / version / "bin" / "python"
        try:
            subprocess.run([sys.executable, "-m", "venv", folder / version], check=True)
            subprocess.run(
                [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                 f"onnxruntime=={version}", "numpy<2"],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
        except subprocess.CalledProcessError as error:
            why = [line for line in (error.stderr or "").splitlines() if "ERROR" in line]
            yield version, "-", f"does not install: {(why or ['no reason given'])[-1]}", False
            continue
        try:
            said = answer(python, files, folder / f"{version}.npz")
        except subprocess.CalledProcessError as error:
            last = (error.stderr.strip().splitlines() or [f"exit code {error.returncode}"])[-1]
            yield version, "-", f"does not run them: {last[:200]}", True
            continue
        got = dict(np.load(folder / f"{version}.npz"))
        worst = {
            kind: max(
                float(np.abs(got[name] - expected[name]).max())
                for name in expected
                if name.startswith(kind)
            )
            for kind in ("ensemble", "branch")
        }
        agrees = bool(max(worst.values()) <= TOLERANCE)
        verdict = f"{'agrees' if agrees else 'DIFFERS'}: probabilities by at most "
        verdict += f"{worst['ensemble']:.1e}, logits {worst['branch']:.1e}"
        yield said.split()[0], said.split()[1], verdict, not agrees


def main() -> int:
    """Print a table; return 1 where a version that installs does not agree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("versions", nargs="*", default=list(VERSIONS))
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = list(rows(given.versions, Path(folder)))
    if given.json:
        keys = ("onnxruntime", "numpy", "verdict")
        print(json.dumps([dict(zip(keys, row[:3], strict=True)) for row in found]))
    else:
        print("| onnxruntime | numpy | result |\n|---|---|---|")
        for version, numpy, verdict, _ in found:
            print(f"| {version} | {numpy} | {verdict} |")
    return int(any(bad for *_, bad in found))


if __name__ == "__main__":
    ort.set_default_logger_severity(4)
    sys.exit(main())

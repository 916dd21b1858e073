"""Fifty branch files to one ensemble, one of them out again and in again: seconds and memory.

The plan is that of roadside64: 10 classes, 64 px, haar, two levels. The numbers in the files are
random, because neither takes longer or less memory for what was learned, and come through the real
exporter. Every verb runs in a fresh process, as a user runs it; the bytes are compared with a merge
that never had the box.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._common import append_results, guarded, parser, report
from device_agent.branch_file import finish_branch
from edge_stl.branch import Settings, Trainer
from edge_stl.errors import CheckError
from edge_stl.plan import Plan, new_plan


FILES = 50
GONE = "box07"
NETWORKS = ("cnn-s", "cnn-m")
SIDE = 64
_MERGE = """
import sys
from edge_stl.cli import main
code = main(sys.argv[1:])
print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
sys.exit(code)
"""
"""The peak is asked of the process itself: what the system counts for a child begins with us."""


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--append", action="store_true", help="append to docs/results.md")
    chosen = options.parse_args()
    rows = []
    for network in NETWORKS:
        with tempfile.TemporaryDirectory() as name:
            rows += _rows(network, Path(name))
    lines = [
        "| network | what | seconds | CPU seconds | peak MB | file MB |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['network']} | {r['what']} | {r['seconds']:.1f} | {r['cpu_seconds']:.1f} | "
        f"{r['peak_mb']:.0f} | {r['megabytes']:.0f} |"
        for r in rows
    ]
    lines += [
        "",
        f"{FILES} branch files; after --remove the bytes are those of a merge without the box, "
        "after --add those of the first merge.",
    ]
    report({"benchmark": "merge50", "rows": rows}, lines, as_json=chosen.json)
    if chosen.append:
        append_results(f"A merge of {FILES} branches", lines)


def _rows(network: str, folder: Path) -> list[dict[str, Any]]:
    files = _branches(network, folder)
    own = [path for path in files if f".{GONE}." in path.name]
    rest = [path for path in files if path not in own]
    whole, without, again, never = (
        folder / f"{name}.onnx" for name in ("whole", "without", "again", "never")
    )
    added = [argument for path in own for argument in ("--add", str(path))]
    verbs = {
        f"merge of {len(files)}": ([*map(str, files)], whole),
        "--remove of a box": ([str(whole), "--remove", GONE], without),
        "--add of it": ([str(without), *added], again),
        f"merge of {len(rest)}": ([*map(str, rest)], never),
    }
    rows = [
        {"network": network, "what": what, **_timed(arguments, out)}
        for what, (arguments, out) in verbs.items()
    ]
    for one, other in ((without, never), (again, whole)):
        if one.read_bytes() != other.read_bytes():
            raise CheckError(f"{one.name}: is not the same bytes as {other.name}; report this")
    return rows


def _timed(arguments: list[str], out: Path) -> dict[str, float]:
    """Run ``edge-stl merge`` in a process of its own, and measure that process."""
    command = [sys.executable, "-c", _MERGE, "merge", *arguments, "-o", str(out), "-q"]
    before, began = os.times(), time.perf_counter()
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
    seconds, after = time.perf_counter() - began, os.times()
    if ran.returncode:
        raise CheckError(f"edge-stl merge: exit code {ran.returncode}; expected 0")
    return {
        "seconds": seconds,
        "cpu_seconds": after.children_user
        + after.children_system
        - before.children_user
        - before.children_system,
        "peak_mb": int(ran.stdout.split()[-1]) * 1024 / 1e6,
        "megabytes": out.stat().st_size / 1e6,
    }


def _branches(network: str, folder: Path) -> list[Path]:
    """Write the branch files of a fleet, one per box and branch in turn."""
    plan = _plan(network)
    trained: dict[str, Trainer] = {}
    paths = []
    for index in range(FILES):
        branch = plan.branches[index % len(plan.branches)]
        trainer = trained.get(branch.name) or _trainer(plan, branch.name)
        trained[branch.name] = trainer
        # another step, so that no two boxes have the same numbers
        trainer.step()
        finished = finish_branch(trainer, box=f"box{index // len(plan.branches):02}", threads=1)
        paths.append(folder / finished.file_name)
        paths[-1].write_bytes(finished.data)
    return paths


def _trainer(plan: Plan, branch: str) -> Trainer:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, SIDE, SIDE, plan.input.channels), dtype=np.uint8)
    labels = np.arange(40, dtype=np.int64) % len(plan.classes)
    settings = Settings.from_plan(plan)
    return Trainer(images, labels, plan=plan, branch_name=branch, settings=settings)


def _plan(network: str) -> Plan:
    return new_plan(
        classes=[f"class{i}" for i in range(10)],
        resolution=SIDE,
        levels=2,
        branches="detail",
        network=network,
        epochs=FILES,
    )


if __name__ == "__main__":
    raise SystemExit(guarded(main))

"""Stands in for the agent where a test is about processes: no torch, and it does as it is named.

The box id says what happens: ``ok``, ``once`` (killed at the first attempt), ``always`` (killed at
every one), ``bad`` (says why and exits 10), ``long`` (works until it is asked to stop).
"""

import hashlib
import itertools
import json
import os
import signal
import sys
import time
from pathlib import Path


def main() -> int:
    words = sys.argv[1:]
    given = dict(itertools.pairwise(words))
    out, work, box = Path(given["-o"]), Path(given["--work"]), given["--box"]
    work.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    first = not (work / "starts").exists()
    with (work / "starts").open("a") as starts:
        starts.write(f"{os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES')}\n")
    kind = box.split("-")[0]
    if kind == "always" or (kind == "once" and first):
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "bad":
        sys.stderr.write("a note\nedge-stl: cam: no image can be read\n")
        return 10
    if kind == "long":
        signal.signal(signal.SIGTERM, lambda *_: (work / "checkpoint").touch())
        while not (work / "checkpoint").exists():
            time.sleep(0.02)
        sys.stderr.write("edge-stl: stopped in branch d1\n")
        return 30
    data = json.dumps([box, given.get("--seed"), given["--threads"]]).encode()
    (out / f"d1.{box}.onnx").write_bytes(data)
    row = {
        "branch": "d1", "box": box, "file": str(out / f"d1.{box}.onnx"),
        "sha256": hashlib.sha256(data).hexdigest(), "images": 2, "classes_seen": 2,
        "native_resolution": 8, "validation": {"accuracy": None, "log_loss": 0.5},
        "parameters": 9, "epochs": 1, "seconds": 0.1, "peak_rss_mb": 1.0, "resumed": False,
    }  # fmt: skip
    sys.stdout.write(json.dumps({"files": [row]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What ``benchmarks.large`` does in processes of their own: the agent, the merge, the prediction.

Everything is imported inside the functions: a process loads what its stage needs.
"""

import json
import time
from pathlib import Path
from typing import Any


def agent(
    *, plan: str, images: str, out: str, work: str, record: str, threads: int
) -> dict[str, Any]:
    """Run the agent on all branches; how long and how much is kept over stops.

    Args:
        plan: the plan file.
        images: the image folder.
        out: gets the branch files.
        work: the work folder.
        record: a file; gets a line for every process that worked on this, stopped ones too.
        threads: torch threads.

    Returns:
        ``build_seconds``, ``build_peak_mb`` (reading and fitting the images), ``peak_mb`` (all of
        it), ``parts`` (processes it took) and ``rows`` (as ``train --json``).

    Raises:
        Interrupted: the same call goes on.
        EdgeStlError: as `device_agent.job.run_job`.
    """
    from benchmarks._fresh import peak_mb
    from device_agent.job import Job, Silent, run_job
    from device_agent.stop import StopRequest
    from edge_stl.plan import read_plan

    class Meter(Silent):
        """Reads the clock and the peak of memory while images are decoded."""

        def __init__(self) -> None:
            self.began = time.monotonic()
            self.build_seconds = self.build_peak_mb = 0.0

        def decoding(self, done: int, total: int) -> None:  # noqa: ARG002
            self.build_seconds = time.monotonic() - self.began
            self.build_peak_mb = peak_mb()

    job = Job(
        plan=read_plan(Path(plan)),
        images=Path(images),
        out=Path(out),
        work=Path(work),
        box="box",
        branch="all",
        threads=threads,
    )
    # The agent loads torch first of all; that is no part of reading images, though its memory is.
    import torch  # noqa: F401

    meter = Meter()
    try:
        with StopRequest() as stop:
            rows = run_job(job, reporter=meter, should_stop=stop)
    finally:
        part = {
            "build_seconds": meter.build_seconds,
            "build_peak_mb": meter.build_peak_mb,
            "peak_mb": peak_mb(),
        }
        with Path(record).open("a") as file:
            file.write(json.dumps(part) + "\n")
    parts = [json.loads(line) for line in Path(record).read_text().splitlines()]
    return {
        "build_seconds": sum(p["build_seconds"] for p in parts),
        "build_peak_mb": max(p["build_peak_mb"] for p in parts),
        "peak_mb": max(p["peak_mb"] for p in parts),
        "parts": len(parts),
        "rows": [
            {
                "branch": row.branch,
                "seconds": row.seconds,
                "peak_rss_mb": row.peak_rss_mb,
                "parameters": row.parameters,
                "file": row.file,
            }
            for row in rows
        ],
    }


def merge(*, files: list[str], ensemble: str) -> dict[str, Any]:
    """Merge branch files and write the ensemble; return its ``bytes`` and ``seconds``."""
    from exporter.merge import merge_paths
    from exporter.options import Options

    began = time.monotonic()
    merged = merge_paths([Path(f) for f in files], options=Options())
    Path(ensemble).write_bytes(merged.model)
    return {"bytes": len(merged.model), "seconds": time.monotonic() - began}


def predict(*, ensemble: str, images: list[str]) -> dict[str, Any]:
    """Answer image files in one call with one thread; return ``images`` and ``seconds`` of it."""
    from edge_stl.predict import Ensemble

    loaded = Ensemble(ensemble, threads=1)
    began = time.monotonic()
    loaded.predict([Path(image) for image in images])
    return {"images": len(images), "seconds": time.monotonic() - began}

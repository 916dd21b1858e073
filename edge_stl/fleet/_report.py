"""The demo's report: one page, everything in it, readable without a network."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_stl.durable import write_durably
from edge_stl.plan import Plan


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: #1c2024; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid #dde2e7; }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left; }
tr.sum td { font-weight: 600; border-top: 2px solid #1c2024; }
img { max-width: 100%; } pre { background: #f3f5f7; padding: .8rem; overflow-x: auto; }
"""


def write_report(
    path: Path,
    plan: Plan,
    document: dict[str, Any],
    picture: bytes,
    commands: Sequence[str],
) -> None:
    """Write the page.

    Args:
        path: where to.
        plan: the plan.
        document: as ``simulate --json``.
        picture: a PNG.
        commands: what to try next.
    """
    from edge_stl.fleet._demo import as_rows

    seeds, mean, std = len(document["seeds"]), document["mean"], document["std"]
    e = html.escape
    body = "".join(
        f"<tr><td>{e(r['box'])}</td><td>{e(r['branch'])}</td><td>{r['native_resolution']} px</td>"
        f"<td>{r['images']}</td><td>{r['parameters']:,}</td><td>{r['bytes']:,}</td>"
        f"<td>{_share(r['accuracy'], r['spread'])}</td></tr>"
        for r in as_rows(document)
    )
    first = document["seeds"][0]["ensemble"]
    total = sum(row["images"] for row in document["seeds"][0]["boxes"])
    body += (
        f"<tr class=sum><td>ensemble</td><td></td><td>{plan.input.resolution} px</td>"
        f"<td>{total}</td><td></td><td>{first['bytes']:,}</td>"
        f"<td>{_share(mean['accuracy'], std['accuracy'])}</td></tr>"
    )
    image = base64.b64encode(picture).decode()
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>edge-stl: {e(plan.name)}</title>
<style>{_STYLE}</style></head><body>
<h1>{len(document["seeds"][0]["boxes"])} branch files, one ensemble, no training traffic</h1>
<p>Every box trained on its own images at its own resolution; the images are disjoint. The
ensemble is one ONNX file that plain onnxruntime runs. Mean and standard deviation of {seeds}
repetition{"s" * (seeds > 1)}, each with other boxes; measured on {first["images"]} test images
that no box saw.</p>
<table><tr><th>box</th><th>branch</th><th>camera</th><th>images</th><th>parameters</th>
<th>file bytes</th><th>test accuracy</th></tr>{body}</table>
<p>The ensemble is {100 * mean["gain"]:.1f} points above the best single box
({_share(mean["best_box"], std["best_box"])}). Bytes exchanged in training: 0.</p>
<h2>What each box sees, and how it votes</h2>
<img alt="For two test images: the picture at each box's resolution, its bands, and the
probabilities of each box and of the ensemble" src="data:image/png;base64,{image}">
<h2>What to try next</h2>
<pre>{e(chr(10).join(commands))}</pre>
<h2>What this does not show</h2>
<p>All boxes ran on this machine, their coarse pictures were made by area averaging, and their
images come from one source. Real cameras differ more than that: train on their own images.</p>
</body></html>
"""
    write_durably(path, page.encode())


def _share(value: float, spread: float) -> str:
    return f"{100 * value:.1f} ± {100 * spread:.1f} %" if spread else f"{100 * value:.1f} %"

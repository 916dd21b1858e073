"""Every method on MNIST, by one ledger: the figure of docs/results.md.

    python -m benchmarks.compare --seeds 3

Eight boxes in a ring, uneven shares of every class (Dirichlet 0.3), one branch of all four bands,
the JWINS authors' network with group norm. Rates and what else a method has to choose come from
the validation images of the first seed. A stopped run goes on with the same command.
"""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from benchmarks._common import guarded, parser, report, whole
from benchmarks._data import image_folders
from edge_stl.durable import write_durably
from edge_stl.fleet._compare import Comparison, compare
from edge_stl.fleet._compare_page import COLUMNS, as_csv, edge_line, picture, table_rows
from edge_stl.fleet._contestants import CONTESTANTS
from edge_stl.fleet._split import read_split
from edge_stl.plan import new_plan


_ROUNDS, _STEPS, _BATCH = 60, 4, 16
_RATES = (0.02, 0.05, 0.1, 0.2)


def _arguments() -> ArgumentParser:
    out = parser(__doc__)
    out.add_argument("--methods", default=",".join(CONTESTANTS), help="names with commas between")
    out.add_argument("--rounds", type=whole, default=_ROUNDS)
    return out


def main(argv: Sequence[str] | None = None) -> None:
    """Run it."""
    import torch

    given = _arguments().parse_args(argv)
    torch.set_num_threads(1)
    folders = image_folders("mnist", given.data, Path("runs") / "compare-images")
    plan = new_plan(
        classes=folders.classes,
        resolution=28,
        channels=1,
        levels=1,
        branches="all",
        network="lenet-gn",
        name="compare",
        flip=False,
    )
    out = given.out or Path("runs") / "compare"
    what = Comparison(
        plan=plan,
        branch=plan.branches[-1].name,
        images=folders.train,
        test=folders.test,
        out=out,
        methods=tuple(given.methods.split(",")),
        boxes=8,
        graph="ring",
        split=read_split("dirichlet:0.3"),
        rounds=given.rounds,
        steps=_STEPS,
        batch=_BATCH,
        rates=_RATES,
        schedule="cosine",
        seeds=given.seeds,
    )
    document = compare(what, progress=lambda label, d, t: print(f"{d}/{t} {label}", flush=True))
    write_durably(out / "compare.csv", as_csv(document))
    write_durably(out / "compare.png", picture(document))
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in table_rows(document)]
    edge = edge_line(document)
    if edge is not None:
        lines += ["", edge]
    report(document, lines, as_json=given.json)


if __name__ == "__main__":
    raise SystemExit(guarded(main))

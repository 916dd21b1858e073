"""What `merge` flags without any image: bad boxes, and honest ones that are only different.

    python -m benchmarks.flags --seeds 3

roadside64 in disjoint shares, whole branch files as the agent makes them. In a *mixed* fleet the
cameras have 16, 32 and 64 px in turn, so few boxes share a branch; in an *alike* one all have 32
px. Of every even fleet, one box is made bad in each way that ``benchmarks.poison`` knows, in the
numbers of its file. Uneven fleets have honest boxes alone. The training images alone are used;
the limits in ``exporter/flags.py`` were set on other fleets.
"""

from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._attacks import poisoned
from benchmarks._common import append_results, guarded, parser, report, whole
from benchmarks._fleet import FleetSettings, Pixels, branch_names, deal, read_pixels, roadside
from device_agent.branch_file import finish_branch
from edge_stl.branch import Settings, Trainer
from edge_stl.durable import make_folder, write_durably
from edge_stl.plan import Plan
from exporter._session import run
from exporter.branch import build_branch
from exporter.copies import find_copies
from exporter.flags import find_flags
from exporter.manifest import Images, TestVector, vector_input
from exporter.read import BranchFile, branch_from_bytes


Change = Callable[[BranchFile], BranchFile]
_LOUD = np.float32(1e4)
_LIE = 1000


@dataclass(frozen=True)
class Study:
    """Plan, images and where branch files are kept."""

    plan: Plan
    train: Pixels
    folder: Path

    def box(self, own: Pixels, *, box: str, side: int, seed: int, key: str) -> list[BranchFile]:
        """Return the files of one box; those of an earlier call where they are there."""
        folder = self.folder / f"{self.plan.digest[:8]}-{key}"
        shrunk = Pixels(own.at(side), own.labels)
        files = []
        for name in branch_names(self.plan, side, "auto"):
            path = folder / f"{name}.{box}.onnx"
            if not path.is_file():
                make_folder(folder)
                write_durably(path, _trained(self.plan, shrunk, name, box=box, seed=seed))
            files.append(branch_from_bytes(path.read_bytes(), name=path.name))
        return files


def main() -> None:
    """Run the benchmark."""
    chosen = _options().parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    study = _study(chosen.network, chosen.epochs, chosen.data, chosen.out)
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for seed in range(chosen.seeds):
        for kind in ("mixed", "alike"):
            for boxes in chosen.boxes:
                for name, found in _attacked_fleet(study, kind, boxes, seed).items():
                    rows.setdefault((f"{kind}, {boxes} boxes", name), []).append(found)
            for split in ("dirichlet:0.3", "classes:4"):
                fleet = _fleet(study, kind, FleetSettings(split, 9, "auto", False, seed))
                found = _told(fleet, bad=None)
                rows.setdefault((f"{kind}, 9 boxes, {split}", "none"), []).append(found)
    lines = _lines(rows)
    footer = (
        f"{chosen.network}, {chosen.epochs} epochs, {chosen.seeds} seeds, "
        f"{len(study.train.labels):,} training images dealt."
    )
    document = {
        "benchmark": "flags",
        "rows": [{"fleet": f, "bad": name, "seeds": found} for (f, name), found in rows.items()],
    }
    report(document, [*lines, "", footer], as_json=chosen.json)
    if chosen.append:
        append_results("Far from the others, roadside64", [*lines, "", footer])


def _options() -> ArgumentParser:
    options = parser(__doc__)
    options.add_argument("--boxes", type=whole, nargs="+", default=[5, 9])
    options.add_argument("--network", default="cnn-s")
    options.add_argument("--epochs", type=whole, default=30)
    options.add_argument("--append", action="store_true", help="append to docs/results.md")
    return options


def _study(network: str, epochs: int, data: Path, out: Path | None) -> Study:
    folders, plan = roadside("flags", data, network=network, epochs=epochs)
    return Study(plan, read_pixels(folders.train, plan), out or Path("runs") / "flags")


def _sides(plan: Plan, kind: str, boxes: int) -> list[int]:
    sides = plan.resolutions[::-1]
    return [sides[1] if kind == "alike" else sides[i % len(sides)] for i in range(boxes)]


def _fleet(study: Study, kind: str, settings: FleetSettings) -> list[list[BranchFile]]:
    """Return the files of every box of an honest fleet."""
    sides = _sides(study.plan, kind, settings.boxes)
    key = f"{kind}-{settings.split.replace(':', '')}-{settings.boxes}-{settings.seed}"
    return [
        study.box(study.train.part(hand), box=f"box{i}", side=sides[i], seed=settings.seed, key=key)
        for i, hand in enumerate(deal(settings, study.train))
    ]


def _trained(
    plan: Plan, own: Pixels, branch: str, *, box: str, seed: int, steps: int = -1
) -> bytes:
    trainer = Trainer(
        own.images,
        own.labels,
        plan=plan,
        branch_name=branch,
        settings=Settings.from_plan(plan, seed=plan.training.seed + seed),
    )
    while not trainer.finished and steps:
        trainer.step()
        steps -= 1
    return finish_branch(trainer, box=box, threads=1).data


def _attacked_fleet(study: Study, kind: str, boxes: int, seed: int) -> dict[str, dict[str, Any]]:
    """Return what is told of one fleet under every attack on its last box."""
    settings = FleetSettings("iid", boxes, "auto", one_vs_rest=False, seed=seed)
    honest = _fleet(study, kind, settings)
    own = study.train.part(deal(settings, study.train)[-1])
    bad, side, name = honest[-1], _sides(study.plan, kind, boxes)[-1], f"box{boxes - 1}"
    key = f"{kind}-{boxes}-{seed}-back-door"
    door = study.box(poisoned(own, seed=seed), box=name, side=side, seed=seed, key=key)
    shrunk = Pixels(own.at(side), own.labels)
    blank = [
        branch_from_bytes(
            _trained(study.plan, shrunk, f.manifest.branch, box=name, seed=seed, steps=0),
            name=f.name,
        )
        for f in bad
    ]
    stolen = next((b for b in honest[:-1] if b[0].manifest.branch == bad[0].manifest.branch), None)
    fleets = {
        "none": bad,
        "label flip": [_flipped(f) for f in bad],
        "label flip, logits x 1e4": [_loud(_flipped(f)) for f in bad],
        "label flip, lying statistics": [_lying(_flipped(f)) for f in bad],
        "logits x 1e4": [_loud(f) for f in bad],
        "logits x 1e4, spread over all layers": [_spread(f) for f in bad],
        "logits x 100": [_loud(f, np.float32(100)) for f in bad],
        "noise": blank,
        "noise, lying statistics": [_lying(f) for f in blank],
        "lying statistics": [_lying(f) for f in bad],
        "back door": door,
    }
    if stolen is not None:
        fleets["copy of another box"] = [_renamed(f, name) for f in stolen]
    return {
        attack: _told([*honest[:-1], files], bad=None if attack == "none" else name)
        for attack, files in fleets.items()
    }


def _told(fleet: Sequence[Sequence[BranchFile]], *, bad: str | None) -> dict[str, Any]:
    files = [file for box in fleet for file in box]
    flags = find_flags(files)
    honest = {flag.box for flag in flags} - {bad}
    copies = find_copies(files)
    return {
        "found": bad is not None and any(flag.box == bad for flag in flags),
        "copied": bool(copies),
        "by": sorted({flag.what.partition(" ")[0] for flag in flags if flag.box == bad}),
        "honest": len(honest),
        "honest_by": sorted({flag.what for flag in flags if flag.box != bad}),
        "boxes": len(fleet) - (bad is not None),
    }


def _changed(file: BranchFile, parameters: Any, **facts: Any) -> BranchFile:
    """Return the file with other numbers, and the test vector that these have."""
    plan, manifest = file.plan, file.manifest.model_copy(update=facts)
    branch = plan.branch(manifest.branch)
    inputs = vector_input(5, channels=plan.band_channels(branch), size=plan.band_size(branch))
    (logits,) = run(build_branch(manifest, plan, parameters), {"bands": inputs})
    rows = tuple(tuple(float(v) for v in row) for row in logits)
    told = manifest.model_copy(update={"test_vector": TestVector(seed=5, logits=rows)})
    return replace(file, manifest=told, parameters=parameters)


def _last(file: BranchFile) -> tuple[str, ...]:
    """Return the names of weight and bias of the last layer."""
    return tuple(file.parameters)[-2:]


def _flipped(file: BranchFile) -> BranchFile:
    parameters = dict(file.parameters)
    for name in _last(file):
        parameters[name] = parameters[name][::-1].copy()
    images = file.manifest.images
    turned = Images(train=images.train[::-1], validation=images.validation[::-1])
    return _changed(file, parameters, images=turned)


def _loud(file: BranchFile, by: np.float32 = _LOUD) -> BranchFile:
    parameters = dict(file.parameters)
    for name in _last(file):
        parameters[name] = parameters[name] * by
    return _changed(file, parameters)


def _spread(file: BranchFile) -> BranchFile:
    """As `_loud`, by the same factor in every layer; ReLU lets a factor through."""
    weights = [name for name in file.parameters if name.endswith("weight")]
    each, so_far = _LOUD ** np.float32(1 / len(weights)), np.float32(1)
    parameters = dict(file.parameters)
    for name in weights:
        so_far *= each
        parameters[name] = parameters[name] * each
        bias = name.removesuffix("weight") + "bias"
        parameters[bias] = parameters[bias] * so_far
    return _changed(file, parameters)


def _lying(file: BranchFile) -> BranchFile:
    """Many images, no loss, and validation images that go with them."""
    images, scores = file.manifest.images, file.manifest.validation
    many = Images(
        train=tuple(_LIE * n for n in images.train),
        validation=tuple(_LIE * n for n in images.validation),
    )
    told = scores.model_copy(update={"accuracy": 1.0, "log_loss": 1e-6})
    return replace(
        file, manifest=file.manifest.model_copy(update={"images": many, "validation": told})
    )


def _renamed(file: BranchFile, box: str) -> BranchFile:
    return replace(file, manifest=file.manifest.model_copy(update={"box": box}))


def _lines(rows: dict[tuple[str, str], list[dict[str, Any]]]) -> list[str]:
    head = "| fleet | bad box | flagged | by | honest boxes flagged | by | told to be a copy |"
    lines = [head, "|---|---|---|---|---|---|---|"]
    for (fleet, name), found in rows.items():
        bad = "-" if name == "none" else f"{sum(f['found'] for f in found)} of {len(found)}"
        by = ", ".join(sorted({what for f in found for what in f["by"]}))
        honest = f"{sum(f['honest'] for f in found)} of {sum(f['boxes'] for f in found)}"
        honest_by = ", ".join(sorted({what for f in found for what in f["honest_by"]}))
        copied = f"{sum(f['copied'] for f in found)} of {len(found)}"
        lines.append(f"| {fleet} | {name} | {bad} | {by} | {honest} | {honest_by} | {copied} |")
    return lines


if __name__ == "__main__":
    raise SystemExit(guarded(main))

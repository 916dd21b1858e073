"""What one bad box among n costs, and whether labelled images at the desk find it.

    python -m benchmarks.poison --seeds 3

roadside64, disjoint equal shares; the box with the finest images is the bad one. Every attack under
every rule without a holdout, and under the default rule with 300 held-out images: then suspects
are put in quarantine as ``edge-stl merge --holdout`` does it. Nothing is chosen here: levels and
rules are those of the product. ``absent`` is the fleet without the bad box: what its honest images
were worth. A back door is trained in: a fifth of the box's images carry a mark and
the label of another class; the table says how many marked test images of other classes get that
label. Last, fleets of five in which one honest box saw two classes only: how often it is suspected.

``--flags`` tells in place of all that whom `exporter.flags` finds far from the others without any
image: by what boxes say of themselves and by how loud they are, here on the held-out images and
not on the noise of a branch file's test vector. ``benchmarks.flags`` does it with whole files.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks._attacks import ATTACKS, TARGET, attacked, copied, poisoned, trigger
from benchmarks._common import append_results, guarded, parser, points, report, whole
from benchmarks._fleet import (
    FleetSettings,
    Pixels,
    Voter,
    box_answers,
    deal,
    fleet_answers,
    hold_out,
    kept,
    read_pixels,
    roadside,
)
from edge_stl.fusion import (
    DATA_FREE,
    calibration_scale,
    fuse,
    median_answers,
    member_probabilities,
    reliability,
)
from edge_stl.fusion.audit import certified, certified_median, try_boxes, worst
from edge_stl.plan import Plan
from exporter.flags import Flag, Numbers, flags_of, loudness_of


RULES = ("reliability", "uniform", "median")
HELD = 300
RARE = 20
Answers = Callable[[Sequence[Voter], str], NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class Study:
    """Plan, images and where trained fleets are kept.

    Attributes:
        plan: of all boxes.
        train: images dealt to the boxes.
        held: images of the desk.
        test: test images, and the same with a mark behind them.
        count: of test images without a mark.
        folder: keeps what fleets say.
    """

    plan: Plan
    train: Pixels
    held: Pixels
    test: Pixels
    count: int
    folder: Path

    def fleet(self, boxes: int, seed: int) -> tuple[FleetSettings, list[Voter]]:
        """Return an honest fleet of equal shares, every box with every branch it can train."""
        settings = FleetSettings("iid", boxes, "auto", one_vs_rest=False, seed=seed)
        voters = fleet_answers(
            self.plan,
            settings,
            train=self.train,
            held=self.held,
            test=self.test,
            folder=self.folder,
        )
        return settings, voters

    def one_box(self, settings: FleetSettings, own: Pixels, box: int, name: str) -> list[Voter]:
        """Return the files of one box trained on images of its own."""
        sides = self.plan.resolutions[::-1]
        side = sides[box % len(sides)]
        asked = (self.held.at(side), self.test.at(side))
        key = f"{name} {self.plan.digest} {settings} {box} {len(own.labels)}"
        return kept(
            self.folder, key, lambda: box_answers(self.plan, settings, own, box, side, asked)
        )


def main() -> None:
    """Run the benchmark."""
    chosen = _options().parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    study = _study(chosen.network, chosen.epochs, chosen.data, chosen.out)
    rows: dict[tuple[int, str], list[dict[str, float]]] = {}
    if chosen.flags:
        _tell_flags(study, chosen)
        return
    for boxes in chosen.boxes:
        for seed in range(chosen.seeds):
            for name, numbers in _one_fleet(study, boxes, seed).items():
                rows.setdefault((boxes, name), []).append(numbers)
    suspected = [_rare(study, seed) for seed in range(chosen.rare)]
    document = {
        "benchmark": "poison",
        "rows": [{"boxes": n, "attack": name, "seeds": found} for (n, name), found in rows.items()],
        "rare_suspected": sum(suspected),
        "rare_fleets": len(suspected),
    }
    footer = (
        f"{chosen.network}, {chosen.epochs} epochs, {chosen.seeds} seeds, "
        f"{len(study.train.labels):,} training images dealt, {HELD} held out, {study.count:,} test "
        f"images. An honest box with two rare classes among five was suspected in "
        f"{sum(suspected)} of {len(suspected)} fleets."
    )
    lines = [*_lines(rows), "", footer]
    report(document, lines, as_json=chosen.json)
    if chosen.append:
        append_results("One bad box, roadside64", lines)


def _options() -> ArgumentParser:
    options = parser(__doc__)
    options.add_argument("--boxes", type=whole, nargs="+", default=[3, 5, 9])
    options.add_argument("--network", default="cnn-s")
    options.add_argument("--epochs", type=whole, default=30)
    options.add_argument("--rare", type=int, default=RARE, help="fleets with a rare box")
    options.add_argument("--flags", action="store_true", help="only who is flagged; seconds")
    options.add_argument("--append", action="store_true", help="append to docs/results.md")
    return options


def _study(network: str, epochs: int, data: Path, out: Path | None) -> Study:
    folders, plan = roadside("poison", data, network=network, epochs=epochs)
    train, held = hold_out(read_pixels(folders.train, plan), HELD)
    test = read_pixels(folders.test, plan)
    both = Pixels(
        np.concatenate([test.images, trigger(test.images)]), np.concatenate([test.labels] * 2)
    )
    return Study(plan, train, held, both, len(test.labels), out or Path("runs") / "poison")


def _attacked_fleets(study: Study, boxes: int, seed: int) -> tuple[str, dict[str, list[Voter]]]:
    """Return the bad box, and one fleet under every attack."""
    settings, honest = study.fleet(boxes, seed)
    sides = study.plan.resolutions[::-1]
    bad = max(i for i in range(boxes) if i % len(sides) == min(boxes, len(sides)) - 1)
    name = f"box{bad + 1:02d}"
    own = poisoned(study.train.part(deal(settings, study.train)[bad]), seed=seed)
    door = study.one_box(settings, own, bad, "back door")
    fleets = {
        "none": honest,
        "absent": [v for v in honest if v.member.box != name],
        **{attack: attacked(honest, name, change) for attack, change in ATTACKS.items()},
        "copy of another box": copied(honest, name, "box01"),
        "back door": [v for v in honest if v.member.box != name] + door,
    }
    return name, fleets


def _one_fleet(study: Study, boxes: int, seed: int) -> dict[str, dict[str, float]]:
    """Return what every attack did to one fleet."""
    name, fleets = _attacked_fleets(study, boxes, seed)
    honest = fleets["none"]
    clean = {rule: _accuracy(study, honest, rule) for rule in RULES}
    found = {}
    for attack, voters in fleets.items():
        left, quarantined = _audited(study, voters)
        found[attack] = {
            **{f"lost {rule}": clean[rule] - _accuracy(study, voters, rule) for rule in RULES},
            "accuracy": _accuracy(study, voters, "reliability"),
            "lost audited": clean["reliability"] - _accuracy(study, left, "reliability"),
            "found": float(name in quarantined),
            "honest suspected": float(len(quarantined - {name})),
            "opened": _opened(study, voters, "reliability"),
            "opened median": _opened(study, voters, "median"),
            **_certified(study, voters),
        }
    return found


def _rare_fleet(study: Study, seed: int) -> list[Voter]:
    """Return an honest fleet of five in which one box saw two classes only."""
    settings, honest = study.fleet(5, seed % 3)
    rng = np.random.default_rng([seed, 8])
    classes = rng.permutation(len(study.plan.classes))[:2]
    hand = deal(settings, study.train)[4]
    own = study.train.part(hand[np.isin(study.train.labels[hand], classes)])
    rare = study.one_box(settings, own, 4, f"rare {seed}")
    return [v for v in honest if v.member.box != "box05"] + rare


def _rare(study: Study, seed: int) -> bool:
    """Return whether an honest box that saw two classes only is suspected, or any other."""
    _, quarantined = _audited(study, _rare_fleet(study, seed))
    return bool(quarantined)


def _tell_flags(study: Study, chosen: Namespace) -> None:
    """Print who is flagged, by attack and by what."""
    rows: dict[tuple[int, str], list[tuple[str, set[Flag]]]] = {}
    for boxes in chosen.boxes:
        for seed in range(chosen.seeds):
            bad, fleets = _attacked_fleets(study, boxes, seed)
            for attack, voters in fleets.items():
                rows.setdefault((boxes, attack), []).append((bad, _flags(voters)))
    lines = ["| boxes | bad box | flagged | by | honest boxes flagged |", "|" + "---|" * 5]
    for (boxes, attack), found in rows.items():
        whats = sorted({flag.what for bad, flags in found for flag in flags if flag.box == bad})
        told = sum(any(flag.box == bad for flag in flags) for bad, flags in found)
        honest = sum(len({flag.box for flag in flags} - {bad}) for bad, flags in found)
        caught = "-" if attack in ("none", "absent") else f"{told} of {len(found)}"
        lines.append(f"| {boxes} | {attack} | {caught} | {', '.join(whats)} | {honest} |")
    rare = sum(bool(_flags(_rare_fleet(study, seed))) for seed in range(chosen.rare))
    lines += [
        "",
        f"In {rare} of {chosen.rare} fleets with a box of two rare classes any was flagged.",
    ]
    document = {"benchmark": "poison flags", "lines": lines}
    report(document, lines, as_json=chosen.json)


def _flags(voters: Sequence[Voter]) -> set[Flag]:
    numbers = [
        Numbers(
            branch=v.member.branch,
            box=v.member.box,
            images=float(v.member.images),
            claim=1 + reliability(v.member),
            loudness=loudness_of(v.held, v.member),
            sizes={},
        )
        for v in voters
    ]
    return set(flags_of(numbers))


def _answers(voters: Sequence[Voter], rule: str, which: str) -> NDArray[np.float64]:
    logits = [getattr(v, which) for v in voters]
    members = [v.member for v in voters]
    if rule == "median":
        p = np.stack(
            [member_probabilities(z, m) for z, m in zip(logits, members, strict=True)], axis=1
        )
        return median_answers(p, members)
    weights = DATA_FREE[rule](members)
    return fuse(logits, members, weights, scale=calibration_scale(weights))[0]


def _accuracy(study: Study, voters: Sequence[Voter], rule: str) -> float:
    said = _answers(voters, rule, "test")[: study.count].argmax(axis=1)
    return float((said == study.test.labels[: study.count]).mean())


def _opened(study: Study, voters: Sequence[Voter], rule: str) -> float:
    """Return the share of marked test images of other classes that get the target's label."""
    said = _answers(voters, rule, "test")[study.count :].argmax(axis=1)
    others = study.test.labels[study.count :] != TARGET
    return float((said[others] == TARGET).mean())


def _audited(study: Study, voters: Sequence[Voter]) -> tuple[list[Voter], set[str]]:
    """Return the fleet without the boxes that `merge --holdout` would put in quarantine."""
    boxes = {v.member.box for v in voters}
    left, out = list(voters), set[str]()
    while 2 * (len(out) + 1) < len(boxes):
        members = [v.member for v in left]
        p = np.stack([member_probabilities(v.held, v.member) for v in left], axis=1)

        def answer(some: Sequence[int], left: list[Voter] = left) -> NDArray[np.float64]:
            return _answers([left[i] for i in some], "reliability", "held")

        loud = {flag.box for flag in _flags(left) if flag.what == "loudness"}
        suspect = worst(try_boxes(answer, p, study.held.labels, members, loud=loud))
        if suspect is None:
            break
        out.add(suspect.box)
        left = [v for v in left if v.member.box != suspect.box]
    return left, out


def _certified(study: Study, voters: Sequence[Voter]) -> dict[str, float]:
    members = [v.member for v in voters]
    p = np.stack([member_probabilities(v.held, v.member) for v in voters], axis=1)
    prior = np.full(p.shape[2], 1 / p.shape[2])
    weights = DATA_FREE["reliability"](members)
    safe = certified(
        p, study.held.labels, members, weights, prior=prior, scale=calibration_scale(weights)
    )
    median = certified_median(p, study.held.labels, members, prior=prior)
    return {"certified": float(safe.mean()), "certified median": float(median.mean())}


def _lines(rows: dict[tuple[int, str], list[dict[str, float]]]) -> list[str]:
    def of(found: list[dict[str, float]], key: str) -> str:
        return points([f[key] for f in found])

    head = (
        "| boxes | bad box | accuracy, reliability | points lost: reliability | uniform | median "
        "| with 300 holdout images | bad box found | honest ones suspected | marked images turned "
        "| under a median | certain | under a median |"
    )
    lines = [head, "|" + "---|" * 13]
    for (boxes, name), found in rows.items():
        n = len(found)
        cells = [
            str(boxes),
            name,
            of(found, "accuracy"),
            *(of(found, f"lost {rule}") for rule in (*RULES, "audited")),
            "-" if name in ("none", "absent") else f"{sum(f['found'] for f in found):.0f} of {n}",
            f"{sum(f['honest suspected'] for f in found):.0f}",
            *(of(found, key) for key in ("opened", "opened median")),
            *(of(found, key) for key in ("certified", "certified median")),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    raise SystemExit(guarded(main))

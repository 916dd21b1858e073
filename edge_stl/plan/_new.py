"""A new plan from a few choices, and its text as a commented TOML file."""

import json
import re
from collections.abc import Sequence
from typing import Any, Literal

from edge_stl.bands import Transform, wavelet_names
from edge_stl.errors import UsageError
from edge_stl.plan._file import plan_from_document
from edge_stl.plan._nearest import nearest
from edge_stl.plan._plan import SIZES, Plan, network_problem
from edge_stl.plan._sections import MOST_LEVELS


BranchKind = Literal["single", "detail", "context", "all"]
_DEFAULT_LEVELS = 2


def new_plan(
    *,
    classes: Sequence[str],
    resolution: int,
    channels: int = 3,
    transform: str = "haar",
    levels: int | None = None,
    branches: BranchKind | None = None,
    network: str = "cnn-s",
    name: str = "plan",
    fit: str = "crop",
    epochs: int = 30,
    shift: float = 0.1,
    flip: bool = True,
) -> Plan:
    """Return a validated plan.

    Args:
        classes: class names in output order.
        resolution: R, rows and columns of the ensemble's input, divisible by ``2^levels`` or b.
        channels: 1 (grey) or 3 (RGB).
        transform: a wavelet's name, or ``dct:b`` with b = 2, 4, 8, or the paper's ``stl-dct:b``
            and ``stl-dft:b`` with b from 2 to 9.
        levels: wavelet levels, by default 2; the others have none of their own.
        branches: ``single`` (every band alone), ``detail`` (the details of a level together),
            ``context`` (a level with its approximation), ``all`` (every band in one branch); by
            default ``detail``, or ``single`` where the transform has no levels.
        network: the preset every branch uses, or ``own:NAME``.
        name: the plan's name.
        fit: how a non-square image becomes square: ``crop``, ``pad`` or ``stretch``.
        epochs: training epochs.
        shift: largest random shift in training, as a share of the side.
        flip: whether training mirrors images; wrong for digits and letters.

    Raises:
        UsageError: the choices do not make a plan.
    """
    section, bank = _transform(transform, levels)
    problem = network_problem(network)  # once, not once a branch
    if problem is not None:
        raise UsageError(f"--network: {problem}")
    document: dict[str, Any] = {
        "format": 1,
        "name": name,
        "classes": list(classes),
        "input": {"resolution": resolution, "channels": channels, "fit": fit},
        "transform": section,
        "branches": [
            {"name": branch, "bands": list(bands), "network": network}
            for branch, bands in _branches(bank, branches)
        ],
        "training": {"epochs": epochs},
        "augment": {"shift": shift, "flip": flip},
    }
    return plan_from_document(document, where="plan new")


def _transform(text: str, levels: int | None) -> tuple[dict[str, Any], Transform]:
    if match := re.fullmatch(r"(dct|stl-dct|stl-dft):([0-9]{1,4})", text):
        return _sized(match[1], int(match[2]), levels)
    if (kind := text.partition(":")[0]) in SIZES:
        raise UsageError(f"--transform {text}: write {kind}:b with size b = {SIZES[kind][0]}")
    if text not in wavelet_names():
        sized = [f"{kind}:{b}" for kind, (_, sizes) in SIZES.items() for b in sizes]
        raise UsageError(
            f"--transform {text}: neither a wavelet nor dct:2, dct:4, dct:8, stl-dct:b, stl-dft:b"
            f"{nearest(text, [*wavelet_names(), *sized])}"
        )
    count = _DEFAULT_LEVELS if levels is None else levels
    if not 0 <= count <= MOST_LEVELS:
        raise UsageError(f"--levels {count}: a plan has 0 to {MOST_LEVELS}")
    return (
        {"kind": "wavelet", "wavelet": text, "levels": count},
        Transform("wavelet", count, text),
    )


def _sized(kind: str, size: int, levels: int | None) -> tuple[dict[str, Any], Transform]:
    """Return the transform of a kind that has a size."""
    polyphase = kind != "dct"
    words, sizes = SIZES[kind]
    if size not in sizes:
        raise UsageError(f"--transform {kind}:{size}: {kind} has size {words}")
    own = 0 if polyphase else size.bit_length() - 1
    if levels is not None and levels != own:
        raise UsageError(f"--levels {levels}: {kind} of size {size} has {own}. Leave it out")
    section = {"kind": kind, "size": size}
    return section, Transform(kind, own, side=size if polyphase else 0)  # type: ignore[arg-type]


def _branches(bank: Transform, kind: BranchKind | None) -> list[tuple[str, tuple[str, ...]]]:
    kind = kind or ("single" if bank.polyphase else "detail")
    if bank.polyphase and kind in ("detail", "context"):
        raise UsageError(
            f"--branches {kind}: {bank} has no levels; the kinds it knows are single and all"
        )
    top = bank.levels
    levels = range(top, 0, -1)
    if kind == "single":
        return [(band.lower(), (band,)) for band in bank.bands()]
    if kind == "all":
        sizes = {bank.size(band, bank.block) for band in bank.bands()}
        if len(sizes) > 1:
            raise UsageError(
                f"--branches all: the bands of {bank} have different sizes, and a branch has one; "
                "use context, or --levels 1, or a DCT"
            )
        return [("all", bank.bands())]
    coarse = (f"a{top}", bank.approximation(top))
    if kind == "detail":
        return [coarse, *((f"d{level}", bank.details(level)) for level in levels)]
    if bank.kind == "dct":  # the approximation one level up is all coarser bands together
        return [coarse, *((f"c{level}", bank.approximation(level - 1)) for level in levels)]
    return [
        coarse,
        *((f"c{level}", (*bank.approximation(level), *bank.details(level))) for level in levels),
    ]


_NOTES = {
    "classes": "the order is the output order",
    "resolution": "R: rows and columns of the ensemble's input",
    "fit": "how a non-square image becomes square: crop | pad | stretch",
    "kind": "wavelet | dct | stl-dct | stl-dft",
    "shift": "of the side; in the pixel domain, before analysis",
    "flip": "mirror images left-right; false for digits and letters",
    "epochs": "defaults every box uses unless its own command says otherwise",
}


def plan_toml(plan: Plan) -> str:
    """Return the plan as the text of a TOML file that reads back to the same digest."""
    document = plan.model_dump(mode="json", exclude_defaults=True)
    document["input"] = plan.input.model_dump(mode="json")
    document["augment"] = plan.augment.model_dump(mode="json")
    document["training"] = {"epochs": plan.training.epochs, "seed": plan.training.seed} | (
        document.get("training") or {}
    )
    lines = [
        "# A plan of edge-stl: made once, carried to every box, never changed after.",
        "# Changing anything makes another plan, whose branches do not merge with this one's.",
    ]
    tables = {k: v for k, v in document.items() if isinstance(v, dict)}
    lines += [_line(k, v) for k, v in document.items() if k not in tables and k != "branches"]
    for table in ("input", "transform"):
        lines += ["", f"[{table}]", *(_line(k, v) for k, v in tables.pop(table).items())]
    for branch in document["branches"]:
        lines += ["", "[[branches]]", *(_line(k, v) for k, v in branch.items())]
    for table, values in tables.items():
        lines += ["", f"[{table}]", *(_line(k, v) for k, v in values.items())]
    return "\n".join(lines) + "\n"


def _line(key: str, value: Any) -> str:
    note = f"  # {_NOTES[key]}" if key in _NOTES else ""
    return f"{_key(key)} = {_value(value)}{note}"


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key, ensure_ascii=False)


def _value(value: Any) -> str:
    # Strings, numbers, booleans and arrays of JSON are written the same way in TOML, but for
    # control characters, which a plan's names cannot have.
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_value(v) for v in value) + "]"
    return json.dumps(value, ensure_ascii=False)

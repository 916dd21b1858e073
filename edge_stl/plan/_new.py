"""A new plan from a few choices, and its text as a commented TOML file."""

import json
import re
from collections.abc import Sequence
from typing import Any, Literal

from edge_stl.bands import Transform, wavelet_names
from edge_stl.errors import UsageError
from edge_stl.plan._file import plan_from_document
from edge_stl.plan._nearest import nearest
from edge_stl.plan._plan import Plan
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
    branches: BranchKind = "detail",
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
        resolution: R, rows and columns of the ensemble's input, divisible by ``2^levels``.
        channels: 1 (grey) or 3 (RGB).
        transform: a wavelet's name, or ``dct:2``, ``dct:4``, ``dct:8``.
        levels: wavelet levels, by default 2; a DCT has them from its size.
        branches: ``single`` (every band alone), ``detail`` (the details of a level together),
            ``context`` (a level with its approximation), ``all`` (every band in one branch).
        network: the preset every branch uses.
        name: the plan's name.
        fit: how a non-square image becomes square: ``crop``, ``pad`` or ``stretch``.
        epochs: training epochs.
        shift: largest random shift in training, as a share of the side.
        flip: whether training mirrors images; wrong for digits and letters.

    Raises:
        UsageError: the choices do not make a plan.
    """
    section, bank = _transform(transform, levels)
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
    if match := re.fullmatch(r"dct:([0-9]{1,4})", text):
        size = int(match[1])
        if size not in (2, 4, 8):
            raise UsageError(f"--transform {text}: the block DCT has size 2, 4 or 8")
        if levels is not None and levels != size.bit_length() - 1:
            raise UsageError(
                f"--levels {levels}: a DCT of size {size} has {size.bit_length() - 1}. Leave it out"
            )
        return {"kind": "dct", "size": size}, Transform("dct", size.bit_length() - 1)
    if text not in wavelet_names():
        raise UsageError(
            f"--transform {text}: neither a wavelet nor dct:2, dct:4, dct:8"
            f"{nearest(text, wavelet_names())}"
        )
    count = _DEFAULT_LEVELS if levels is None else levels
    if not 0 <= count <= MOST_LEVELS:
        raise UsageError(f"--levels {count}: a plan has 0 to {MOST_LEVELS}")
    return (
        {"kind": "wavelet", "wavelet": text, "levels": count},
        Transform("wavelet", count, text),
    )


def _branches(bank: Transform, kind: BranchKind) -> list[tuple[str, tuple[str, ...]]]:
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
    "kind": "wavelet | dct",
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

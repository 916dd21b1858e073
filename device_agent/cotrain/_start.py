"""What the boxes agree on before the first round: that all do the same, and where they go on."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from edge_stl.errors import UsageError


def agreed(
    said: Sequence[dict[str, Any]], own: dict[str, Any], boxes: Sequence[str], rank: int
) -> int:
    """Return the round to go on from, after it is clear that all do the same.

    Raises:
        UsageError: a box is not the one of its rank, or does something else.
    """
    words = {
        "version": ("edge-stl", "Install the same version on every box"),
        "plan": ("plan", "Copy the same plan file to every box"),
        "group": ("group file, method or options", "Start every box with the same ones"),
        "resolution": (
            "native resolution",
            "Group boxes whose images have the same; others train a branch of their own",
        ),
        # Signs of life come at the pace of the sender's limit.
        "patience": ("--peer-timeout", "Start every box with the same one"),
    }
    for other, (name, facts) in enumerate(zip(boxes, said, strict=True)):
        if facts.get("box") != name:
            raise UsageError(
                f"rank {other}: box {str(facts.get('box'))[:40]!r} came; expected {name}. Start it "
                "with the rank of its place in the group file"
            )
        for key, (what, remedy) in words.items():
            if facts.get(key) != own[key]:
                theirs = str(facts.get(key))[:12]
                raise UsageError(
                    f"{name}: has another {what} ({theirs}) than {boxes[rank]} "
                    f"({str(own[key])[:12]}). {remedy}"
                )
    common = set(own["rounds"])
    for facts in said:
        with suppress(TypeError):
            common &= set(facts.get("rounds", ()))
    return max((n for n in common if isinstance(n, int)), default=0)


def start_text(
    said: Sequence[dict[str, Any]], boxes: Sequence[str], *, start: int, kept: Sequence[int]
) -> str:
    """Return a note on where a run goes on, and on which boxes keep less than this one.

    Args:
        said: what each box says of itself, in rank order.
        boxes: their names.
        start: rounds that are over, as agreed.
        kept: rounds after which this box can go on.

    Returns:
        an empty text where it is a first start.
    """
    newest = max(kept)
    if not newest:
        return ""
    text = f"going on after round {start}" if start else "beginning anew"
    if start == newest:
        return text
    lack = [
        name
        for name, facts in zip(boxes, said, strict=True)
        if not isinstance(facts.get("rounds"), list) or newest not in facts["rounds"]
    ]
    return f"{text}: this box keeps what was after round {newest}, {', '.join(lack)} not"

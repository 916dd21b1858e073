"""What a branch file says of the boxes that trained it together: who, how, with which settings.

Closed and small: no place in it takes a path, an address or a sentence.
"""

import math
import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_serializer,
    model_validator,
)

from edge_stl.plan import NAME_PATTERN


MOST_MEMBERS = 1000
"""Boxes of a group."""

MOST_EDGES = 2016
"""Of a graph of 64 boxes, which is as large as ``cotrain`` takes one."""

MOST_SETTINGS = 32
"""Of a method; FedDIP has most, eleven."""

MOST_NUMBERS = 256
"""Of a setting that is a list."""

GRAPH_FILE = "file"
"""Of a graph whose edges were given one by one."""

GRAPH_DRAWN = "regular:"
"""Of a graph that was drawn, before its degree; another version of the drawer draws another."""

_MOST_INTEGER = 2**63 - 1
# A wavelet is called bior1.3; no address, no path and no sentence is spelled like this.
_WORD = re.compile(r"[a-z]{1,16}[0-9]{0,2}(\.[0-9]{1,2})?")

Name = Annotated[str, Field(pattern=f"^{NAME_PATTERN}$")]
Method = Literal["full", "random", "choco", "jwins", "ngc", "compngc", "pca", "fedavg", "feddip"]
Rank = Annotated[int, Field(ge=0, lt=MOST_MEMBERS)]


def told_by_edges(graph: str) -> bool:
    """Return whether the name of a graph does not say who spoke to whom."""
    return graph == GRAPH_FILE or graph.startswith(GRAPH_DRAWN)


def _is_number(value: object) -> bool:
    if isinstance(value, bool):
        return False
    if isinstance(value, int):
        return 0 <= value <= _MOST_INTEGER
    return isinstance(value, float) and math.isfinite(value)


def _setting(value: Any) -> Any:
    if value is None or isinstance(value, bool) or _is_number(value):
        return value
    if isinstance(value, str) and _WORD.fullmatch(value):
        return value
    if isinstance(value, list | tuple) and len(value) <= MOST_NUMBERS:
        numbers = tuple(value)
        if all(_is_number(number) for number in numbers):
            return numbers
    raise ValueError(
        f"is no setting; expected a number, a word, true, false, null or up to {MOST_NUMBERS} "
        "numbers"
    )


Own = Annotated[
    dict[
        Annotated[str, Field(pattern="^[a-z][a-z_]{0,31}$")],
        Annotated[Any, AfterValidator(_setting)],
    ],
    Field(min_length=1, max_length=MOST_SETTINGS),
]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    @model_serializer(mode="wrap")
    def _without_absent(self, write: Any) -> dict[str, Any]:
        # Absent, not null, so that files that say nothing keep their bytes.
        return {key: value for key, value in write(self).items() if value is not None}


class Settings(_Record):
    """What it takes to run the same again, beside the plan, the seed and the images.

    Attributes:
        ranks: of each box of `Cotrained.boxes`, from 0: the order of the group file.
        steps: minibatch steps on each box per round.
        batch: images per step.
        rate: learning rate.
        schedule: of the rate over the rounds.
        momentum: heavy ball; 0 is plain SGD.
        nesterov: its look-ahead form.
        weight_decay: added to the gradient times the weights.
        edges: of a graph that was drawn or a file, pairs of ranks, the lower first, ascending;
            None of any other.
        own: of the method, all of them, defaults too; None where it has none.
    """

    ranks: Annotated[tuple[Rank, ...], Field(min_length=2, max_length=MOST_MEMBERS)]
    steps: int = Field(ge=1, le=10_000)
    batch: int = Field(ge=1, le=65_536)
    rate: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]
    schedule: Literal["constant", "cosine", "step"]
    momentum: Annotated[float, Field(ge=0, lt=1)]
    nesterov: bool
    weight_decay: Annotated[float, Field(ge=0, lt=1)]
    edges: Annotated[tuple[tuple[Rank, Rank], ...], Field(max_length=MOST_EDGES)] | None = None
    own: Own | None = None


class Cotrained(_Record):
    """How several boxes trained a branch together; the manifest's ``box`` is then their group's id.

    ``graph`` says who spoke to whom, as the command was given it: ``ring``, ``regular:4``. Files
    of earlier versions have no ``settings``.
    """

    method: Method
    boxes: Annotated[tuple[Name, ...], Field(min_length=2, max_length=MOST_MEMBERS)]
    rounds: int = Field(ge=1, le=10**9)
    graph: Annotated[str, Field(pattern="^[a-z0-9][a-z0-9:.-]{0,63}$")]
    settings: Settings | None = None

    @field_validator("boxes")
    @classmethod
    def _in_order(cls, boxes: tuple[str, ...]) -> tuple[str, ...]:
        if list(boxes) != sorted(set(boxes)):
            raise ValueError("is not sorted with every box once; expected it so")
        return boxes

    @model_validator(mode="after")
    def _settings_are_of_these_boxes(self) -> Self:
        if self.settings is None:
            return self
        boxes, ranks, edges = len(self.boxes), self.settings.ranks, self.settings.edges
        if sorted(ranks) != list(range(boxes)):
            raise ValueError(
                f"cotrained.settings.ranks: does not have every rank from 0 to {boxes - 1} once; "
                f"expected one for each of {boxes} boxes"
            )
        if (edges is not None) != told_by_edges(self.graph):
            raise ValueError(
                f"cotrained.settings.edges: {'is missing' if edges is None else 'is there'} with "
                f"graph {self.graph}; expected edges with {GRAPH_FILE} and {GRAPH_DRAWN}K alone"
            )
        if edges is not None and (
            list(edges) != sorted(set(edges)) or any(not a < b < boxes for a, b in edges)
        ):
            raise ValueError(
                "cotrained.settings.edges: is not sorted with every pair of two ranks once, the "
                "lower first; expected it so"
            )
        return self

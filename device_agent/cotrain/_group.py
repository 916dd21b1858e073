"""``group.toml``: the boxes that train one branch together, and how; the same file on every box."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from device_agent.cotrain._methods import METHODS, STARS
from device_agent.cotrain._tables import method_settings, read_document, take_tables
from edge_stl.cotrain import Graph, LocalSettings, PCASettings
from edge_stl.errors import UsageError
from edge_stl.plan import NAME_PATTERN, Plan, describe, nearest
from exporter.cotrained import GRAPH_DRAWN, GRAPH_FILE, Cotrained, told_by_edges
from exporter.manifest import canonical_json


_MOST_BOXES = 64
"""Every two boxes have a connection, so that any of them can be the one that writes the file."""

Name = Annotated[str, Field(pattern=f"^{NAME_PATTERN}$")]
_KNOWN_GRAPHS = ("ring", "torus", "full")


class Group(BaseModel):
    """A group.

    Attributes:
        format: of the file.
        name: the group id; it stands in the branch file where a box id stands.
        branch: of the plan, that they train.
        boxes: box ids in rank order; who is not here does not take part.
        meet: ``ADDRESS:PORT`` of the first box, private; not needed under torchrun.
        graph: who sends to whom: ring, torus, full, regular:K, or a file of edges.
        rounds: of the run.
        steps: minibatch steps on each box per round.
        batch: images per step.
        rate: learning rate.
        momentum: heavy ball, 0 to below 1.
        nesterov: its look-ahead form.
        weight_decay: 0 to below 1.
        schedule: of the rate: constant, cosine or step.
        seed: of everything that is drawn.
        tables: settings of the methods, by method.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    format: Literal[1]
    name: Name
    branch: Name
    boxes: tuple[Name, ...] = Field(min_length=2, max_length=_MOST_BOXES)
    meet: Annotated[str, Field(pattern=r"^\S{1,255}:[0-9]{1,5}$")] | None = None
    graph: Annotated[str, Field(min_length=1, max_length=4096)] = "ring"
    rounds: int = Field(default=100, ge=1, le=1_000_000)
    steps: int = Field(default=1, ge=1, le=10_000)
    batch: int = Field(default=16, ge=1, le=65_536)
    rate: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)] = 0.05
    momentum: float = Field(default=0.0, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(default=0.0, ge=0, lt=1)
    schedule: Literal["constant", "cosine", "step"] = "constant"
    seed: int = Field(default=0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _names(self) -> Self:
        twice = sorted({box for box in self.boxes if self.boxes.count(box) > 1})
        if twice:
            raise ValueError(f"boxes: {twice[0]!r} stands there twice; expected each box once")
        if self.name in self.boxes:
            raise ValueError(
                f"name: {self.name!r} is one of its boxes; expected a name of its own for the group"
            )
        return self


class Run:
    """A group and a method, with what the command line changed: what all boxes must agree on.

    Args:
        group: of the file, with the changes.
        method: its name.
        table: the method's settings, as the file gives them.

    Attributes:
        group: as given.
        method: as given.
        settings: of the method, checked.
        graph: who is whose neighbour.
        local: how a box steps on its own images.
        record: all of it, as the branch file will say it; the same on every box.

    Raises:
        UsageError: something is out of its range, or the graph is none of so many boxes.
    """

    def __init__(self, group: Group, method: str, table: dict[str, Any]) -> None:
        self.group, self.method, self._table = group, method, table
        if method == "pca" and "start" not in table:  # of a run whose length is known
            start = PCASettings.for_steps(group.rounds * group.steps).start
            table = {**table, "start": start}
        self.settings = method_settings(method, table)
        self.graph = Graph.make(group.graph, len(group.boxes), seed=group.seed)
        self.local = LocalSettings(
            rate=group.rate,
            rounds=group.rounds,
            steps=group.steps,
            momentum=group.momentum,
            nesterov=group.nesterov,
            weight_decay=group.weight_decay,
            schedule=group.schedule,
        )
        self.record = self._record()

    @property
    def graph_name(self) -> str:
        """Return the kind of graph; ``file`` for one of a file: no path leaves the box."""
        if self.method in STARS:
            return "star"
        if self.group.graph.startswith(GRAPH_DRAWN):
            return f"{GRAPH_DRAWN}{len(self.graph.neighbours[0])}"
        return self.group.graph if self.group.graph in _KNOWN_GRAPHS else GRAPH_FILE

    @property
    def digest(self) -> str:
        """Return the sha256 of everything that must be the same on every box."""
        document = self.group.model_dump(mode="json", exclude={"meet"})
        facts = {
            "group": document | {"graph": [list(row) for row in self.graph.neighbours]},
            "method": self.method,
            "settings": self._table,
        }
        return hashlib.sha256(canonical_json(facts).encode()).hexdigest()

    def _record(self) -> Cotrained:
        group, name = self.group, self.graph_name
        # Of all boxes of the group: one that is lost on the way leaves its mark on the others.
        boxes = sorted(group.boxes)
        own = None if self.settings is None else asdict(self.settings)
        edges = [(a, b) for a, row in enumerate(self.graph.neighbours) for b in row if a < b]
        settings = {
            "ranks": [group.boxes.index(box) for box in boxes],
            "steps": group.steps,
            "batch": group.batch,
            "rate": group.rate,
            "schedule": group.schedule,
            "momentum": group.momentum,
            "nesterov": group.nesterov,
            "weight_decay": group.weight_decay,
            "edges": edges if told_by_edges(name) else None,
            "own": own,
        }
        document = {"method": self.method, "boxes": boxes, "rounds": group.rounds, "graph": name}
        try:
            return Cotrained.model_validate_json(
                json.dumps(document | {"settings": settings}, allow_nan=False)
            )
        except ValidationError as error:
            raise UsageError(
                f"group file: a branch file cannot say what it has: {describe(error, Cotrained)}. "
                "Correct it"
            ) from None


def read_group(path: Path, method: str, plan: Plan, changes: dict[str, Any]) -> Run:
    """Read a group file.

    Args:
        path: of the file.
        method: which method is to run.
        plan: has the group's branch.
        changes: of the command line, by key.

    Raises:
        UsageError: the file is none, a key is unknown or wrong, or the branch is not in the plan.
    """
    if method not in METHODS:
        raise UsageError(f"{method}: not a method{nearest(method, METHODS)}")
    document, tables = _read(path)
    try:
        # Through JSON, because a strict tuple takes a JSON array but no Python list.
        group = Group.model_validate_json(json.dumps(document | changes, allow_nan=False))
    except ValidationError as error:
        raise UsageError(f"{path}: {describe(error, Group)}") from None
    except (TypeError, ValueError) as error:
        raise UsageError(f"{path}: holds a value that no group has: {error}") from None
    names = [branch.name for branch in plan.branches]
    if group.branch not in names:
        raise UsageError(
            f"{path}: branch: {group.branch!r} is not in the plan{nearest(group.branch, names)}"
        )
    return Run(group, method, tables.get(method, {}))


def read_tables(path: Path) -> dict[str, dict[str, Any]]:
    """Return the settings of methods, by method: of a file of them alone, or of a group file.

    Raises:
        UsageError: the file is none, has no such table, or a key or a value is wrong.
    """
    _, tables = _read(path)
    if not tables:
        raise UsageError(
            f"{path}: no settings of a method; expected tables like [jwins]. Write one "
            "(docs/cotrain.md), or leave --settings out"
        )
    return tables


def _read(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return the keys of a group and the settings of methods that a file has."""
    document = read_document(path)
    tables = take_tables(document, where=str(path))
    for key in document:
        if key not in Group.model_fields:
            known = [*Group.model_fields, *METHODS]
            raise UsageError(f"{path}: {key}: unknown key{nearest(key, known)}")
    return document, tables

"""Options that several verbs share."""

import enum
from pathlib import Path
from typing import Annotated

import typer


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress and no notes.")]
PlanFile = Annotated[
    Path, typer.Argument(metavar="PLAN", help="The plan file.", show_default=False)
]
ImageFolder = Annotated[
    Path,
    typer.Argument(
        metavar="IMAGES",
        help="A folder of class folders, or a folder with labels.csv (file_name,label).",
        show_default=False,
    ),
]
EnsembleFile = Annotated[
    Path, typer.Argument(metavar="ENSEMBLE", help="An ensemble file.", show_default=False)
]
Epochs = Annotated[
    int | None, typer.Option(min=1, help="Instead of the plan's.", show_default=False)
]
Jobs = Annotated[
    int | None,
    typer.Option(min=1, help="Boxes at a time; by default one per core.", show_default=False),
]


class EngineName(enum.StrEnum):
    """What runs many calls of the agent."""

    local = "local"
    ray = "ray"


Engine = Annotated[
    EngineName,
    typer.Option(help="local: processes on this machine; ray: Ray tasks, here or on a cluster."),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        help="Ray cluster to use, like auto or HOST:6379; by default Ray is started here.",
        metavar="ADDRESS",
        show_default=False,
    ),
]

"""Options that several verbs share."""

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
